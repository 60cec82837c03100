//! Counting, purging, and looking after dead letters.

use super::settling::COMMON;
use super::{DECLARE_NOW, SEEK};
use crate::config::Names;

/// How many rows are looked at for the oldest one that is not scheduled for later.
const LAG_DEPTH: usize = 10_000;

/// `@P1`, `@P2`: age in seconds and microseconds; `@P3`: most rows.
pub(super) fn purge(names: &Names) -> String {
    let delivered = &names.delivered;
    format!(
        "DECLARE @end datetime2(6) = DATEADD(microsecond, -@P2, DATEADD(second, -@P1, SYSUTCDATETIME()));
DELETE d FROM (
    SELECT TOP (@P3) o.delivered_at, o.position FROM {delivered} AS o
    WHERE o.delivered_at <= @end ORDER BY o.delivered_at, o.position
) AS s INNER JOIN {delivered} AS d ON d.delivered_at = s.delivered_at AND d.position = s.position
OPTION (LOOP JOIN, FORCE ORDER, MAXDOP 1);
SELECT @@ROWCOUNT;"
    )
}

/// `@P1`: how far to count. Rows of open transactions are not counted, or not waited for.
///
/// A row that is scheduled and whose time has not come is not late, however long ago it was enqueued.
pub(super) fn stats(names: &Names, hints: &str) -> String {
    let Names { message, dead_letter, .. } = names;
    format!(
        "{DECLARE_NOW}
SELECT (SELECT COUNT_BIG(*) FROM (SELECT TOP (@P1) 1 AS one FROM {message} AS m{hints}) AS c),
    (SELECT COUNT_BIG(*) FROM (SELECT TOP (@P1) 1 AS one FROM {dead_letter} AS d{hints}) AS c),
    @now,
    (SELECT TOP (1) o.enqueued_at FROM (
        SELECT TOP ({LAG_DEPTH}) m.position, m.enqueued_at, m.available_at, m.blocks_key, m.attempts
        FROM {message} AS m{hints} ORDER BY m.position
    ) AS o
    WHERE o.available_at IS NULL OR o.available_at <= @now OR o.blocks_key = 1 OR o.attempts > 0
    ORDER BY o.position);"
    )
}

/// Numbers and partitions of dead letters: before and behind the condition, whose first parameter is `@P2`. `@P1`: most rows.
pub(super) fn pick_dead(names: &Names) -> (String, String) {
    let begin = format!("SELECT TOP (@P1) d.number, d.partition FROM {} AS d\nWHERE ", names.dead_letter);
    (begin, "\nORDER BY d.position, d.enqueued_at, d.number".to_owned())
}

/// As [`pick_dead`], whole ones.
pub(super) fn list_dead(names: &Names) -> (String, String) {
    let begin = format!(
        "SELECT TOP (@P1) d.position, d.attempts, d.blocks_key, d.last_error, d.enqueued_at, d.died_at,
    d.message_id, d.topic, d.[key], d.payload, d.content_type, d.headers, d.options
FROM {} AS d
WHERE ",
        names.dead_letter
    );
    (begin, "\nORDER BY d.position, d.enqueued_at, d.number".to_owned())
}

/// The lowest position of all messages. It may be below zero; see [`outbox_sql::dead_letters::places`].
pub(super) fn lowest(names: &Names) -> String {
    format!("SELECT MIN(m.position) FROM {} AS m", names.message)
}

/// `@P1`: numbers of dead letters, each with a position. Puts them back there, due at once. The session has to allow positions of its own,
/// by a batch before: within `sp_executesql` that would end with it, and not every server would see it in time.
pub(super) fn redrive(names: &Names) -> String {
    let Names { message, dead_letter, .. } = names;
    // The database computes the partition anew, from the same columns.
    let columns = COMMON.replace("position, ", "").replace("partition, ", "");
    let values: Vec<String> = columns
        .split(", ")
        .map(|column| if column == "attempts" { "0".to_owned() } else { format!("d.{column}") })
        .collect();
    format!(
        "{DECLARE_NOW}
INSERT INTO {message} (position, {columns}, blocks_key, available_at, last_error)
SELECT s.place, {values}, d.blocks_key, @now, d.last_error
FROM OPENJSON(@P1) WITH (number bigint '$[0]', place bigint '$[1]') AS s
INNER JOIN {dead_letter} AS d WITH (FORCESEEK) ON d.number = s.number {SEEK};",
        values = values.join(", "),
    )
}
