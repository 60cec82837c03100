//! The tables: their text, making them, and checking that a database has the right ones.

use std::fmt::Write;

use outbox_core::{Error, ErrorKind, Result};
use outbox_sql::schema::Meta;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use crate::config::{Config, quoted};
use crate::error::store_error;
use crate::transaction::{BEGIN_IMMEDIATE, usable_connection};

/// The version of the tables that this library makes and understands.
pub(crate) const VERSION: i64 = 1;

/// The present in microseconds since 1970, with the millisecond precision that SQLite's clock has. Spelt for
/// versions before 3.42 too, which have no `unixepoch('subsec')`, because other programs insert with their own
/// SQLite.
pub(crate) const NOW: &str = "(CAST(strftime('%s', 'now') AS INTEGER) * 1000000 + \
                              CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000)";

/// A random UUID (version 4) as text.
const RANDOM_UUID: &str = "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || \
                           substr(hex(randomblob(2)), 2) || '-' || substr('89ab', 1 + (random() & 3), 1) || \
                           substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))";

/// A held row is due never. No time that a program can mean comes close.
pub(crate) const NEVER: i64 = i64::MAX;

/// A prime, and the golden ratio's share of 2^32. Their product is below 2^63.
const MODULUS: u64 = 2_147_483_647;
const MIXER: u64 = 2_654_435_761;

/// How many characters at each end of the key take part in the partition.
const ENDS: usize = 8;

