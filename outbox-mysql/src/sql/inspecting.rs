//! Looking at an outbox. Nothing here changes anything.

use super::reading::CONTENT;
use super::{NOW, micros, of};
use crate::config::Names;

/// The relays that are alive.
pub(super) fn relays(names: &Names) -> String {
    format!("SELECT `relay_id` FROM {} WHERE `expires_at` > {NOW} ORDER BY `relay_id`", names.relay)
}

/// The partitions, and who holds them.
pub(super) fn owners(names: &Names) -> String {
    format!(
        "SELECT `partition`, IF(`expires_at` > {NOW}, `owner`, NULL) FROM {} ORDER BY `partition`",
        names.lease
    )
}

/// Rows in position order. Parameters: after which position, how many.
pub(super) fn peek(names: &Names) -> String {
    format!(
        "SELECT m.`position`, m.`partition`, m.`attempts`, m.`blocks_key`, m.`last_error`, {enqueued_at}, {available_at},
    {content}
FROM {message} AS m FORCE INDEX (PRIMARY) WHERE m.`position` > ? ORDER BY m.`position` LIMIT ?",
        enqueued_at = micros("m.`enqueued_at`"),
        available_at = micros("m.`available_at`"),
        content = of("m", CONTENT),
        message = names.message,
    )
}

/// The present, in microseconds since 1970.
pub(super) fn clock() -> String {
    format!("SELECT {}", micros(NOW))
}

/// Dead letters that match. Parameters: those of the condition, how far to count.
pub(super) fn count_dead(names: &Names, condition: &str) -> String {
    format!(
        "SELECT COUNT(*) FROM (SELECT 1 FROM {} AS d WHERE {condition} LIMIT ?) AS counted",
        names.dead_letter
    )
}
