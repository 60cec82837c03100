//! The server, relays and leases.

use super::DECLARE_NOW;
use crate::config::Names;
use crate::error::LOCK_NOT_GRANTED;

/// What the server and the database are: whether it is Babelfish, its major version, the compatibility level, and
/// whether readers get row versions instead of waiting for locks. Then whether the outbox's tables are there.
pub(super) fn server(names: &Names) -> String {
    format!(
        "SELECT CONVERT(int, SERVERPROPERTY('babelfish')), CONVERT(int, SERVERPROPERTY('ProductMajorVersion')),
    CONVERT(int, SERVERPROPERTY('EngineEdition')), CONVERT(int, d.compatibility_level),
    CONVERT(int, d.is_read_committed_snapshot_on),
    CASE WHEN OBJECT_ID({}) IS NULL THEN 0 ELSE 1 END
FROM sys.databases AS d WHERE d.database_id = DB_ID()",
        crate::config::literal(&names.meta)
    )
}

pub(super) fn read_meta(names: &Names) -> String {
    format!("SELECT schema_version, partitions FROM {}", names.meta)
}

/// `{resource}` and milliseconds: an exclusive lock until the transaction ends.
fn app_lock(resource: &str, milliseconds: &str) -> String {
    format!(
        "DECLARE @locked int;
EXEC @locked = sp_getapplock @Resource = {resource}, @LockMode = 'Exclusive', @LockOwner = 'Transaction', @LockTimeout = {milliseconds};
IF @locked < 0 THROW {LOCK_NOT_GRANTED}, N'another process holds the lock and does not finish', 1;"
    )
}

/// `@P1`: a resource. Waits for less than tiberius' `command_timeout` of 30 s.
pub(super) fn lock() -> String {
    app_lock("@P1", "25000")
}

/// `@P1`: the relay; `@P2`, `@P3`: its time to live in seconds and microseconds; `@P4`: the lock of the group.
///
/// Waits for its turn, so that each sees the relays and the leases as the one before left them. Drops relays that are
/// gone, adds or renews this one, and extends its leases; an own lease that has expired is still ours as long as nobody
/// else has taken it. Gives how many relays there are, how many of them come before this one, and how many partitions;
/// then the partitions it has.
pub(super) fn join(names: &Names) -> String {
    let Names { relay, lease, .. } = names;
    format!(
        "{locked}
{DECLARE_NOW}
DECLARE @end datetime2(6) = DATEADD(microsecond, @P3, DATEADD(second, @P2, @now));
DELETE FROM {relay} WHERE expires_at <= @now AND relay_id <> @P1;
UPDATE {relay} SET expires_at = @end WHERE relay_id = @P1;
IF @@ROWCOUNT = 0 INSERT INTO {relay} (relay_id, expires_at) VALUES (@P1, @end);
UPDATE {lease} SET expires_at = @end WHERE owner = @P1;
SELECT (SELECT COUNT(*) FROM {relay}), (SELECT COUNT(*) FROM {relay} WHERE relay_id < @P1),
    (SELECT COUNT(*) FROM {lease});
SELECT partition FROM {lease} WHERE owner = @P1 ORDER BY partition;",
        locked = app_lock("@P4", "15000"),
    )
}

/// `@P1`: the relay; `@P2`, `@P3`: its time to live; `@P4`: most partitions. Takes free and expired ones. Waits for a
/// former owner that is just settling.
pub(super) fn claim(names: &Names) -> String {
    let lease = &names.lease;
    format!(
        "{DECLARE_NOW}
UPDATE {lease} SET owner = @P1, expires_at = DATEADD(microsecond, @P3, DATEADD(second, @P2, @now))
OUTPUT inserted.partition
WHERE partition IN (
    SELECT TOP (@P4) f.partition FROM {lease} AS f
    WHERE f.owner IS NULL OR (f.owner <> @P1 AND f.expires_at <= @now) ORDER BY f.partition)"
    )
}

/// `@P1`: the relay; `@P2`: partitions.
pub(super) fn release(names: &Names) -> String {
    format!(
        "UPDATE {} SET owner = NULL, expires_at = NULL
WHERE owner = @P1 AND partition IN (SELECT s.partition FROM OPENJSON(@P2) WITH (partition smallint '$') AS s)",
        names.lease
    )
}

/// `@P1`: the relay; `@P2`: the lock of the group. Within a transaction.
pub(super) fn leave(names: &Names) -> String {
    let Names { relay, lease, .. } = names;
    format!(
        "{locked}
DELETE FROM {relay} WHERE relay_id = @P1;
UPDATE {lease} SET owner = NULL, expires_at = NULL WHERE owner = @P1",
        locked = app_lock("@P2", "15000"),
    )
}
