//! Looking at an outbox.

use super::DECLARE_NOW;
use crate::config::Names;

/// The relays whose heartbeat has not run out, and then the partitions with who holds them.
pub(super) fn group(names: &Names) -> String {
    let Names { relay, lease, .. } = names;
    format!(
        "{DECLARE_NOW}
SELECT relay_id FROM {relay} WHERE expires_at > @now ORDER BY relay_id;
SELECT partition, CASE WHEN expires_at > @now THEN owner END FROM {lease} ORDER BY partition;"
    )
}

/// Rows in position order. `@P1`: after which position; `@P2`: how many. Rows of open transactions are not shown, or
/// not waited for.
pub(super) fn peek(names: &Names, hints: &str) -> String {
    format!(
        "SELECT TOP (@P2) m.position, m.partition, m.attempts, m.blocks_key, m.last_error, m.enqueued_at, m.available_at,
    m.message_id, m.topic, m.[key], m.payload, m.content_type, m.headers, m.options
FROM {message} AS m{hints} WHERE m.position > @P1 ORDER BY m.position OPTION (MAXDOP 1);",
        message = names.message
    )
}

/// What the database is: its name, whether it can be written to, whether it keeps versions of rows, whether a commit may
/// return before it is on the disk.
pub(crate) const DATABASE: &str =
    "SELECT d.name, CASE WHEN DATABASEPROPERTYEX(d.name, 'Updateability') = 'READ_WRITE' THEN 1 ELSE 0 END,
    CONVERT(int, d.is_read_committed_snapshot_on), CONVERT(int, d.delayed_durability)
FROM sys.databases AS d WHERE d.database_id = DB_ID();";

/// The age in seconds of the oldest open transaction in this database. It needs the right `VIEW SERVER STATE`, or
/// `VIEW DATABASE STATE` in Azure.
pub(crate) const TRANSACTIONS: &str =
    "SELECT DATEDIFF_BIG(second, MIN(t.database_transaction_begin_time), SYSDATETIME())
FROM sys.dm_tran_database_transactions AS t WHERE t.database_id = DB_ID() AND t.database_transaction_begin_time IS NOT NULL;";

/// Which of a relay's rights this user has on one table. `@P1`: the table's name.
pub(crate) const RIGHTS: &str = "SELECT CASE WHEN HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'SELECT') = 1
    AND HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'INSERT') = 1 AND HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'UPDATE') = 1
    AND HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'DELETE') = 1 THEN 1 ELSE 0 END;";

/// How many indexes of a table are enabled. `@P1`: the table's name.
pub(crate) const INDEXES: &str = "SELECT COUNT(*) FROM sys.indexes AS i
WHERE i.object_id = OBJECT_ID(@P1) AND i.index_id > 0 AND i.is_disabled = 0;";

/// The present, as the columns have it.
pub(crate) const CLOCK: &str = "SELECT CONVERT(datetime2(6), SYSUTCDATETIME());";
