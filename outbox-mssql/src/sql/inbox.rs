//! The inbox.

use super::{BINARY, ddl, group};
use crate::config::{Names, literal};

/// The statements of an inbox.
#[derive(Clone, Debug)]
pub(crate) struct InboxStatements {
    pub(crate) ddl: String,
    pub(crate) lock: String,
    pub(crate) accept: String,
    pub(crate) purge: String,
}

impl InboxStatements {
    pub(crate) fn new(names: &Names) -> Self {
        let Names { inbox, inbox_age, .. } = names;
        let table = literal(inbox);
        Self {
            // Of two transactions with the same entry the second one waits for the first, and then inserts nothing:
            // IGNORE_DUP_KEY makes a warning of what would be an error.
            ddl: format!(
                "{schema}IF OBJECT_ID({table}) IS NULL CREATE TABLE {inbox} (
    consumer nvarchar(255) COLLATE {BINARY} NOT NULL,
    message_id uniqueidentifier NOT NULL,
    accepted_at datetime2(6) NOT NULL DEFAULT (SYSUTCDATETIME()),
    PRIMARY KEY CLUSTERED (consumer, message_id) WITH (IGNORE_DUP_KEY = ON)
);
IF NOT EXISTS (SELECT 1 FROM sys.indexes WHERE object_id = OBJECT_ID({table}) AND is_primary_key = 0)
    CREATE INDEX {inbox_age} ON {inbox} (accepted_at);
",
                schema = ddl::schema(names),
            ),
            lock: group::lock(),
            accept: format!(
                "INSERT INTO {inbox} (consumer, message_id)
SELECT @P1, @P2 WHERE NOT EXISTS (SELECT 1 FROM {inbox} AS i WHERE i.consumer = @P1 AND i.message_id = @P2)"
            ),
            purge: format!(
                "DECLARE @end datetime2(6) = DATEADD(microsecond, -@P2, DATEADD(second, -@P1, SYSUTCDATETIME()));
DELETE i FROM (
    SELECT TOP (@P3) o.consumer, o.message_id FROM {inbox} AS o
    WHERE o.accepted_at <= @end ORDER BY o.accepted_at
) AS s INNER JOIN {inbox} AS i ON i.consumer = s.consumer AND i.message_id = s.message_id
OPTION (LOOP JOIN, FORCE ORDER, MAXDOP 1);
SELECT @@ROWCOUNT;"
            ),
        }
    }
}
