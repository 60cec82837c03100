//! Every statement, built once with the configured table names.
//!
//! Lists of values travel as one JSON parameter each, so that a statement's text never depends on their length.
//!
//! Every way of access is spelt out (`INDEXED BY`; `NOT INDEXED`, which means by position; `CROSS JOIN`, which
//! means in this order): the tables are empty one moment and full the next, and statistics that `ANALYZE` gathered
//! at the wrong moment would lead the planner astray.

use std::sync::Arc;

use sqlx::AssertSqlSafe;

use crate::config::{Config, quoted};
use crate::schema::{NEVER, NOW};

/// A statement, cheap to hand out. The tables' names are validated and quoted; values are always bound.
#[derive(Clone, Debug)]
pub(crate) struct Statement(Arc<str>);

impl Statement {
    pub(crate) fn sql(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.0))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl From<String> for Statement {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// The columns that make a message, as they move from table to table.
const CONTENT: &str = r#""message_id", "topic", "key", "payload", "content_type", "headers", "options""#;

#[derive(Debug)]
pub(crate) struct Sql {
    pub(crate) enqueue: Statement,
    pub(crate) enqueue_batch: Statement,

    pub(crate) now: Statement,
    pub(crate) forget_relays: Statement,
    pub(crate) announce_relay: Statement,
    pub(crate) renew_leases: Statement,
    pub(crate) relays: Statement,
    pub(crate) take_leases: Statement,
    pub(crate) owned_leases: Statement,
    pub(crate) release_leases: Statement,
    pub(crate) release_all_leases: Statement,
    pub(crate) leave: Statement,

    pub(crate) fetch_ready: Statement,
    pub(crate) fetch_due: Statement,
    pub(crate) fetch_in_step: Statement,
    pub(crate) fetch_packed: Statement,
    pub(crate) read_to: Statement,
    pub(crate) waiting: Statement,

    pub(crate) anything_blocks: Statement,
    pub(crate) identities: Statement,
    pub(crate) retry: Statement,
    pub(crate) hold: Statement,
    pub(crate) unhold: Statement,
    pub(crate) hold_behind: Statement,
    pub(crate) hold_later: Statement,
    pub(crate) hold_later_than_dead: Statement,
    pub(crate) held_behind: Statement,
    pub(crate) held_behind_dead: Statement,
    pub(crate) release: Statement,
    pub(crate) bury: Statement,
    pub(crate) keep_delivered: Statement,
    pub(crate) delete: Statement,
    pub(crate) stuck: Statement,
    pub(crate) purge: Statement,
    pub(crate) stats: Statement,

    pub(crate) dead_letters: Statement,
    pub(crate) dead_letter_columns: &'static str,
    pub(crate) redrive: Statement,
    pub(crate) delete_dead: Statement,

    pub(crate) known_relays: Statement,
    pub(crate) owners: Statement,
    pub(crate) peek: Statement,
}

impl Sql {
    pub(crate) fn new(config: &Config) -> Self {
        let message = &quoted(&config.table("message"));
        let dead = &quoted(&config.table("dead_letter"));
        let delivered = &quoted(&config.table("delivered"));
        let lease = &quoted(&config.table("lease"));
        let relay = &quoted(&config.table("relay"));
        let ready = &quoted(&config.table("message_ready"));
        let waiting = &quoted(&config.table("message_waiting"));
        let blocking = &quoted(&config.table("message_blocking"));
        let dead_blocking = &quoted(&config.table("dead_letter_blocking"));

        // Whether something in front of the row `m` blocks its key.
        let blocked = &format!(
            r#"(EXISTS (SELECT 1 FROM {message} AS b INDEXED BY {blocking} WHERE b."blocks_key" = 1 AND b."partition" = m."partition" AND b."key" = m."key" AND b."position" < m."position")
     OR EXISTS (SELECT 1 FROM {dead} AS b INDEXED BY {dead_blocking} WHERE b."blocks_key" = 1 AND b."partition" = m."partition" AND b."key" = m."key" AND b."position" < m."position"))"#
        );
        // Whether the relay ?2 owns the partition of the row `m`.
        let owned = &format!(
            r#"EXISTS (SELECT 1 FROM {lease} AS l WHERE l."partition" = m."partition" AND l."owner" = ?2)"#
        );
        let listed = r#"(SELECT value FROM json_each(?1))"#;

        Self {
            enqueue: format!(
                r#"INSERT INTO {message} ({CONTENT}, "available_at") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"#
            )
            .into(),
            // ?1 holds everything but the payloads, which lie one behind the other in ?2: a blob in JSON would
            // not be a blob. JSON arrays are read in their order, so the positions follow it. A part of an empty
            // blob is NULL.
            enqueue_batch: format!(
                r#"INSERT INTO {message} ({CONTENT}, "available_at")
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), coalesce(substr(?2, json_extract(value, '$[7]'), json_extract(value, '$[8]')), x''), json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]')
FROM json_each(?1)"#
            )
            .into(),

            now: format!("SELECT {NOW}").into(),
            forget_relays: format!(r#"DELETE FROM {relay} WHERE "expires_at" <= ?1 OR "expires_at" > ?2"#).into(),
            announce_relay: format!(
                r#"INSERT INTO {relay} ("relay", "expires_at") VALUES (?1, ?2) ON CONFLICT ("relay") DO UPDATE SET "expires_at" = excluded."expires_at""#
            )
            .into(),
            renew_leases: format!(r#"UPDATE {lease} SET "expires_at" = ?2 WHERE "owner" = ?1"#).into(),
            relays: format!(r#"SELECT "relay" FROM {relay} ORDER BY "relay""#).into(),
            take_leases: format!(
                r#"UPDATE {lease} SET "owner" = ?1, "expires_at" = ?2 WHERE "partition" IN (SELECT "partition" FROM {lease} WHERE "owner" IS NULL OR "expires_at" <= ?3 OR "expires_at" > ?4 ORDER BY "partition" LIMIT ?5)"#
            )
            .into(),
            owned_leases: format!(r#"SELECT "partition" FROM {lease} WHERE "owner" = ?1 ORDER BY "partition""#)
                .into(),
            release_leases: format!(
                r#"UPDATE {lease} SET "owner" = NULL, "expires_at" = NULL WHERE "owner" = ?2 AND "partition" IN {listed}"#
            )
            .into(),
            release_all_leases: format!(
                r#"UPDATE {lease} SET "owner" = NULL, "expires_at" = NULL WHERE "owner" = ?1"#
            )
            .into(),
            leave: format!(r#"DELETE FROM {relay} WHERE "relay" = ?1"#).into(),

            fetch_ready: fetch(
                config,
                blocked,
                &format!(
                    r#"SELECT x."position" FROM {message} AS x INDEXED BY {ready} WHERE x."partition" = own."partition" AND x."position" > own."bound" AND x."available_at" IS NULL ORDER BY x."position" LIMIT ?2"#
                ),
                r#"m."position""#,
                "json_extract(value, '$[1]')",
            ),
            // ?5: rows in flight. A due row behind a ready one that has not been read yet waits, because both may be
            // of one key; "bound" is the place of the first such ready row.
            fetch_due: fetch(
                config,
                blocked,
                &format!(
                    r#"SELECT x."position" FROM {message} AS x INDEXED BY {waiting} WHERE x."partition" = own."partition" AND x."available_at" IS NOT NULL AND x."available_at" <= (SELECT "now" FROM clock) AND x."position" < own."bound" AND x."position" NOT IN (SELECT value FROM json_each(?5)) ORDER BY x."available_at", x."position" LIMIT ?2"#
                ),
                r#"m."available_at", m."position""#,
                &format!(
                    r#"coalesce((SELECT x."position" FROM {message} AS x INDEXED BY {ready} WHERE x."partition" = json_extract(value, '$[0]') AND x."position" > json_extract(value, '$[1]') AND x."available_at" IS NULL ORDER BY x."position" LIMIT 1), {NEVER})"#
                ),
            ),
            fetch_in_step: in_step(config, blocked, &format!(r#"SELECT "position", "partition", "attempts", "enqueued_at", "blocked", {CONTENT} FROM next"#)),
            // The same rows as one: a list of them, and their payloads, which stay the bytes they are because the store refuses databases
            // whose texts are not in UTF-8. ?3: the most bytes of one that is packed. Bytes where a text belongs fail the
            // statement, as JSON has none. Each look at a column is a part of what a row costs.
            fetch_packed: in_step(
                config,
                blocked,
                &format!(
                    r#"SELECT '[' || coalesce(group_concat(CASE WHEN {blob} AND {size} <= ?3 THEN
    json_array("position", "partition", "attempts", "enqueued_at", "blocked", "message_id", "topic", "key", octet_length("payload"), "content_type", nullif("headers", '{{}}'), nullif("options", '{{}}'))
    ELSE json_array("position") END, ','), '') || ']',
    group_concat(CASE WHEN {blob} AND octet_length("payload") <= ?3 THEN "payload" END, '')
FROM next"#,
                    // Whatever else there is comes before all blobs.
                    blob = r#""payload" >= x''"#,
                    size = ["payload", "topic", "headers", "options", "key", "content_type"]
                        .map(|column| format!(r#"coalesce(octet_length("{column}"), 0)"#))
                        .join(" + "),
                ),
            ),
            // How far the table was read by that if it brought less than it might have, and the last position there is.
            read_to: format!(
                r#"SELECT coalesce({last}, ?1), coalesce((SELECT x."position" FROM {message} AS x NOT INDEXED WHERE x."position" > ?1 ORDER BY x."position" DESC LIMIT 1), ?1)"#,
                last = end_of_stretch(message),
            )
            .into(),
            // The first time anything waits for in the partitions ?1, and the first one that is still to come.
            waiting: {
                let first = |condition: &str| {
                    format!(
                        r#"(SELECT min((SELECT x."available_at" FROM {message} AS x INDEXED BY {waiting} WHERE x."partition" = own.value AND x."available_at" IS NOT NULL AND x."available_at" < {NEVER}{condition} ORDER BY x."available_at" LIMIT 1)) FROM json_each(?1) AS own)"#
                    )
                };
                let any = first("");
                let future = first(r#" AND x."available_at" > (SELECT "now" FROM clock)"#);
                format!(
                    r#"WITH clock("now") AS MATERIALIZED (SELECT {NOW})
SELECT "now", {any}, {future} FROM clock"#
                )
                .into()
            },

            anything_blocks: format!(
                r#"SELECT EXISTS (SELECT 1 FROM {message} INDEXED BY {blocking} WHERE "blocks_key" = 1)"#
            )
            .into(),
            identities: format!(r#"SELECT "position", "enqueued_at", "message_id" FROM {message} NOT INDEXED WHERE "position" IN {listed}"#).into(),
            // ?1: [[position, attempts, available_at, error, blocks], …]
            retry: format!(
                r#"UPDATE {message} AS m NOT INDEXED SET "attempts" = r."attempts", "available_at" = r."available_at", "last_error" = r."error", "blocks_key" = (r."blocks" AND m."key" IS NOT NULL)
FROM (SELECT json_extract(value, '$[0]') AS "position", json_extract(value, '$[1]') AS "attempts", json_extract(value, '$[2]') AS "available_at", json_extract(value, '$[3]') AS "error", json_extract(value, '$[4]') AS "blocks" FROM json_each(?1)) AS r
WHERE m."position" = r."position" AND {owned} RETURNING "position""#
            )
            .into(),
            hold: format!(
                r#"UPDATE {message} AS m NOT INDEXED SET "blocks_key" = (m."key" IS NOT NULL), "available_at" = CASE WHEN m."key" IS NULL THEN ?3 ELSE {NEVER} END WHERE m."position" IN {listed} AND {owned} RETURNING "position""#
            )
            .into(),
            // Of the held rows ?1, those with nothing in front of them become due.
            unhold: format!(
                r#"UPDATE {message} AS m NOT INDEXED SET "available_at" = ?2 WHERE m."position" IN {listed} AND m."blocks_key" = 1 AND NOT {blocked}"#
            )
            .into(),
            hold_behind: format!(
                r#"UPDATE {message} AS m NOT INDEXED SET "available_at" = {NEVER} WHERE m."position" IN {listed} AND m."blocks_key" = 1 AND {blocked}"#
            )
            .into(),
            hold_later: hold_later(message, message, "position", blocking),
            hold_later_than_dead: hold_later(message, dead, "number", blocking),
            held_behind: held_behind(message, message, "position", blocking),
            held_behind_dead: held_behind(message, dead, "number", blocking),
            // From the held row ?1 on, held rows of its key become due at ?2, the present, until ?3 rows of the key are due; but none
            // behind a row that is retrying or a dead letter that blocks.
            release: format!(
                r#"UPDATE {message} NOT INDEXED SET "available_at" = ?2 WHERE "position" IN (
    SELECT h."position" FROM {message} AS m NOT INDEXED CROSS JOIN {message} AS h INDEXED BY {blocking}
    WHERE m."position" = ?1 AND h."blocks_key" = 1 AND h."partition" = m."partition" AND h."key" = m."key" AND h."position" >= m."position" AND h."available_at" = {NEVER}
    AND h."position" < min(
        coalesce((SELECT b."position" FROM {message} AS b INDEXED BY {blocking} WHERE b."blocks_key" = 1 AND b."partition" = m."partition" AND b."key" = m."key" AND b."available_at" > ?2 AND b."available_at" < {NEVER} ORDER BY b."position" LIMIT 1), {NEVER}),
        coalesce((SELECT b."position" FROM {dead} AS b INDEXED BY {dead_blocking} WHERE b."blocks_key" = 1 AND b."partition" = m."partition" AND b."key" = m."key" ORDER BY b."position" LIMIT 1), {NEVER}))
    ORDER BY h."position" LIMIT ?3 - (SELECT count(*) FROM (SELECT 1 FROM {message} AS m NOT INDEXED CROSS JOIN {message} AS b INDEXED BY {blocking}
        WHERE m."position" = ?1 AND b."blocks_key" = 1 AND b."partition" = m."partition" AND b."key" = m."key" AND b."position" < ?1 LIMIT ?3)))"#
            )
            .into(),
            // ?1: [[position, attempts, error, blocks], …]; ?3: the present. Moved as it is, readable or not. Returns the positions of the
            // rows and the numbers of the dead letters.
            bury: format!(
                r#"INSERT INTO {dead} ("position", {CONTENT}, "partition", "attempts", "blocks_key", "last_error", "enqueued_at", "died_at")
SELECT m."position", {content}, m."partition", json_extract(d.value, '$[1]'), json_extract(d.value, '$[3]') AND m."key" IS NOT NULL, json_extract(d.value, '$[2]'), m."enqueued_at", ?3
FROM json_each(?1) AS d CROSS JOIN {message} AS m NOT INDEXED ON m."position" = json_extract(d.value, '$[0]')
WHERE {owned} RETURNING "position", "number""#,
                content = of("m"),
            )
            .into(),
            keep_delivered: format!(
                r#"INSERT INTO {delivered} ("position", {CONTENT}, "partition", "attempts", "enqueued_at", "delivered_at")
SELECT m."position", {content}, m."partition", m."attempts", m."enqueued_at", ?2 FROM {message} AS m NOT INDEXED WHERE m."position" IN {listed}"#,
                content = of("m"),
            )
            .into(),
            delete: format!(r#"DELETE FROM {message} NOT INDEXED WHERE "position" IN {listed}"#).into(),
            // The first held rows of those keys in the partitions ?1, owned by ?2, in front of which nothing is.
            stuck: format!(
                r#"SELECT m."position" FROM (SELECT min("position") AS "position" FROM {message} INDEXED BY {blocking} WHERE "blocks_key" = 1 AND "partition" IN {listed} GROUP BY "partition", "key") AS g
CROSS JOIN {message} AS m NOT INDEXED ON m."position" = g."position"
WHERE m."available_at" = {NEVER} AND NOT {blocked} AND {owned} LIMIT ?3"#
            )
            .into(),
            purge: format!(
                r#"DELETE FROM {delivered} WHERE "number" IN (SELECT "number" FROM {delivered} WHERE "delivered_at" <= {NOW} - ?1 ORDER BY "delivered_at" LIMIT ?2)"#
            )
            .into(),
            // What somebody has written as of before 1970 is as old as 1970: the difference must not leave SQLite's integers.
            stats: {
                let troubled = quoted(&config.table("message_troubled"));
                format!(
                    r#"SELECT (SELECT count(*) FROM (SELECT 1 FROM {message} LIMIT ?1)), (SELECT count(*) FROM (SELECT 1 FROM {dead} LIMIT ?1)),
    {NOW} - (SELECT max("enqueued_at", 0) FROM {message} WHERE "position" = (SELECT min("position") FROM (
        SELECT (SELECT x."position" FROM {message} AS x INDEXED BY {ready} WHERE x."partition" = l."partition" AND x."available_at" IS NULL ORDER BY x."position" LIMIT 1) AS "position" FROM {lease} AS l
        UNION ALL SELECT (SELECT x."position" FROM {message} AS x INDEXED BY {troubled} WHERE x."last_error" IS NOT NULL OR x."blocks_key" = 1 ORDER BY x."position" LIMIT 1))))"#
                )
                .into()
            },

            known_relays: format!(r#"SELECT "relay", "expires_at" FROM {relay} ORDER BY "relay""#).into(),
            owners: format!(r#"SELECT "partition", "owner", "expires_at" FROM {lease} ORDER BY "partition""#).into(),
            // By position: ?1: after which one; ?2: how many.
            peek: format!(
                r#"SELECT "position", "partition", "attempts", "blocks_key", "last_error", "enqueued_at", "available_at", {CONTENT} FROM {message} NOT INDEXED WHERE "position" > ?1 ORDER BY "position" LIMIT ?2"#
            )
            .into(),

            dead_letters: dead.clone().into(),
            dead_letter_columns: r#""position", "attempts", "blocks_key", "last_error", "enqueued_at", "died_at", "message_id", "topic", "key", "payload", "content_type", "headers", "options""#,
            // ?1: numbers of dead letters; ?2: the present. If another message has the position of one, it comes before everything else:
            // the database has lost commits, and whatever was enqueued since then is later. Returns the positions.
            redrive: format!(
                r#"INSERT INTO {message} ("position", {CONTENT}, "attempts", "available_at", "blocks_key", "last_error", "enqueued_at")
SELECT CASE WHEN row_number() OVER (PARTITION BY d."position" ORDER BY d."enqueued_at" DESC, d."number" DESC) = 1 AND NOT EXISTS (SELECT 1 FROM {message} AS m NOT INDEXED WHERE m."position" = d."position")
    THEN d."position"
    ELSE min(0, coalesce((SELECT min(m."position") FROM {message} AS m NOT INDEXED), 0)) - row_number() OVER (ORDER BY d."position" DESC, d."enqueued_at" DESC, d."number" DESC) END,
    {content}, 0, ?2, d."blocks_key", d."last_error", d."enqueued_at" FROM {dead} AS d NOT INDEXED WHERE d."number" IN {listed} RETURNING "position""#,
                content = of("d"),
            )
            .into(),
            delete_dead: format!(r#"DELETE FROM {dead} NOT INDEXED WHERE "number" IN {listed}"#).into(),
        }
    }
}

/// How many positions, ready or not, one fetch looks at: a bound for a table full of rows that wait for their time.
const STRETCH: i64 = 20_000;

/// The last position of the stretch behind ?1, or NULL if there is none.
fn end_of_stretch(message: &str) -> String {
    format!(
        r#"(SELECT x."position" + {STRETCH} - 1 FROM {message} AS x NOT INDEXED WHERE x."position" > ?1 ORDER BY x."position" LIMIT 1)"#
    )
}

/// Of all partitions, which have been read up to the same position ?1: the next ?2 ready rows, as `next`. Nothing is joined, sorted
/// or added up, and the table is read as it lies.
fn in_step(config: &Config, blocked: &str, select: &str) -> Statement {
    let message = &quoted(&config.table("message"));
    let dead = quoted(&config.table("dead_letter"));
    let blocking = quoted(&config.table("message_blocking"));
    let dead_blocking = quoted(&config.table("dead_letter_blocking"));
    format!(
        r#"WITH blocks("any") AS MATERIALIZED (SELECT EXISTS (SELECT 1 FROM {message} INDEXED BY {blocking} WHERE "blocks_key" = 1)
    OR EXISTS (SELECT 1 FROM {dead} INDEXED BY {dead_blocking} WHERE "blocks_key" = 1)),
next AS NOT MATERIALIZED (SELECT m."position", m."partition", m."attempts", m."enqueued_at",
    CASE WHEN m."key" IS NULL OR NOT (SELECT "any" FROM blocks) THEN 0 ELSE {blocked} END AS "blocked", {content}
    FROM {message} AS m NOT INDEXED WHERE m."position" > ?1 AND m."position" <= {last} AND m."available_at" IS NULL ORDER BY m."position" LIMIT ?2)
{select}"#,
        content = of("m"),
        last = end_of_stretch(message),
    )
    .into()
}

/// The content columns of one table of a join.
fn of(table: &str) -> String {
    CONTENT.split(", ").map(|column| format!("{table}.{column}")).collect::<Vec<_>>().join(", ")
}

/// Brings rows of several partitions: at most ?2 candidates of each, then in turns from each partition (the
/// first of each, the second of each, …) until ?3 rows or ?4 bytes of payload are reached, one row in any case.
/// ?1 lists the partitions, each with the last position that was read of it.
fn fetch(config: &Config, blocked: &str, candidates: &str, order: &str, bound: &str) -> Statement {
    let message = quoted(&config.table("message"));
    let dead = quoted(&config.table("dead_letter"));
    let blocking = quoted(&config.table("message_blocking"));
    let dead_blocking = quoted(&config.table("dead_letter_blocking"));
    let content = of("m");
    format!(
        r#"WITH own("partition", "bound") AS MATERIALIZED (SELECT json_extract(value, '$[0]'), {bound} FROM json_each(?1)),
clock("now") AS MATERIALIZED (SELECT {NOW}),
blocks("any") AS MATERIALIZED (SELECT EXISTS (SELECT 1 FROM own CROSS JOIN {message} AS b INDEXED BY {blocking} ON b."blocks_key" = 1 AND b."partition" = own."partition")
    OR EXISTS (SELECT 1 FROM own CROSS JOIN {dead} AS b INDEXED BY {dead_blocking} ON b."blocks_key" = 1 AND b."partition" = own."partition")),
candidate AS (SELECT m."position", coalesce(octet_length(m."payload"), 0) AS "size", row_number() OVER (PARTITION BY m."partition" ORDER BY {order}) AS "turn"
    FROM own CROSS JOIN {message} AS m NOT INDEXED WHERE m."position" IN ({candidates})),
counted AS (SELECT "position", row_number() OVER turns AS "number", sum("size") OVER turns AS "bytes", count(*) OVER () AS "total" FROM candidate
    WINDOW turns AS (ORDER BY "turn", "position" ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)),
picked AS MATERIALIZED (SELECT "position", "total" FROM counted WHERE "number" = 1 OR ("number" <= ?3 AND "bytes" <= ?4))
SELECT m."position", m."partition", m."attempts", m."enqueued_at", (SELECT "now" FROM clock),
    CASE WHEN m."key" IS NULL OR m."blocks_key" = 1 OR NOT (SELECT "any" FROM blocks) THEN 0 ELSE {blocked} END,
    picked."total", CASE WHEN m."blocks_key" = 0 AND m."last_error" IS NULL THEN m."available_at" END, {content}
FROM picked CROSS JOIN {message} AS m NOT INDEXED ON m."position" = picked."position" ORDER BY m."position""#
    )
    .into()
}

/// Holds whatever blocks the key of one of the rows ?1 of `table`, which are given by `id`, behind that row, and was not held.
fn hold_later(message: &str, table: &str, id: &str, blocking: &str) -> Statement {
    format!(
        r#"UPDATE {message} NOT INDEXED SET "available_at" = {NEVER} WHERE "position" IN (
    SELECT h."position" FROM json_each(?1) AS j CROSS JOIN {table} AS m NOT INDEXED ON m."{id}" = j.value
    CROSS JOIN {message} AS h INDEXED BY {blocking} ON h."blocks_key" = 1 AND h."partition" = m."partition" AND h."key" = m."key" AND h."position" > m."position"
    WHERE m."blocks_key" = 1 AND h."available_at" < {NEVER})"#
    )
    .into()
}

/// The first held row of each key that is blocked by one of the rows ?1 of `table`, which are given by `id`. Rows that are among them
/// themselves do not count.
fn held_behind(message: &str, table: &str, id: &str, blocking: &str) -> Statement {
    format!(
        r#"SELECT "position" FROM (SELECT (SELECT h."position" FROM {message} AS h INDEXED BY {blocking}
        WHERE h."blocks_key" = 1 AND h."partition" = k."partition" AND h."key" = k."key" AND h."available_at" = {NEVER}{others} ORDER BY h."position" LIMIT 1) AS "position"
    FROM (SELECT DISTINCT m."partition", m."key" FROM json_each(?1) AS j CROSS JOIN {table} AS m NOT INDEXED ON m."{id}" = j.value WHERE m."blocks_key" = 1) AS k)
WHERE "position" IS NOT NULL"#,
        others = if table == message { r#" AND h."position" NOT IN (SELECT value FROM json_each(?1))"# } else { "" },
    )
    .into()
}

#[cfg(test)]
mod tests {
    use sqlx::{Row, SqlitePool};

    use super::*;
    use crate::{OpenOptions, Outbox};

    async fn plan(pool: &SqlitePool, statement: &Statement) -> Vec<String> {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", statement.text()));
        let rows = sqlx::query(explain).fetch_all(pool).await.unwrap();
        rows.iter().map(|row| row.get("detail")).collect()
    }

    /// Whether a step of a plan walks over a whole table that grows with the backlog.
    fn walks(step: &str) -> bool {
        let over = |table: &str| step.starts_with(&format!("SCAN {table}"));
        // `own`, `m`, `r` and so on are names of tables and of lists alike, so that the tables' own are listed.
        ["outbox_message", "outbox_dead_letter", "outbox_delivered", "m", "x", "b", "h"]
            .iter()
            .any(|table| over(table) && step.split(' ').nth(1) == Some(table) && !step.contains("_blocking"))
    }

    #[tokio::test]
    async fn no_statement_of_the_relay_walks_over_the_backlog() {
        let directory = tempfile::tempdir().unwrap();
        // One connection, or the statistics would be known to the one that gathered them only.
        let options = OpenOptions::new(directory.path().join("plan.db")).max_connections(1);
        let pool = options.open().await.unwrap();
        let outbox = Outbox::new(Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        let sql = outbox.sql();
        let statements = [
            &sql.fetch_ready,
            &sql.fetch_due,
            &sql.fetch_in_step,
            &sql.fetch_packed,
            &sql.read_to,
            &sql.waiting,
            &sql.anything_blocks,
            &sql.identities,
            &sql.retry,
            &sql.hold,
            &sql.unhold,
            &sql.hold_behind,
            &sql.hold_later,
            &sql.hold_later_than_dead,
            &sql.held_behind,
            &sql.held_behind_dead,
            &sql.release,
            &sql.bury,
            &sql.keep_delivered,
            &sql.delete,
            &sql.stuck,
            &sql.purge,
            &sql.redrive,
            &sql.delete_dead,
            &sql.peek,
        ];
        // Empty tables first, then with statistics that were gathered at a bad moment.
        for analyze in [false, true] {
            if analyze {
                sqlx::query("ANALYZE").execute(&pool).await.unwrap();
            }
            for statement in statements {
                let plan = plan(&pool, statement).await;
                assert!(!plan.iter().any(|step| walks(step)), "{}\n{plan:#?}", statement.text());
            }
        }
    }
}
