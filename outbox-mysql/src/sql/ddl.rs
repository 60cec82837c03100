//! The tables.

use super::NOW;
use crate::config::Names;

/// The version of the tables that this library makes and knows.
pub(crate) const SCHEMA_VERSION: i32 = 1;

/// The time that never comes.
pub(crate) const NEVER: &str = "TIMESTAMP'9999-12-31 23:59:59.999999'";

/// Texts are compared character by character. Where spaces at the end matter, bytes are compared.
const TABLE: &str = "ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

/// A hash of the key, of rows that block it. There are no partial indexes here; in an index on this column the rows
/// that block nothing lie out of the way. It is one by which keys cannot be forged to meet.
const BLOCKING: &str = "BINARY(32) AS (IF(`blocks_key`, UNHEX(SHA2(`key`, 256)), NULL)) STORED";

/// What makes the tables. Each statement can be run again.
pub(super) fn tables(names: &Names) -> Vec<String> {
    let Names { message, dead_letter, delivered, lease, relay, meta, partitions, .. } = names;
    // Positions are not unique among dead letters: a server that loses its latest commits assigns their positions again.
    vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {meta} (
    `only_row` TINYINT NOT NULL PRIMARY KEY,
    `schema_version` INT NOT NULL,
    `partitions` INT NOT NULL
) {TABLE}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {message} (
    `position` BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    `writer` BIGINT NOT NULL DEFAULT (CONNECTION_ID()),
    `message_id` BINARY(16) NOT NULL DEFAULT (UNHEX(REPLACE(UUID(), '-', ''))),
    `topic` TEXT NOT NULL,
    `key` MEDIUMTEXT,
    `payload` LONGBLOB NOT NULL,
    `content_type` TEXT,
    `headers` JSON NOT NULL DEFAULT ('{{}}'),
    `options` JSON NOT NULL DEFAULT ('{{}}'),
    `partition` SMALLINT UNSIGNED AS (IF(`key` IS NULL, CRC32(`message_id`), CRC32(`key`)) % {partitions}) STORED,
    `size` BIGINT UNSIGNED AS (LENGTH(`payload`)) STORED,
    `attempts` INT UNSIGNED NOT NULL DEFAULT 0,
    `available_at` DATETIME(6),
    `blocks_key` BOOLEAN NOT NULL DEFAULT FALSE,
    `blocking` {BLOCKING},
    `last_error` TEXT,
    `enqueued_at` DATETIME(6) NOT NULL DEFAULT ({NOW}),
    KEY `due` (`partition`, `available_at`),
    KEY `blocking` (`blocking`, `partition`)
) {TABLE}
COMMENT 'A transactional outbox. Insert topic and payload, and key, headers, content_type, message_id, options or \
             available_at (UTC) as needed; all other columns belong to the outbox.'"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {dead_letter} (
    `number` BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    `position` BIGINT NOT NULL,
    `message_id` BINARY(16) NOT NULL,
    `topic` TEXT NOT NULL,
    `key` MEDIUMTEXT,
    `payload` LONGBLOB NOT NULL,
    `content_type` TEXT,
    `headers` JSON NOT NULL,
    `options` JSON NOT NULL,
    `partition` SMALLINT UNSIGNED NOT NULL,
    `attempts` INT UNSIGNED NOT NULL,
    `blocks_key` BOOLEAN NOT NULL,
    `blocking` {BLOCKING},
    `last_error` TEXT,
    `enqueued_at` DATETIME(6) NOT NULL,
    `died_at` DATETIME(6) NOT NULL DEFAULT ({NOW}),
    KEY `position` (`position`),
    KEY `blocking` (`blocking`, `partition`, `position`)
) {TABLE}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {delivered} (
    `position` BIGINT NOT NULL,
    `message_id` BINARY(16) NOT NULL,
    `topic` TEXT NOT NULL,
    `key` MEDIUMTEXT,
    `payload` LONGBLOB NOT NULL,
    `content_type` TEXT,
    `headers` JSON NOT NULL,
    `options` JSON NOT NULL,
    `partition` SMALLINT UNSIGNED NOT NULL,
    `attempts` INT UNSIGNED NOT NULL,
    `enqueued_at` DATETIME(6) NOT NULL,
    `delivered_at` DATETIME(6) NOT NULL DEFAULT ({NOW}),
    PRIMARY KEY (`delivered_at`, `position`)
) {TABLE}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {lease} (
    `partition` SMALLINT UNSIGNED NOT NULL PRIMARY KEY,
    `owner` BINARY(16),
    `expires_at` DATETIME(6)
) {TABLE}"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {relay} (
    `relay_id` BINARY(16) NOT NULL PRIMARY KEY,
    `expires_at` DATETIME(6) NOT NULL
) {TABLE}"
        ),
    ]
}

/// The first rows. The one with the version comes last: with it, the tables are complete.
pub(super) fn rows(names: &Names) -> Vec<String> {
    let Names { lease, meta, partitions, .. } = names;
    let numbers: Vec<String> = (0..*partitions).map(|number| format!("({number})")).collect();
    vec![
        format!("INSERT IGNORE INTO {lease} (`partition`) VALUES {}", numbers.join(", ")),
        format!(
            "INSERT IGNORE INTO {meta} (`only_row`, `schema_version`, `partitions`) VALUES (1, {SCHEMA_VERSION}, {partitions})"
        ),
    ]
}