/// One odd factor for each character that takes part and one for the length: the numbers that the generator
/// SplitMix64 gives for 1, 2, 3, … They must have no pattern, or keys with a pattern would fall together.
fn factor(n: usize) -> u64 {
    let mut z = (u64::try_from(n).unwrap_or(0) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // 31 bits, so that even the sum of all products stays far below 2^63, past which SQLite would turn to
    // floating point.
    (z >> 33) | 1
}

/// The partition of a row, from its key or, without one, from its id.
///
/// SQLite has no hash function, and one of ours would have to be loaded into every program that inserts. So
/// this mixes the characters at both ends of the text with its length, using what every SQLite has had since
/// version 3.31. It is defined for whatever a column can hold.
fn partition_expression(partitions: u16) -> String {
    let text = r#"coalesce("key", "message_id")"#;
    let mut sum = String::new();
    for i in 1..=ENDS {
        let (front, back) = (factor(i), factor(ENDS + i));
        let _ = write!(
            sum,
            "coalesce(unicode(substr({text}, {i}, 1)), 0) * {front} + \
             coalesce(unicode(substr({text}, -{i}, 1)), 0) * {back} + "
        );
    }
    let length = factor(0);
    // The middle bits of the product depend on all bits of the sum.
    format!("(((({sum}length({text}) * {length}) % {MODULUS}) * {MIXER}) >> 16 & 65535) % {partitions}")
}

/// The statements that make the tables, in order.
pub(crate) fn statements(config: &Config) -> Vec<String> {
    let message = quoted(&config.table("message"));
    let dead_letter = quoted(&config.table("dead_letter"));
    let delivered = quoted(&config.table("delivered"));
    let lease = quoted(&config.table("lease"));
    let relay = quoted(&config.table("relay"));
    let meta = quoted(&config.table("meta"));
    let index = |table: &str, name: &str| quoted(&format!("{}_{name}", config.table(table)));
    let partitions = config.partition_count();
    let partition = partition_expression(partitions);
    vec![
        format!(
            r#"CREATE TABLE IF NOT EXISTS {message} (
    "position" INTEGER PRIMARY KEY AUTOINCREMENT CHECK ("position" > 0 OR "available_at" IS NOT NULL),
    "message_id" TEXT NOT NULL DEFAULT {RANDOM_UUID},
    "topic" TEXT NOT NULL,
    "key" TEXT,
    "payload" BLOB NOT NULL,
    "content_type" TEXT,
    "headers" TEXT NOT NULL DEFAULT '{{}}',
    "options" TEXT NOT NULL DEFAULT '{{}}',
    "partition" INTEGER NOT NULL GENERATED ALWAYS AS ({partition}) STORED,
    "attempts" INTEGER NOT NULL DEFAULT 0 CHECK (typeof("attempts") = 'integer' AND "attempts" >= 0),
    "available_at" INTEGER CHECK ("available_at" IS NULL OR typeof("available_at") = 'integer'),
    "blocks_key" INTEGER NOT NULL DEFAULT 0 CHECK ("blocks_key" IN (0, 1)),
    "last_error" TEXT,
    "enqueued_at" INTEGER NOT NULL DEFAULT {NOW} CHECK (typeof("enqueued_at") = 'integer')
)"#
        ),
        format!(
            r#"CREATE INDEX IF NOT EXISTS {} ON {message} ("partition", "position") WHERE "available_at" IS NULL"#,
            index("message", "ready")
        ),
        format!(
            r#"CREATE INDEX IF NOT EXISTS {} ON {message} ("partition", "available_at", "position") WHERE "available_at" IS NOT NULL"#,
            index("message", "waiting")
        ),
        format!(
            r#"CREATE INDEX IF NOT EXISTS {} ON {message} ("partition", "key", "position") WHERE "blocks_key" = 1"#,
            index("message", "blocking")
        ),
        format!(
            r#"CREATE INDEX IF NOT EXISTS {} ON {message} ("position") WHERE "last_error" IS NOT NULL OR "blocks_key" = 1"#,
            index("message", "troubled")
        ),
        format!(
            r#"CREATE TABLE IF NOT EXISTS {dead_letter} (
    "number" INTEGER PRIMARY KEY AUTOINCREMENT,
    "position" INTEGER NOT NULL,
    "message_id" TEXT,
    "topic" TEXT,
    "key" TEXT,
    "payload" BLOB,
    "content_type" TEXT,
    "headers" TEXT,
    "options" TEXT,
    "partition" INTEGER NOT NULL,
    "attempts" INTEGER NOT NULL,
    "blocks_key" INTEGER NOT NULL,
    "last_error" TEXT,
    "enqueued_at" INTEGER NOT NULL,
    "died_at" INTEGER NOT NULL
)"#
        ),
        format!(
            r#"CREATE INDEX IF NOT EXISTS {} ON {dead_letter} ("partition", "key", "position") WHERE "blocks_key" = 1"#,
            index("dead_letter", "blocking")
        ),
        format!(
            r#"CREATE INDEX IF NOT EXISTS {} ON {dead_letter} ("position")"#,
            index("dead_letter", "position")
        ),
        format!(
            r#"CREATE TABLE IF NOT EXISTS {delivered} (
    "number" INTEGER PRIMARY KEY AUTOINCREMENT,
    "position" INTEGER NOT NULL,
    "message_id" TEXT,
    "topic" TEXT,
    "key" TEXT,
    "payload" BLOB,
    "content_type" TEXT,
    "headers" TEXT,
    "options" TEXT,
    "partition" INTEGER NOT NULL,
    "attempts" INTEGER NOT NULL,
    "enqueued_at" INTEGER NOT NULL,
    "delivered_at" INTEGER NOT NULL
)"#
        ),
        format!(
            r#"CREATE INDEX IF NOT EXISTS {} ON {delivered} ("delivered_at")"#,
            index("delivered", "delivered_at")
        ),
        format!(
            r#"CREATE TABLE IF NOT EXISTS {lease} (
    "partition" INTEGER PRIMARY KEY,
    "owner" TEXT,
    "expires_at" INTEGER
)"#
        ),
        format!(
            r#"CREATE TABLE IF NOT EXISTS {relay} (
    "relay" TEXT PRIMARY KEY,
    "expires_at" INTEGER NOT NULL
)"#
        ),
        format!(
            r#"CREATE TABLE IF NOT EXISTS {meta} (
    "name" TEXT PRIMARY KEY,
    "value" INTEGER NOT NULL
)"#
        ),
        format!(
            r#"INSERT OR IGNORE INTO {lease} ("partition") WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {partitions} - 1) SELECT i FROM n"#
        ),
        format!(
            r#"INSERT OR IGNORE INTO {meta} ("name", "value") VALUES ('schema_version', {VERSION}), ('partitions', {partitions})"#
        ),
    ]
}

