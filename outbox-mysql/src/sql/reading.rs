//! Fetching.

use super::{NEVER, NOW, POSITIONS, marks, micros, of};
use crate::config::Names;

/// The columns of what a fetch returns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Position,
    Partition,
    Writer,
    Attempts,
    EnqueuedAt,
    /// The present.
    Now,
    /// When it was to be delivered, of a scheduled message that has not been tried.
    DeliverAt,
    Blocked,
    /// The first of the parts of a message.
    MessageId,
    /// Only of the committed read, behind those parts: how many rows it would have brought without the limit of bytes.
    Total = Self::MessageId as isize + 7,
}

/// The last of them, which are the parts of a message.
pub(super) const CONTENT: &str =
    "`message_id`, `topic`, `key`, `payload`, `content_type`, `headers`, `options`";

/// How many ranges of positions a statement has room for. There are few of these numbers, so that there are few
/// statements for the server to prepare; ranges that are left over are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges(usize);

impl Ranges {
    pub(crate) fn for_so_many(count: usize) -> Self {
        Self(count.max(1).next_power_of_two())
    }

    pub(crate) fn count(self) -> usize {
        self.0
    }

    fn condition(self) -> String {
        vec!["m.`position` BETWEEN ? AND ?"; self.0].join(" OR ")
    }
}

/// What a dirty read tells of each row.
const SIGHT: &str = "m.`position`, m.`partition`, m.`writer`, m.`available_at` IS NULL";

/// Parameters: after which position, and how many rows.
pub(super) fn look(names: &Names) -> String {
    format!(
        "SELECT {SIGHT} FROM {} AS m FORCE INDEX (PRIMARY)
WHERE m.`position` > ? ORDER BY m.`position` LIMIT ?",
        names.message
    )
}

/// Parameters: after which position, up to which one, the partitions, and how many rows.
pub(super) fn look_back(names: &Names, partitions: usize) -> String {
    format!(
        "SELECT {SIGHT} FROM {} AS m FORCE INDEX (PRIMARY)
WHERE m.`position` > ? AND m.`position` <= ? AND m.`partition` IN ({}) ORDER BY m.`position` LIMIT ?",
        names.message,
        marks(partitions)
    )
}

/// Parameters: the first and last position of each range.
pub(super) fn look_again(names: &Names, ranges: Ranges) -> String {
    format!("SELECT {SIGHT} FROM {} AS m FORCE INDEX (PRIMARY) WHERE {}", names.message, ranges.condition())
}

/// Which of the positions have a row. Parameter: their list.
pub(super) fn witnesses(names: &Names) -> String {
    format!(
        "SELECT m.`position` FROM {POSITIONS} STRAIGHT_JOIN {} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position`",
        names.message
    )
}

/// Ready rows by position, up to a number of rows and of bytes, one in any case. Behind the usual columns comes how
/// many rows there were before the limit of bytes.
///
/// Parameters: the first and last position of each range; the own partitions; the number of rows, the number of bytes.
pub(super) fn read(names: &Names, ranges: Ranges, partitions: usize) -> String {
    let candidates = format!(
        "SELECT m.`position`, m.`size` FROM {message} AS m FORCE INDEX (PRIMARY)
        WHERE ({ranges}) AND m.`partition` IN ({partitions}) AND m.`available_at` IS NULL
        ORDER BY m.`position` LIMIT ?",
        message = names.message,
        ranges = ranges.condition(),
        partitions = marks(partitions),
    );
    format!(
        "SELECT {columns}, r.`total` FROM (
    SELECT c.*, SUM(c.`size`) OVER (ORDER BY c.`position`) - c.`size` AS `before`, COUNT(*) OVER () AS `total` FROM (
        {candidates}
    ) AS c
) AS r STRAIGHT_JOIN {message} AS m FORCE INDEX (PRIMARY) ON m.`position` = r.`position`
WHERE r.`before` = 0 OR r.`before` < ? ORDER BY m.`position`",
        columns = columns(names),
        message = names.message,
    )
}

