//! Looking at an outbox. Nothing here changes anything.

use outbox_sql::postgres::Names;

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

/// Those of some rights that the role lacks. `$1`, `$2`: tables and rights; `$3`, `$4`: sequences and rights.
pub(crate) const LACKING: &str =
    "SELECT name, right_name FROM unnest($1::text[], $2::text[]) AS t (name, right_name)
WHERE NOT has_table_privilege(name, right_name)
UNION ALL
SELECT name, right_name FROM unnest($3::text[], $4::text[]) AS s (name, right_name)
WHERE NOT has_sequence_privilege(name, right_name)";

/// Roles that may insert messages and may not read the sequence, which each insert does. `$1`: the table; `$2`: the sequence.
pub(crate) const INSERTING: &str = r"SELECT rolname::text FROM pg_roles
WHERE has_any_column_privilege(oid, $1, 'INSERT') AND NOT has_sequence_privilege(oid, $2, 'SELECT')
    AND rolname NOT LIKE 'pg\_%'
ORDER BY rolname";

/// How positions are drawn: how many a session draws at a time, the step, and whether they start over. `$1`: the table.
pub(crate) const POSITIONS: &str = "SELECT seqcache, seqincrement, seqcycle FROM pg_sequence
WHERE seqrelid = pg_get_serial_sequence($1, 'position')::regclass";

/// Whether PostgreSQL refuses to update and delete rows of a table because a publication cannot tell which they are, and the
/// publications. `$1`: the table.
///
/// The options of a publication are read as JSON, since the one for generated columns came with version 18. Before that version it
/// is not asked for.
pub(crate) const UNPUBLISHABLE: &str = "SELECT p.pubname::text,
    c.relreplident = 'n' OR (c.relreplident = 'd' AND NOT EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
    ))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_publication_tables t ON t.schemaname = n.nspname AND t.tablename = c.relname
JOIN pg_publication p ON p.pubname = t.pubname
WHERE c.oid = $1::regclass AND (p.pubupdate OR p.pubdelete) AND (
    c.relreplident = 'n'
    OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
    OR (coalesce(to_jsonb(p) ->> 'pubgencols', 's') <> 's' AND EXISTS (
        SELECT FROM pg_attribute a
        LEFT JOIN pg_index i ON i.indrelid = c.oid
            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
        WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND (c.relreplident = 'f' OR a.attnum = ANY(i.indkey))
    ))
)
ORDER BY p.pubname";

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
    pg_notification_queue_usage(),
    current_setting('max_prepared_transactions')::integer, current_setting('server_encoding')";

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
