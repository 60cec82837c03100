//! Settling.

use super::{DECLARE_LIST, DECLARE_NOW, SEEK, positions, text};
use crate::config::Names;

/// What the tables of messages, dead letters and delivered messages have in common.
pub(super) const COMMON: &str = "position, message_id, topic, [key], payload, content_type, headers, options, partition, \
                                 attempts, enqueued_at";

fn of(table: &str, columns: &str) -> String {
    columns.split(", ").map(|column| format!("{table}.{column}")).collect::<Vec<_>>().join(", ")
}

/// `OUTPUT` of deleted rows into the table of delivered ones.
fn kept(names: &Names) -> String {
    format!("\nOUTPUT {} INTO {} ({COMMON})", of("deleted", COMMON), names.delivered)
}

/// `@P1`: positions, each with the message id and the time of enqueueing. Deletes those rows that block no key, which is nearly always all
/// of them, and says how many.
pub(super) fn deliver(names: &Names, keep: bool) -> String {
    format!(
        "DELETE m{kept}
FROM OPENJSON(@P1) WITH (position bigint '$[0]', id uniqueidentifier '$[1]', time datetime2(6) '$[2]') AS s
INNER JOIN {message} AS m WITH (FORCESEEK, ROWLOCK) ON m.position = s.position
WHERE m.blocks_key = 0 AND m.message_id = s.id AND m.enqueued_at = s.time {SEEK};
SELECT @@ROWCOUNT;",
        kept = if keep { kept(names) } else { String::new() },
        message = names.message,
    )
}

/// `@P1`: what is in the column, which is the primary key.
pub(super) fn delete(table: &str, column: &str) -> String {
    format!(
        "DELETE m FROM {} INNER JOIN {table} AS m WITH (FORCESEEK, ROWLOCK) ON m.{column} = s.position {SEEK}",
        positions("@P1")
    )
}

/// `@P1`: positions.
pub(super) fn delete_and_keep(names: &Names) -> String {
    format!(
        "DELETE m{kept}
FROM {positions} INNER JOIN {message} AS m WITH (FORCESEEK, ROWLOCK) ON m.position = s.position {SEEK}",
        kept = kept(names),
        positions = positions("@P1"),
        message = names.message,
    )
}

/// `@P1`: partitions. Keeps others from settling in them, and from taking them, until the transaction ends; gives their
/// owners. It writes what is there already: an update locks what it touches whatever hints a server knows.
pub(super) fn lock_leases(names: &Names) -> String {
    format!(
        "UPDATE l SET expires_at = l.expires_at OUTPUT inserted.partition, inserted.owner
FROM OPENJSON(@P1) WITH (partition smallint '$') AS s
INNER JOIN {} AS l WITH (FORCESEEK) ON l.partition = s.partition {SEEK}",
        names.lease
    )
}

/// `@P1`: what is in the column, which is the primary key. Locks rows in the same way, and tells what they are.
pub(super) fn lock_rows(table: &str, column: &str) -> String {
    format!(
        "UPDATE m SET attempts = m.attempts
OUTPUT inserted.{column}, inserted.partition, inserted.key_hash, inserted.blocks_key, inserted.message_id,
    inserted.enqueued_at, inserted.position
FROM {} INNER JOIN {table} AS m WITH (FORCESEEK, ROWLOCK) ON m.{column} = s.position {SEEK}",
        positions("@P1")
    )
}

/// Rows with positions, attempts, whether to block, whether to wait, and when to try again, in seconds and
/// microseconds; the error as a text.
pub(super) fn retry(names: &Names) -> String {
    format!(
        "{DECLARE_LIST}
{DECLARE_NOW}
UPDATE m SET attempts = s.attempts, last_error = {error}, blocks_key = s.blocks,
    available_at = CASE WHEN s.waits = 1 THEN {never}
        ELSE DATEADD(microsecond, s.microseconds, DATEADD(second, s.seconds, @now)) END
FROM OPENJSON(@list) WITH (
    position bigint '$[0]', attempts int '$[1]', blocks int '$[2]', waits int '$[3]', seconds int '$[4]',
    microseconds int '$[5]', error_at int '$[6]', error_length int '$[7]'
) AS s
INNER JOIN {message} AS m WITH (FORCESEEK) ON m.position = s.position {SEEK}",
        error = text("s", "error"),
        never = super::NEVER,
        message = names.message,
    )
}

/// Rows with positions, attempts and whether to block; the error as a text. Copies the rows as they are, readable or
/// not.
pub(super) fn bury(names: &Names) -> String {
    let Names { message, dead_letter, .. } = names;
    let list = "OPENJSON(@list) WITH (
    position bigint '$[0]', attempts int '$[1]', blocks int '$[2]', error_at int '$[3]', error_length int '$[4]'
) AS s";
    format!(
        "{DECLARE_LIST}
INSERT INTO {dead_letter} ({COMMON}, key_hash, blocks_key, last_error)
SELECT {values}, m.key_hash, s.blocks, {error}
FROM {list}
INNER JOIN {message} AS m WITH (FORCESEEK) ON m.position = s.position {SEEK};",
        values = of("m", COMMON).replace("m.attempts", "s.attempts"),
        error = text("s", "error"),
    )
}
