//! The consumer's inbox.

use super::Names;
use super::ddl::missing_schema;

/// The statements of an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxStatements {
    /// Creates the table. Can be run again.
    pub ddl: String,
    /// Inserts an entry unless it exists. Parameters: consumer (text), message id (uuid, or its text).
    pub accept: String,
    /// Deletes old entries. Parameters: minimum age in microseconds (bigint), maximum number of entries (bigint).
    pub purge: String,
}

impl InboxStatements {
    /// Makes the statements with these names.
    pub fn new(names: &Names) -> Self {
        let Names { inbox, inbox_age, .. } = names;
        let schema = missing_schema(names);
        Self {
            ddl: format!(
                r#"{schema}CREATE TABLE IF NOT EXISTS {inbox} (
    consumer text COLLATE "C" NOT NULL,
    message_id uuid NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id)
);
CREATE INDEX IF NOT EXISTS {inbox_age} ON {inbox} (accepted_at);
"#
            ),
            accept: format!(
                "INSERT INTO {inbox} (consumer, message_id) VALUES ($1, $2::uuid) ON CONFLICT DO NOTHING"
            ),
            // Rows that somebody else is deleting are left to them.
            purge: format!(
                "DELETE FROM {inbox} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {inbox} WHERE accepted_at <= clock_timestamp() - $1 * interval '1 microsecond'
    ORDER BY accepted_at LIMIT $2 FOR UPDATE SKIP LOCKED))"
            ),
        }
    }
}
