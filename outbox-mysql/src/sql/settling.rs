//! Settling, and the blocking of keys that goes with it.
//!
//! A row waits for its turn where `available_at` is the time that never comes and `blocks_key` is set. Whatever is
//! written here keeps two things true of the rows of a key that block: the later one is never due before the earlier
//! one, and behind one that retries or is dead all of them wait.

use super::reading::earlier;
use super::{COMMON, NEVER, NO_TIME, NOW, POSITIONS, POSITIONS_TO_LOCK, micros, of};
use crate::config::Names;

/// Rows of a key that are due at a time after a release. It bounds the work of one settle call; each of them that is
/// delivered makes room for another one.
pub(super) const RELEASED: usize = 256;

/// Deletes rows that block nothing. In quiet times these are all. Parameter: a list of positions, ids in hexadecimal digits, and times of
/// enqueueing in microseconds.
pub(super) fn deliver(names: &Names) -> String {
    format!(
        "DELETE m FROM JSON_TABLE(?, '$[*]' COLUMNS (
    `position` BIGINT PATH '$[0]', `id` CHAR(32) PATH '$[1]', `time` BIGINT PATH '$[2]')) AS s
STRAIGHT_JOIN {message} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position`
WHERE NOT m.`blocks_key` AND m.`message_id` = UNHEX(s.`id`) AND COALESCE({time}, {NO_TIME}) = s.`time`",
        message = names.message,
        time = micros("m.`enqueued_at`"),
    )
}

/// Parameter: the list of what is in the column, which is the primary key.
pub(super) fn delete(table: &str, column: &str) -> String {
    format!(
        "DELETE m FROM {POSITIONS} STRAIGHT_JOIN {table} AS m FORCE INDEX (PRIMARY) ON m.`{column}` = s.`position`"
    )
}

/// Keeps others from taking partitions, and from settling there, before the transaction ends: the partitions, and
/// whether a relay owns them. Parameters: the relay, the list of partitions.
pub(super) fn lock_leases(names: &Names) -> String {
    format!(
        "SELECT l.`partition`, l.`owner` <=> ?
FROM {POSITIONS_TO_LOCK} STRAIGHT_JOIN {} AS l FORCE INDEX (PRIMARY) ON l.`partition` = s.`position`
ORDER BY l.`partition` FOR UPDATE",
        names.lease
    )
}

/// The rows at some positions: position, partition, hash of the key, whether it blocks, message id, and time of enqueueing. Parameter: the
/// list.
pub(super) fn lock_rows(names: &Names) -> String {
    format!(
        "SELECT m.`position`, m.`partition`, SHA2(m.`key`, 256), m.`blocks_key`, m.`message_id`, {time}
FROM {POSITIONS_TO_LOCK} STRAIGHT_JOIN {message} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position` FOR UPDATE",
        time = micros("m.`enqueued_at`"),
        message = names.message,
    )
}

/// Those of some positions of keys that something in front blocks. Parameter: a list of positions, partitions, and
/// hashes of keys.
pub(super) fn blocked(names: &Names) -> String {
    format!(
        "SELECT s.`position`
FROM JSON_TABLE(?, '$[*]' COLUMNS (
    `position` BIGINT PATH '$[0]', `partition` SMALLINT UNSIGNED PATH '$[1]', `hash` CHAR(64) PATH '$[2]')) AS s
WHERE {}",
        earlier(names, "s.`partition`", "UNHEX(s.`hash`)", "s.`position`")
    )
}

/// Parameter: a list of positions, attempts, microseconds until the next attempt (`null`: it waits), errors, and
/// whether to block.
pub(super) fn retry(names: &Names) -> String {
    format!(
        "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
    `position` BIGINT PATH '$[0]', `attempts` INT UNSIGNED PATH '$[1]', `after` BIGINT PATH '$[2]',
    `error` TEXT PATH '$[3]', `block` TINYINT PATH '$[4]')) AS s
STRAIGHT_JOIN {} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position`
SET m.`attempts` = s.`attempts`, m.`last_error` = s.`error`, m.`blocks_key` = s.`block`,
    m.`available_at` = COALESCE({NOW} + INTERVAL s.`after` MICROSECOND, {NEVER})",
        names.message
    )
}

/// Parameter: a list of positions, whether they wait, and whether they block.
pub(super) fn set_due(names: &Names) -> String {
    format!(
        "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
    `position` BIGINT PATH '$[0]', `waits` TINYINT PATH '$[1]', `block` TINYINT PATH '$[2]')) AS s
STRAIGHT_JOIN {} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position`
SET m.`blocks_key` = s.`block`, m.`available_at` = IF(s.`waits`, {NEVER}, {NOW})",
        names.message
    )
}