/// The rows at some positions, those that are still there. Parameter: the list.
pub(super) fn fetch(names: &Names) -> String {
    format!(
        "SELECT {columns}
FROM {POSITIONS} STRAIGHT_JOIN {message} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position`
ORDER BY m.`position`",
        columns = columns(names),
        message = names.message,
    )
}

/// In the order of [`Column`].
fn columns(names: &Names) -> String {
    format!(
        "m.`position`, m.`partition`, m.`writer`, m.`attempts`, {enqueued_at}, {now},
    CASE WHEN m.`attempts` = 0 AND NOT m.`blocks_key` THEN {available_at} END,
    {blocked},
    {content}",
        enqueued_at = micros("m.`enqueued_at`"),
        now = micros(NOW),
        available_at = micros("m.`available_at`"),
        blocked = blocked(names),
        content = of("m", CONTENT),
    )
}

/// Whether the row `m`, if it does not block by itself, is blocked.
fn blocked(names: &Names) -> String {
    format!(
        "CASE WHEN m.`key` IS NULL OR m.`blocks_key` THEN 0
    WHEN {} IS NULL AND {} IS NULL THEN 0
    ELSE {} END",
        anything(&names.message),
        anything(&names.dead_letter),
        earlier(names, "m.`partition`", "UNHEX(SHA2(m.`key`, 256))", "m.`position`")
    )
}

/// The last of the rows of a table that block a key, or `NULL`: one look at the end of an index, before any row.
pub(super) fn anything(table: &str) -> String {
    format!("(SELECT MAX(a.`blocking`) FROM {table} AS a)")
}

/// Whether something in front of a position blocks a key.
pub(super) fn earlier(names: &Names, partition: &str, hash: &str, position: &str) -> String {
    let exists = |table: &str| {
        format!(
            "EXISTS (SELECT 1 FROM {table} AS b FORCE INDEX (`blocking`)
        WHERE b.`partition` = {partition} AND b.`blocking` = {hash} AND b.`position` < {position})"
        )
    };
    format!("({} OR {})", exists(&names.message), exists(&names.dead_letter))
}

/// The present (the number -1) and, for each partition, its number, the first time that a row waits for, and the first
/// such time that is still to come. Each is one look into an index.
///
/// Parameters, for each partition: its number, three times.
pub(super) fn waiting(names: &Names, partitions: usize) -> String {
    let first = |condition: &str| {
        let time = format!(
            "(SELECT MIN(m.`available_at`) FROM {} AS m WHERE m.`partition` = ? AND m.`available_at` {condition})",
            names.message
        );
        format!("NULLIF({}, {})", micros(&time), micros(NEVER))
    };
    let of_one = format!(
        "SELECT CAST(? AS SIGNED), {}, {}",
        first(">= TIMESTAMP'1000-01-01 00:00:00'"),
        first(&format!("> {NOW}"))
    );
    let present = format!("SELECT -1, {}, NULL", micros(NOW));
    std::iter::once(present)
        .chain(std::iter::repeat_n(of_one, partitions))
        .collect::<Vec<_>>()
        .join("\nUNION ALL\n")
}

/// Due rows, for each partition the first ones by time: position, size and time. None of a partition is at or behind
/// the first ready row that has not been read, because both may be of one key.
///
/// Parameters, for each partition: its number, the position up to which ready rows were read, the first one that is
/// pending; its number, the list of positions in flight, how many rows.
pub(super) fn due(names: &Names, partitions: usize) -> String {
    let message = &names.message;
    let of_one = format!(
        "(SELECT m.`position`, m.`size`, {time} FROM (
        SELECT LEAST(COALESCE((SELECT r.`position` FROM {message} AS r FORCE INDEX (`due`)
            WHERE r.`partition` = ? AND r.`available_at` IS NULL AND r.`position` > ?
            ORDER BY r.`position` LIMIT 1), {end}), ?) AS `bound`
    ) AS unread STRAIGHT_JOIN {message} AS m FORCE INDEX (`due`)
    WHERE m.`partition` = ? AND m.`available_at` >= TIMESTAMP'1000-01-01 00:00:00' AND m.`available_at` <= {NOW}
        AND m.`position` < unread.`bound`
        AND m.`position` NOT IN (SELECT s.`position` FROM {POSITIONS})
    ORDER BY m.`available_at`, m.`position` LIMIT ?)",
        time = micros("m.`available_at`"),
        end = i64::MAX,
    );
    vec![of_one; partitions].join("\nUNION ALL\n")
}
