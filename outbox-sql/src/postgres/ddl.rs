//! The tables.

use super::config::{FUNCTION_QUOTE, Names};

/// The version of the tables that this library makes and knows.
pub const SCHEMA_VERSION: i32 = 1;

/// What a queue needs from autovacuum: a pass after a number of rows, not after a fraction of a table whose size
/// swings between nothing and millions, and without the pauses meant for tables that nobody waits for.
const QUEUE_STORAGE: &str = "autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 10000,
    toast.autovacuum_vacuum_cost_delay = 0";

/// A few rows that are updated every few seconds: room on the page for the new versions keeps the indexes quiet.
const SMALL_STORAGE: &str =
    "fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500";

/// Creates the schema.
pub fn schema(names: &Names) -> String {
    format!("CREATE SCHEMA IF NOT EXISTS {};\n", names.schema)
}

/// Makes the schema if it is missing. `CREATE SCHEMA IF NOT EXISTS` alone needs the right to create schemas even where it exists.
pub fn missing_schema(names: &Names) -> String {
    format!(
        "DO {FUNCTION_QUOTE}
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = '{}') THEN
        CREATE SCHEMA {};
    END IF;
END
{FUNCTION_QUOTE};
",
        names.bare_schema.replace('\'', "''"),
        names.schema
    )
}

/// Creates the tables, indexes, the sequence and the trigger of an outbox.
pub fn tables(names: &Names) -> String {
    let Names {
        message,
        dead_letter,
        delivered,
        lease,
        relay,
        meta,
        notify,
        notify_function,
        sleepers,
        sleepers_literal,
        message_due,
        message_blocking,
        message_due_key,
        dead_letter_blocking,
        dead_letter_position,
        message_literal,
        channel,
        partitions,
        ..
    } = names;
    let last = partitions - 1;
    let asleep = asleep(names);
    let comment = format!(
        "A transactional outbox. Insert topic and payload, and key, headers, content_type, message_id, options or \
         available_at as needed; all other columns belong to the outbox. Version {SCHEMA_VERSION}."
    );
    format!(
        r#"CREATE TABLE {meta} (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    schema_version integer NOT NULL,
    partitions integer NOT NULL
);
INSERT INTO {meta} (schema_version, partitions) VALUES ({SCHEMA_VERSION}, {partitions});

-- The order of the first two columns matters. Defaults are evaluated in the order of the columns, so a transaction
-- has its id before it draws its first position. The relay relies on that to find rows that commit late.
CREATE TABLE {message} (
    xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    message_id uuid NOT NULL DEFAULT gen_random_uuid(),
    topic text NOT NULL,
    key text COLLATE "C",
    payload bytea NOT NULL,
    content_type text,
    headers jsonb NOT NULL DEFAULT '{{}}',
    options jsonb NOT NULL DEFAULT '{{}}',
    partition smallint NOT NULL GENERATED ALWAYS AS
        ((hashtext(coalesce(key, message_id::text)) & 2147483647) % {partitions}) STORED,
    attempts integer NOT NULL DEFAULT 0,
    available_at timestamptz,
    blocks_key boolean NOT NULL DEFAULT false,
    last_error text,
    enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (partition, position),
    CHECK (NOT blocks_key OR (available_at IS NOT NULL AND key IS NOT NULL))
) WITH (
    {QUEUE_STORAGE}
);
COMMENT ON TABLE {message} IS '{comment}';
-- Who puts dead letters back has to know which positions were assigned.
DO {FUNCTION_QUOTE}
BEGIN
    EXECUTE 'GRANT SELECT ON SEQUENCE ' || pg_get_serial_sequence({message_literal}, 'position') || ' TO PUBLIC';
END
{FUNCTION_QUOTE};
CREATE INDEX {message_due} ON {message} (partition, available_at, position) WHERE available_at IS NOT NULL;
-- The hash stands for the key because a key may be longer than an index takes.
CREATE INDEX {message_blocking} ON {message} (partition, hashtextextended(key, 0), position) WHERE blocks_key;
-- Few rows of a key are due at a time, behind which a million may wait.
CREATE INDEX {message_due_key} ON {message} (partition, hashtextextended(key, 0), available_at)
    WHERE blocks_key AND available_at < 'infinity';

-- Positions are not unique here: a database that loses its latest commits assigns their positions again.
CREATE TABLE {dead_letter} (
    number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    position bigint NOT NULL,
    message_id uuid NOT NULL,
    topic text NOT NULL,
    key text COLLATE "C",
    payload bytea NOT NULL,
    content_type text,
    headers jsonb NOT NULL,
    options jsonb NOT NULL,
    partition smallint NOT NULL,
    attempts integer NOT NULL,
    blocks_key boolean NOT NULL,
    last_error text,
    enqueued_at timestamptz NOT NULL,
    died_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX {dead_letter_blocking} ON {dead_letter} (partition, hashtextextended(key, 0), position)
    WHERE blocks_key;
CREATE INDEX {dead_letter_position} ON {dead_letter} (position, number);

CREATE TABLE {delivered} (
    position bigint NOT NULL,
    message_id uuid NOT NULL,
    topic text NOT NULL,
    key text COLLATE "C",
    payload bytea NOT NULL,
    content_type text,
    headers jsonb NOT NULL,
    options jsonb NOT NULL,
    partition smallint NOT NULL,
    attempts integer NOT NULL,
    enqueued_at timestamptz NOT NULL,
    delivered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (delivered_at, position)
);

CREATE TABLE {lease} (
    partition smallint PRIMARY KEY,
    owner uuid,
    expires_at timestamptz
) WITH ({SMALL_STORAGE});
INSERT INTO {lease} (partition) SELECT generate_series(0, {last});

CREATE TABLE {relay} (
    relay_id uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    idle boolean NOT NULL DEFAULT false,
    joined_at timestamptz NOT NULL DEFAULT now()
) WITH ({SMALL_STORAGE});

-- 1 as long as a relay may sleep. A sequence is outside of transactions and is read without a query: the trigger's
-- condition costs an insert next to nothing. Who inserts has to read it.
CREATE SEQUENCE {sleepers} AS smallint MINVALUE 0 MAXVALUE 1 START 0;
GRANT SELECT ON SEQUENCE {sleepers} TO PUBLIC;

-- Notifies only while a relay sleeps: NOTIFY takes a lock of the whole database at commit. As its owner, so that
-- who may insert messages needs no rights on the relays.
CREATE FUNCTION {notify_function}() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS {FUNCTION_QUOTE}
BEGIN
    IF EXISTS ({asleep}) THEN
        PERFORM pg_notify('{channel}', '');
    END IF;
    RETURN NULL;
END
{FUNCTION_QUOTE};
CREATE TRIGGER {notify} AFTER INSERT ON {message}
    FOR EACH STATEMENT WHEN (pg_catalog.pg_sequence_last_value({sleepers_literal}::regclass) = 1)
    EXECUTE FUNCTION {notify_function}();
"#
    )
}

/// Creates everything, the schema included if it is missing.
pub fn all(names: &Names) -> String {
    missing_schema(names) + &tables(names)
}

/// Selects the relays that sleep.
pub fn asleep(names: &Names) -> String {
    format!("SELECT FROM {} WHERE idle AND expires_at > now()", names.relay)
}
