//! The tables.

use super::BINARY;
use crate::config::{Names, literal};

/// The version of the tables that this library makes and knows.
pub(crate) const SCHEMA_VERSION: i32 = 1;

/// `CREATE SCHEMA` has to be a batch of its own.
pub(super) fn schema(names: &Names) -> String {
    let create = format!("CREATE SCHEMA {}", names.schema);
    format!("IF SCHEMA_ID({}) IS NULL EXEC({});\n", literal(&names.bare_schema), literal(&create))
}

/// The first bytes of a hash of the bytes of an expression, as a number. No collation has a say in it.
fn hash(bytes: &str, length: usize) -> String {
    format!("CONVERT(bigint, SUBSTRING(HASHBYTES('SHA2_256', {bytes}), 1, {length}))")
}

pub(super) fn tables(names: &Names) -> String {
    let Names {
        message,
        dead_letter,
        delivered,
        lease,
        relay,
        meta,
        message_position,
        message_due,
        message_blocking,
        dead_letter_blocking,
        dead_letter_position,
        partitions,
        ..
    } = names;
    let key = "CONVERT(varbinary(max), [key])";
    let of_key = hash(key, 8);
    // Four bytes, so that the number is never negative.
    let of_any = hash(&format!("COALESCE({key}, CONVERT(varbinary(max), message_id))"), 4);
    let escalation = literal(&format!("ALTER TABLE {message} SET (LOCK_ESCALATION = DISABLE)"));
    format!(
        "CREATE TABLE {meta} (
    only_row bit NOT NULL DEFAULT (1) PRIMARY KEY CHECK (only_row = 1),
    schema_version int NOT NULL,
    partitions int NOT NULL
);
INSERT INTO {meta} (schema_version, partitions) VALUES ({SCHEMA_VERSION}, {partitions});

-- Insert topic and payload, and [key], headers, content_type, message_id, options or available_at as needed; all other
-- columns belong to the outbox. The writer tells which uncommitted rows are of one transaction. The hash stands for the
-- key, which may be longer than an index takes, and of which comparisons would ignore the spaces at its end.
CREATE TABLE {message} (
    position bigint IDENTITY(1, 1) NOT NULL,
    writer int NOT NULL DEFAULT (@@SPID),
    message_id uniqueidentifier NOT NULL DEFAULT (NEWID()),
    topic nvarchar(max) COLLATE {BINARY} NOT NULL,
    [key] nvarchar(max) COLLATE {BINARY} NULL,
    payload varbinary(max) NOT NULL,
    content_type nvarchar(max) COLLATE {BINARY} NULL,
    headers nvarchar(max) COLLATE {BINARY} NOT NULL DEFAULT (N'{{}}'),
    options nvarchar(max) COLLATE {BINARY} NOT NULL DEFAULT (N'{{}}'),
    attempts int NOT NULL DEFAULT (0),
    available_at datetime2(6) NULL,
    blocks_key bit NOT NULL DEFAULT (0),
    last_error nvarchar(max) COLLATE {BINARY} NULL,
    enqueued_at datetime2(6) NOT NULL DEFAULT (SYSUTCDATETIME()),
    partition AS CONVERT(smallint, {of_any} % {partitions}) PERSISTED NOT NULL,
    key_hash AS {of_key} PERSISTED,
    CONSTRAINT {message_position} PRIMARY KEY CLUSTERED (position) WITH (ALLOW_PAGE_LOCKS = OFF),
    CHECK (blocks_key = 0 OR (available_at IS NOT NULL AND [key] IS NOT NULL))
);
-- Readers pass by rows that others have locked, but could not pass by a locked page or table.
IF SERVERPROPERTY('babelfish') IS NULL EXEC({escalation});
CREATE INDEX {message_due} ON {message} (partition, available_at, position) INCLUDE (key_hash)
    WHERE available_at IS NOT NULL WITH (ALLOW_PAGE_LOCKS = OFF);
CREATE INDEX {message_blocking} ON {message} (partition, key_hash, position) INCLUDE (available_at)
    WHERE blocks_key = 1 WITH (ALLOW_PAGE_LOCKS = OFF);

-- Positions are not unique here: a database that loses its latest commits assigns their positions again.
CREATE TABLE {dead_letter} (
    number bigint IDENTITY(1, 1) NOT NULL PRIMARY KEY CLUSTERED,
    position bigint NOT NULL,
    message_id uniqueidentifier NOT NULL,
    topic nvarchar(max) COLLATE {BINARY} NOT NULL,
    [key] nvarchar(max) COLLATE {BINARY} NULL,
    payload varbinary(max) NOT NULL,
    content_type nvarchar(max) COLLATE {BINARY} NULL,
    headers nvarchar(max) COLLATE {BINARY} NOT NULL,
    options nvarchar(max) COLLATE {BINARY} NOT NULL,
    partition smallint NOT NULL,
    key_hash bigint NULL,
    attempts int NOT NULL,
    blocks_key bit NOT NULL,
    last_error nvarchar(max) COLLATE {BINARY} NULL,
    enqueued_at datetime2(6) NOT NULL,
    died_at datetime2(6) NOT NULL DEFAULT (SYSUTCDATETIME())
);
CREATE INDEX {dead_letter_blocking} ON {dead_letter} (partition, key_hash, position) WHERE blocks_key = 1;
CREATE INDEX {dead_letter_position} ON {dead_letter} (position);

CREATE TABLE {delivered} (
    position bigint NOT NULL,
    message_id uniqueidentifier NOT NULL,
    topic nvarchar(max) COLLATE {BINARY} NOT NULL,
    [key] nvarchar(max) COLLATE {BINARY} NULL,
    payload varbinary(max) NOT NULL,
    content_type nvarchar(max) COLLATE {BINARY} NULL,
    headers nvarchar(max) COLLATE {BINARY} NOT NULL,
    options nvarchar(max) COLLATE {BINARY} NOT NULL,
    partition smallint NOT NULL,
    attempts int NOT NULL,
    enqueued_at datetime2(6) NOT NULL,
    delivered_at datetime2(6) NOT NULL DEFAULT (SYSUTCDATETIME()),
    PRIMARY KEY CLUSTERED (delivered_at, position)
);

CREATE TABLE {lease} (
    partition smallint NOT NULL PRIMARY KEY CLUSTERED,
    owner uniqueidentifier NULL,
    expires_at datetime2(6) NULL
);
INSERT INTO {lease} (partition) VALUES {numbers};

CREATE TABLE {relay} (
    relay_id uniqueidentifier NOT NULL PRIMARY KEY CLUSTERED,
    expires_at datetime2(6) NOT NULL,
    joined_at datetime2(6) NOT NULL DEFAULT (SYSUTCDATETIME())
);
",
        numbers = numbers(*partitions, lease),
    )
}

/// Rows with the numbers of all partitions. `VALUES` takes a thousand rows at most.
fn numbers(partitions: u16, lease: &str) -> String {
    let all: Vec<String> = (0..partitions).map(|number| format!("({number})")).collect();
    let parts: Vec<String> = all.chunks(1000).map(|part| part.join(", ")).collect();
    parts.join(&format!(";\nINSERT INTO {lease} (partition) VALUES "))
}
