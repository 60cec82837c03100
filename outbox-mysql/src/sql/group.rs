//! Relays and leases.

use super::NOW;
use crate::config::Names;

/// One relay at a time, so that each sees the relays and the leases as the one before left them.
pub(super) fn lock(names: &Names) -> String {
    format!("SELECT `only_row` FROM {} WHERE `only_row` = 1 FOR UPDATE", names.meta)
}

/// Drops relays that are gone, this one excepted.
pub(super) fn forget(names: &Names) -> String {
    format!("DELETE FROM {} WHERE `expires_at` <= {NOW} AND `relay_id` <> ?", names.relay)
}

/// Adds this relay, or renews it.
pub(super) fn join(names: &Names) -> String {
    format!(
        "INSERT INTO {} (`relay_id`, `expires_at`) VALUES (?, {NOW} + INTERVAL ? MICROSECOND)
ON DUPLICATE KEY UPDATE `expires_at` = VALUES(`expires_at`)",
        names.relay
    )
}

pub(super) fn extend(names: &Names) -> String {
    format!("UPDATE {} SET `expires_at` = {NOW} + INTERVAL ? MICROSECOND WHERE `owner` = ?", names.lease)
}

/// How many relays there are, how many of them come before this one, and how many partitions there are.
pub(super) fn read(names: &Names) -> String {
    let super::Names { relay, lease, .. } = names;
    format!(
        "SELECT COUNT(*), CAST(COALESCE(SUM(`relay_id` < ?), 0) AS SIGNED), (SELECT COUNT(*) FROM {lease}) FROM {relay}"
    )
}

pub(super) fn own(names: &Names) -> String {
    format!("SELECT `partition` FROM {} WHERE `owner` = ? ORDER BY `partition`", names.lease)
}

/// Free and expired partitions. Waits for a former owner that is just settling.
pub(super) fn free(names: &Names) -> String {
    format!(
        "SELECT `partition` FROM {}
WHERE `owner` IS NULL OR (`owner` <> ? AND `expires_at` <= {NOW}) ORDER BY `partition` LIMIT ? FOR UPDATE",
        names.lease
    )
}

pub(super) fn claim(names: &Names) -> String {
    format!(
        "UPDATE {} SET `owner` = ?, `expires_at` = {NOW} + INTERVAL ? MICROSECOND
WHERE `partition` IN (SELECT s.`position` FROM {})",
        names.lease,
        super::POSITIONS
    )
}

pub(super) fn release(names: &Names) -> String {
    format!(
        "UPDATE {} SET `owner` = NULL, `expires_at` = NULL
WHERE `owner` = ? AND `partition` IN (SELECT s.`position` FROM {})",
        names.lease,
        super::POSITIONS
    )
}

pub(super) fn release_all(names: &Names) -> String {
    format!("UPDATE {} SET `owner` = NULL, `expires_at` = NULL WHERE `owner` = ?", names.lease)
}

pub(super) fn leave(names: &Names) -> String {
    format!("DELETE FROM {} WHERE `relay_id` = ?", names.relay)
}