/// Everything that makes the tables, as text for a migration tool.
pub(crate) fn ddl(config: &Config) -> String {
    let mut text = String::new();
    for statement in statements(config) {
        text.push_str(&statement);
        text.push_str(";\n");
    }
    text
}

/// What the tables say about themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) version: i64,
    pub(crate) partitions: u16,
}

/// Reads what is installed; `None` where nothing is.
async fn installed(connection: &mut SqliteConnection, config: &Config) -> Result<Option<Installed>> {
    let meta = config.table("meta");
    let doing = "looking for the outbox tables";
    let there: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
    )
    .bind(&meta)
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| store_error(doing, error))?;
    if there == 0 {
        return Ok(None);
    }
    let sql = format!(
        r#"SELECT (SELECT "value" FROM {0} WHERE "name" = 'schema_version'), (SELECT "value" FROM {0} WHERE "name" = 'partitions')"#,
        quoted(&meta)
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| store_error(doing, error))?;
    let number =
        |index: usize| row.try_get::<Option<i64>, _>(index).map_err(|error| store_error(doing, error));
    let (Some(version), Some(partitions)) = (number(0)?, number(1)?) else {
        return Err(Error::new(
            ErrorKind::Schema,
            "the outbox's table of versions is empty; the tables are damaged",
        )
        .with("table", meta));
    };
    let partitions = u16::try_from(partitions).map_err(|_| {
        Error::new(ErrorKind::Schema, "the stored number of partitions is impossible; the tables are damaged")
            .with("table", &meta)
            .with("partitions", partitions)
    })?;
    Ok(Some(Installed { version, partitions }))
}

fn known(installed: Installed, config: &Config) -> Result<Installed> {
    installed.meta().check_version(VERSION, &config.table("meta"))?;
    Ok(installed)
}

impl Installed {
    fn meta(self) -> Meta {
        Meta { version: self.version, partitions: self.partitions.into() }
    }
}

/// Reads what is installed and insists that it can be worked with.
pub(crate) async fn require(connection: &mut SqliteConnection, config: &Config) -> Result<Installed> {
    let Some(found) = installed(connection, config).await? else {
        return Err(Error::new(
            ErrorKind::Schema,
            "the outbox tables are not there; run migrate() on this database",
        )
        .with("table", config.message_table()));
    };
    known(found, config)
}

/// Makes the tables, unless they are there. Any number of processes may do this at once.
pub(crate) async fn migrate(pool: &SqlitePool, config: &Config) -> Result<()> {
    let doing = "making the outbox tables";
    let mut connection = usable_connection(pool).await?;
    // The write lock first, so that of several processes one makes the tables and the others find them.
    let mut transaction =
        connection.begin_with(BEGIN_IMMEDIATE).await.map_err(|error| store_error(doing, error))?;
    match installed(&mut transaction, config).await? {
        Some(found) => {
            let found = known(found, config)?;
            found.meta().check_partitions(config.partition_count(), &config.table("meta"))?;
        }
        None => {
            for statement in statements(config) {
                sqlx::query(AssertSqlSafe(statement))
                    .persistent(false)
                    .execute(&mut *transaction)
                    .await
                    .map_err(|error| store_error(doing, error))?;
            }
        }
    }
    transaction.commit().await.map_err(|error| store_error(doing, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sum_of_products_leaves_the_integers() {
        let characters: u128 = (1..=2 * ENDS).map(|n| u128::from(factor(n)) * 0x10_ffff).sum();
        let length = u128::from(factor(0)) * 1_000_000_000;
        assert!(characters + length < 1 << 63);
        assert!((MODULUS - 1).checked_mul(MIXER).is_some_and(|product| product < 1 << 63));
    }
}