/// Copies rows to the dead letters as they are, readable or not. Parameter: a list of positions, attempts, errors,
/// and whether to block.
pub(super) fn bury(names: &Names) -> String {
    let columns = COMMON.replace("`attempts`, ", "");
    format!(
        "INSERT INTO {dead_letter} ({columns}, `attempts`, `last_error`, `blocks_key`)
SELECT {values}, s.`attempts`, s.`error`, s.`block`
FROM JSON_TABLE(?, '$[*]' COLUMNS (
    `position` BIGINT PATH '$[0]', `attempts` INT UNSIGNED PATH '$[1]', `error` TEXT PATH '$[2]',
    `block` TINYINT PATH '$[3]')) AS s
STRAIGHT_JOIN {message} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position`",
        dead_letter = names.dead_letter,
        values = of("m", &columns),
        message = names.message,
    )
}

/// Parameter: the list of positions.
pub(super) fn keep_delivered(names: &Names) -> String {
    format!(
        "INSERT INTO {delivered} ({COMMON})
SELECT {values} FROM {POSITIONS} STRAIGHT_JOIN {message} AS m FORCE INDEX (PRIMARY) ON m.`position` = s.`position`",
        delivered = names.delivered,
        values = of("m", COMMON),
        message = names.message,
    )
}

/// Whatever of some keys was due behind some positions waits again. Parameter: a list of partitions, hashes of keys,
/// and positions.
pub(super) fn hold_later(names: &Names) -> String {
    format!(
        "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (
    `partition` SMALLINT UNSIGNED PATH '$[0]', `hash` CHAR(64) PATH '$[1]', `position` BIGINT PATH '$[2]')) AS s
STRAIGHT_JOIN {} AS m FORCE INDEX (`blocking`)
    ON m.`partition` = s.`partition` AND m.`blocking` = UNHEX(s.`hash`) AND m.`position` > s.`position`
SET m.`available_at` = {NEVER} WHERE m.`available_at` < {NEVER}",
        names.message
    )
}

/// The first blocking rows of some keys: partition, hash, position, whether it waits for its turn, whether it retries
/// later. Parameters, for each key: partition and hash.
pub(super) fn blocking(names: &Names, keys: usize) -> String {
    let of_one = format!(
        "(SELECT b.`partition`, LOWER(HEX(b.`blocking`)), b.`position`, b.`available_at` = {NEVER}, b.`available_at` > {NOW}
    FROM {} AS b FORCE INDEX (`blocking`) WHERE b.`partition` = ? AND b.`blocking` = UNHEX(?)
    ORDER BY b.`position` LIMIT {RELEASED})",
        names.message
    );
    vec![of_one; keys].join("\nUNION ALL\n")
}

/// The first dead letter that blocks each of some keys. Parameter: a list of partitions and hashes of keys.
pub(super) fn blocking_dead(names: &Names) -> String {
    format!(
        "SELECT s.`partition`, s.`hash`, (SELECT MIN(b.`position`) FROM {} AS b FORCE INDEX (`blocking`)
    WHERE b.`partition` = s.`partition` AND b.`blocking` = UNHEX(s.`hash`))
FROM JSON_TABLE(?, '$[*]' COLUMNS (
    `partition` SMALLINT UNSIGNED PATH '$[0]', `hash` CHAR(64) PATH '$[1]')) AS s",
        names.dead_letter
    )
}

/// The keys of some partitions whose first blocking row waits for its turn, though nothing in front of it can ever
/// end the waiting: partition and hash. Parameters: the list of partitions, how many keys.
pub(super) fn fronts(names: &Names) -> String {
    let super::Names { message, dead_letter, .. } = names;
    format!(
        "SELECT f.`partition`, LOWER(HEX(f.`blocking`)) FROM (
    SELECT b.`partition`, b.`blocking`, MIN(b.`position`) AS `position`
    FROM {message} AS b FORCE INDEX (`blocking`)
    WHERE b.`blocking` >= '' AND b.`partition` IN (SELECT s.`position` FROM {POSITIONS})
    GROUP BY b.`blocking`, b.`partition`
) AS f STRAIGHT_JOIN {message} AS m FORCE INDEX (PRIMARY) ON m.`position` = f.`position`
WHERE m.`available_at` = {NEVER} AND NOT EXISTS (
    SELECT 1 FROM {dead_letter} AS d FORCE INDEX (`blocking`)
    WHERE d.`partition` = f.`partition` AND d.`blocking` = f.`blocking` AND d.`position` < f.`position`)
LIMIT ?"
    )
}
