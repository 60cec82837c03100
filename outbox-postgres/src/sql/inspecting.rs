//! Looking at an outbox. Nothing here changes anything.

use crate::config::Names;

/// The relays that are alive.
pub(super) fn relays(names: &Names) -> String {
    format!("SELECT relay_id FROM {} WHERE expires_at > now() ORDER BY relay_id", names.relay)
}

/// The partitions, and who holds them.
pub(super) fn owners(names: &Names) -> String {
    format!(
        "SELECT partition, CASE WHEN expires_at > now() THEN owner END FROM {} ORDER BY partition",
        names.lease
    )
}

/// The first rows of every partition, and of these the first. `$1`: after which position; `$2`: most rows; `$3`:
/// partitions. The columns are those of [`Column`](super::Column) up to the last that a message has, then the due time
/// and the error.
pub(super) fn peek(names: &Names) -> String {
    format!(
        "SELECT m.position, m.partition, m.attempts, m.enqueued_at, m.message_id, m.topic, m.key, m.payload,
    m.content_type, m.headers, m.options, NULL::timestamptz, m.blocks_key, m.available_at, m.last_error
FROM generate_series(0, $3 - 1) AS own (partition)
CROSS JOIN LATERAL (
    SELECT m.* FROM {} m
    WHERE m.partition = own.partition AND m.position > $1 ORDER BY m.position LIMIT $2
) m
ORDER BY m.position LIMIT $2",
        names.message
    )
}

/// The rights of a relay on one table. `$1`: the table's name.
pub(crate) const RIGHTS: &str =
    "SELECT has_table_privilege($1, 'SELECT') AND has_table_privilege($1, 'INSERT')
    AND has_table_privilege($1, 'UPDATE') AND has_table_privilege($1, 'DELETE')";

/// The rights of a relay on the sequence. `$1`: its name.
pub(crate) const SEQUENCE_RIGHTS: &str =
    "SELECT has_sequence_privilege($1, 'SELECT') AND has_sequence_privilege($1, 'UPDATE')";

/// How many indexes of a table are to be used, and how many are not. `$1`: the table's name.
pub(crate) const INDEXES: &str =
    "SELECT count(*) FILTER (WHERE indisvalid), count(*) FILTER (WHERE NOT indisvalid)
FROM pg_index WHERE indrelid = $1::regclass";

/// Whether the trigger that wakes relays is there and enabled. `$1`: the table's name.
pub(crate) const TRIGGER: &str = "SELECT count(*) FROM pg_trigger WHERE tgrelid = $1::regclass AND NOT tgisinternal AND tgenabled IN ('O', 'A')";

/// Settings that matter to an outbox.
pub(crate) const SETTINGS: &str = "SELECT current_setting('server_version'), pg_is_in_recovery(),
    current_setting('default_transaction_isolation'),
    current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean,
    pg_notification_queue_usage()";

/// The age of the oldest transaction in seconds and of how many sessions it is not to be seen.
pub(crate) const TRANSACTIONS: &str = "SELECT
    coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)
        FILTER (WHERE pid <> pg_backend_pid())), 0)::double precision,
    (SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
        ORDER BY xact_start LIMIT 1),
    count(*) FILTER (WHERE query = '<insufficient privilege>')
FROM pg_stat_activity WHERE datname = current_database()";

/// Rows and dead rows of a table, its bytes, and how long ago it was last vacuumed, in seconds. `$1`: its name.
pub(crate) const BLOAT: &str = "SELECT n_live_tup, n_dead_tup, pg_total_relation_size($1::regclass),
    extract(epoch FROM now() - greatest(last_autovacuum, last_vacuum))::double precision,
    coalesce((SELECT array_to_string(reloptions, ' ') LIKE '%autovacuum_vacuum_threshold%'
        FROM pg_class WHERE oid = $1::regclass), false)
FROM pg_stat_all_tables WHERE relid = $1::regclass";

/// Who serves this connection.
pub(crate) const BACKEND: &str = "SELECT pg_backend_pid()";
