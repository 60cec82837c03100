//! Counting, purging, and looking after dead letters.

use super::reading::CONTENT;
use super::{COMMON, NOW, POSITIONS_TO_LOCK, micros, of};
use crate::config::Names;

/// How many of the first rows are looked at for the oldest one that is not scheduled for later.
const LAG_DEPTH: usize = 10_000;

/// Parameters: age in microseconds, most rows.
pub(super) fn purge(names: &Names) -> String {
    format!(
        "DELETE FROM {} WHERE `delivered_at` <= {NOW} - INTERVAL ? MICROSECOND ORDER BY `delivered_at`, `position` LIMIT ?",
        names.delivered
    )
}

/// Parameters: how far to count, twice.
///
/// A row that is scheduled and whose time has not come is not late, however long ago it was enqueued.
pub(super) fn stats(names: &Names) -> String {
    let super::Names { message, dead_letter, .. } = names;
    format!(
        "SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM {message} LIMIT ?) AS counted),
    (SELECT COUNT(*) FROM (SELECT 1 FROM {dead_letter} LIMIT ?) AS counted),
    {now},
    (SELECT {enqueued_at} FROM (
        SELECT m.`position`, m.`enqueued_at`, m.`available_at`, m.`blocks_key`, m.`attempts`
        FROM {message} AS m FORCE INDEX (PRIMARY) ORDER BY m.`position` LIMIT {LAG_DEPTH}
    ) AS first
    WHERE first.`available_at` IS NULL OR first.`available_at` <= {NOW} OR first.`blocks_key` OR first.`attempts` > 0
    ORDER BY first.`position` LIMIT 1)",
        now = micros(NOW),
        enqueued_at = micros("first.`enqueued_at`"),
    )
}

/// Dead letters by position: position, attempts, whether it blocks, error, times, and the parts of the message.
/// Parameters: those of the condition, how many.
pub(super) fn list_dead(names: &Names, condition: &str) -> String {
    format!(
        "SELECT d.`position`, d.`attempts`, d.`blocks_key`, d.`last_error`, {enqueued_at}, {died_at}, {content}
FROM {dead_letter} AS d WHERE {condition} ORDER BY d.`position`, d.`enqueued_at`, d.`number` LIMIT ?",
        enqueued_at = micros("d.`enqueued_at`"),
        died_at = micros("d.`died_at`"),
        content = of("d", CONTENT),
        dead_letter = names.dead_letter,
    )
}

/// Numbers and partitions of dead letters. Parameters: as above.
pub(super) fn pick_dead(names: &Names, condition: &str) -> String {
    format!(
        "SELECT d.`number`, d.`partition` FROM {} AS d WHERE {condition} ORDER BY d.`position`, d.`enqueued_at`, d.`number` LIMIT ?",
        names.dead_letter
    )
}

/// Those that are still there, by position: the number, what is read of messages, and the position. Parameter: the list of numbers.
pub(super) fn lock_dead(names: &Names) -> String {
    format!(
        "SELECT d.`number`, d.`partition`, SHA2(d.`key`, 256), d.`blocks_key`, d.`message_id`, {time}, d.`position`
FROM {POSITIONS_TO_LOCK} STRAIGHT_JOIN {dead_letter} AS d FORCE INDEX (PRIMARY) ON d.`number` = s.`position`
ORDER BY d.`position`, d.`enqueued_at`, d.`number` FOR UPDATE",
        time = micros("d.`enqueued_at`"),
        dead_letter = names.dead_letter,
    )
}

/// The lowest position of all messages. It may be below zero; see [`outbox_sql::dead_letters::places`].
pub(super) fn lowest(names: &Names) -> String {
    format!("SELECT MIN(m.`position`) FROM {} AS m", names.message)
}

/// Copies dead letters back. The database computes the partition anew, from the same columns. Parameter: a list of numbers and
/// positions.
pub(super) fn redrive(names: &Names) -> String {
    let columns = COMMON.replace("`position`, ", "").replace("`partition`, ", "").replace("`attempts`, ", "");
    format!(
        "INSERT INTO {message} (`position`, {columns}, `attempts`, `blocks_key`, `available_at`)
SELECT s.`place`, {values}, 0, d.`blocks_key`, {NOW}
FROM JSON_TABLE(?, '$[*]' COLUMNS (`number` BIGINT PATH '$[0]', `place` BIGINT PATH '$[1]')) AS s
STRAIGHT_JOIN {dead_letter} AS d FORCE INDEX (PRIMARY) ON d.`number` = s.`number`",
        message = names.message,
        values = of("d", &columns),
        dead_letter = names.dead_letter,
    )
}
