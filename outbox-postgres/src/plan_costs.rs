//! How many pages and rows each statement of a relay reads, whatever is in the tables and whenever its plan was made.
//!
//! Statistics are never up to date here: autovacuum is off, and a plan is made while the tables are empty and vacuumed, or for full
//! tables of which the server knows nothing, or for analyzed ones. A plan that is right by chance shows itself by its pages,
//! not by its time, so that the machine does not matter.

use std::time::Duration;

use integration_tests::{Postgres, Server};
use outbox_core::{FetchLimit, Reader, RelayId, Store};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, SqlStr};

use crate::reader::PostgresReader;
use crate::sessions::Lent;
use crate::sql::Statements;
use crate::{Config, Outbox};

/// How many ready rows there are in each state, of keys of their own, behind everything else.
const READY: i64 = 1000;
/// How many rows of another kind there are.
const OTHERS: i64 = 20_000;

/// The partition of the key `stuck`, as an array.
const STUCK: &str = "array[((hashtext('stuck') & 2147483647) % 16)::smallint]";

/// What is in the tables besides the ready rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Nothing,
    /// One key waits for its first row, which is to be tried again.
    Held,
    /// The same with many keys.
    ManyHeld,
    Scheduled,
    DeadLetters,
}

const STATES: [State; 5] =
    [State::Nothing, State::Held, State::ManyHeld, State::Scheduled, State::DeadLetters];

impl State {
    fn sql(self) -> String {
        let insert = |key: &str, available_at: &str, blocks: bool| {
            format!(
                "INSERT INTO outbox_message (topic, key, payload, available_at, blocks_key)
                 SELECT 't', {key}, '', {available_at}, {blocks} FROM generate_series(1, {OTHERS}) i"
            )
        };
        match self {
            Self::Nothing => String::new(),
            Self::Held => insert(
                "'stuck'",
                "CASE WHEN i = 1 THEN now() + interval '1 day' ELSE 'infinity' END",
                true,
            ),
            Self::ManyHeld => insert(
                "'stuck ' || i / 4",
                "CASE WHEN i % 4 = 0 THEN now() + interval '1 day' ELSE 'infinity' END",
                true,
            ),
            Self::Scheduled => insert("'later ' || i", "now() + interval '1 day'", false),
            Self::DeadLetters => insert("'dead ' || i", "NULL", false)
                + ";
                WITH gone AS (DELETE FROM outbox_message RETURNING *)
                INSERT INTO outbox_dead_letter (position, message_id, topic, key, payload, headers, options, partition,
                    attempts, blocks_key, enqueued_at)
                SELECT position, message_id, topic, key, payload, headers, options, partition, 1, true, enqueued_at FROM gone",
        }
    }
}

/// When a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planned {
    /// While the tables are empty. It is used later if PostgreSQL keeps it.
    WhileEmpty,
    /// For the tables as they are, without statistics of them.
    WithoutStatistics,
    WithStatistics,
}

struct Case<'a> {
    name: &'static str,
    sql: &'a SqlStr,
    parameters: String,
    /// The most pages for each row that is read, looked up or written.
    pages: i64,
    rows: i64,
}

fn array(values: impl IntoIterator<Item = impl ToString>) -> String {
    let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    format!("'{{{}}}'", values.join(","))
}

/// The statements of a relay that owns all partitions and has just been started, or settles the ready rows.
fn cases<'a>(sql: &'a Statements, relay: RelayId, ready: &[Ready], all: i64) -> Vec<Case<'a>> {
    let position = |row: Option<&Ready>| row.map_or(1, |row| row.position);
    let (first, last) = (position(ready.first()), position(ready.last()));
    let own = array(0..16);
    let each = |value: i64| array([value; 16]);
    let some = &ready[..ready.len().min(100)];
    let places = |rows: &[Ready]| {
        let (partitions, positions) =
            (rows.iter().map(|row| row.partition), rows.iter().map(|row| row.position));
        format!("{}, {}", array(partitions), array(positions))
    };
    let identities = |rows: &[Ready]| {
        format!("{}, {}", array(rows.iter().map(|row| &row.id)), array(rows.iter().map(|row| &row.time)))
    };
    let rows = |rows: &[Ready]| format!("{}, {}", places(rows), identities(rows));
    let number = |rows: &[Ready]| i64::try_from(rows.len()).unwrap();
    let repeated = |value: &str| array(vec![value; some.len()]);
    let fetch = |bytes: i64| {
        format!(
            "{own}, {cursors}, {quotas}, {limits}, {own}, '{{}}', false, 1008, {cursors}, NULL",
            cursors = each(first - 1),
            quotas = each(63),
            limits = each(bytes)
        )
    };
    // Bits for a thousand positions from the first on.
    let taken = array(vec![format!("\"\\\\x{}\"", "ff".repeat(125)); 16]);
    let runs = format!(
        "{own}, {}, {}, E{taken}, {}, false",
        each(first),
        each(first + READY - 1),
        identities(ready)
    );
    // A call on an empty table reads the roots of some indexes for each partition.
    let partitions_read = 16 * 8;
    vec![
        Case { name: "fetch", sql: sql.fetch.once(), parameters: fetch(9999), pages: 12, rows: READY },
        Case {
            name: "fetch_large",
            sql: sql.fetch_large.once(),
            parameters: fetch(1 << 20),
            pages: 12,
            rows: READY,
        },
        Case {
            name: "fetch_late",
            sql: sql.fetch_late.once(),
            parameters: format!(
                "{own}, {after}, {upto}, {quotas}, {limits}, {base}, {snapshot}, {own}, false",
                after = each(first - 1),
                upto = each(last),
                quotas = each(63),
                limits = each(1 << 20),
                base = array([r#""1:1:""#; 16]),
                snapshot = array([r#""999999999:999999999:""#; 16]),
            ),
            pages: 12,
            rows: READY,
        },
        Case {
            name: "fetch_due",
            sql: &sql.fetch_due,
            parameters: format!("{own}, 1000, 16777216, '{{}}', false, {}", each(last)),
            pages: 1,
            rows: partitions_read,
        },
        Case { name: "deliver_free", sql: &sql.deliver_free, parameters: runs, pages: 8, rows: READY },
        Case {
            name: "deliver",
            sql: &sql.deliver,
            parameters: rows(ready) + ", false",
            pages: 12,
            rows: number(ready),
        },
        Case {
            name: "lock_rows",
            sql: &sql.lock_rows,
            parameters: rows(ready) + ", false",
            pages: 16,
            rows: number(ready),
        },
        Case {
            name: "retry",
            sql: &sql.retry,
            parameters: format!(
                "{}, {}, {}, {}, {}, {}, false",
                places(some),
                repeated("1000000"),
                repeated("1"),
                repeated("no"),
                repeated("true"),
                identities(some)
            ),
            pages: 60,
            rows: number(some),
        },
        Case {
            name: "hold",
            sql: &sql.hold,
            parameters: rows(some) + ", false",
            pages: 60,
            rows: number(some),
        },
        Case {
            name: "bury",
            sql: &sql.bury,
            parameters: format!(
                "{}, {}, {}, {}, {}, false",
                places(some),
                repeated("1"),
                repeated("no"),
                repeated("true"),
                identities(some)
            ),
            pages: 60,
            rows: number(some),
        },
        Case {
            name: "hold_later",
            sql: &sql.hold_later,
            parameters: format!("{STUCK}, '{{stuck}}', '{{0}}', false"),
            pages: 60,
            rows: 1,
        },
        Case {
            name: "release",
            sql: &sql.release,
            parameters: format!("{STUCK}, '{{stuck}}', false"),
            pages: 20,
            rows: 256,
        },
        Case {
            name: "repair",
            sql: &sql.repair,
            parameters: format!("'{}', {own}, 1000, {}, 1250, false", relay.0, each(i64::MIN)),
            // Each key is read by one step along an index, and its dead letters by another.
            pages: 12,
            rows: all.min(OTHERS / 4) + partitions_read,
        },
    ]
}

async fn run(session: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(session).await.unwrap();
}

async fn prepare(session: &mut PgConnection, case: &Case<'_>, planned: Planned) -> String {
    let name = format!("{}_{planned:?}", case.name).to_lowercase();
    run(session, format!("PREPARE {name} AS {}", case.sql.as_str())).await;
    name
}

/// What a statement has done.
#[derive(Clone, Copy, Debug)]
struct Used {
    /// Pages that it has read from the cache or the disk.
    pages: i64,
    /// Rows that the steps of its plan have produced and thrown away.
    rows: i64,
}

/// Adds up the rows of a plan.
fn rows(plan: &serde_json::Value) -> i64 {
    let number = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let each: f64 = [
        "Actual Rows",
        "Rows Removed by Filter",
        "Rows Removed by Join Filter",
        "Rows Removed by Index Recheck",
    ]
    .into_iter()
    .map(number)
    .sum();
    let parts = plan["Plans"].as_array().map_or(&[][..], Vec::as_slice);
    (each * number("Actual Loops")) as i64 + parts.iter().map(rows).sum::<i64>()
}

/// Runs a prepared statement, undoes it, and returns its plan and what it has done.
async fn run_case(session: &mut PgConnection, name: &str, parameters: &str) -> (String, Used) {
    let mut transaction = session.begin().await.unwrap();
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS, TIMING off, SUMMARY off, FORMAT json) EXECUTE {name} ({parameters})"
    );
    let plan: serde_json::Value =
        sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).fetch_one(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    let root = &plan[0]["Plan"];
    let pages =
        ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|key| root[key].as_i64().unwrap()).sum();
    (serde_json::to_string_pretty(&plan).unwrap(), Used { pages, rows: rows(root) })
}

/// A ready row, with its identity as strings that an array can hold.
struct Ready {
    partition: i16,
    position: i64,
    id: String,
    time: String,
}

impl Ready {
    /// A row that does not exist.
    fn missing(number: i16) -> Self {
        let (id, time) =
            ("00000000-0000-0000-0000-000000000000".to_owned(), "2000-01-01T00:00:00Z".to_owned());
        Self { partition: number, position: number.into(), id, time }
    }
}

async fn ready_rows(pool: &PgPool) -> Vec<Ready> {
    let rows: Vec<(i16, i64, String, String)> = sqlx::query_as(
        "SELECT partition, position, message_id::text, replace(enqueued_at::text, ' ', 'T')
         FROM outbox_message WHERE available_at IS NULL ORDER BY position",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    rows.into_iter().map(|(partition, position, id, time)| Ready { partition, position, id, time }).collect()
}

#[tokio::test]
async fn no_statement_reads_more_than_it_needs() {
    let Some(server) = Postgres::shared().await else { return };
    let mut wrong = Vec::new();
    for state in STATES {
        let database = server.database().await;
        let pool = database.pool(3).await;
        let outbox = Outbox::new(Config::new()).unwrap();
        outbox.migrate(&pool).await.unwrap();
        let sql = &outbox.shared.statements;
        for table in ["outbox_message", "outbox_dead_letter"] {
            let off =
                format!("ALTER TABLE {table} SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)");
            sqlx::raw_sql(AssertSqlSafe(off)).execute(&pool).await.unwrap();
            let vacuum = AssertSqlSafe(format!("VACUUM ANALYZE {table}"));
            sqlx::raw_sql(vacuum).execute(&pool).await.unwrap();
        }
        let (store, relay) = (outbox.store(pool.clone()), RelayId::new());
        store.heartbeat(relay, Duration::from_secs(600)).await.unwrap();
        let mut session: Lent = store.lend().await.unwrap();
        let mut kept = Vec::new();
        for case in cases(sql, relay, &[Ready::missing(1), Ready::missing(2)], 0) {
            let name = prepare(session.connection(), &case, Planned::WhileEmpty).await;
            for _ in 0..10 {
                let (_, used) = run_case(session.connection(), &name, &case.parameters).await;
                if used.pages > 600 {
                    wrong.push(format!("{}: {used:?} of empty tables", case.name));
                }
            }
            kept.push(name);
        }

        let ready = format!(
            "INSERT INTO outbox_message (topic, key, payload)
             SELECT 't', 'ready ' || i % 500, '' FROM generate_series(1, {READY}) i"
        );
        sqlx::raw_sql(AssertSqlSafe(state.sql())).execute(&pool).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(ready)).execute(&pool).await.unwrap();
        let (ready, others) = (ready_rows(&pool).await, if state == State::Nothing { 0 } else { OTHERS });
        let cases = cases(sql, relay, &ready, others);
        for planned in [Planned::WhileEmpty, Planned::WithoutStatistics, Planned::WithStatistics] {
            if planned == Planned::WithStatistics {
                sqlx::raw_sql("ANALYZE").execute(&pool).await.unwrap();
            }
            for (case, kept) in cases.iter().zip(&kept) {
                let name = match planned {
                    Planned::WhileEmpty => kept.clone(),
                    fresh => prepare(session.connection(), case, fresh).await,
                };
                let (plan, used) = run_case(session.connection(), &name, &case.parameters).await;
                let most = case.pages * case.rows.max(1) + 400;
                if used.pages.max(used.rows) > most {
                    wrong.push(format!(
                        "{} {state:?} {planned:?}: {used:?}, at most {most}\n{plan}",
                        case.name
                    ));
                }
            }
        }
        session.end(Ok(())).await.unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A relay that has passed the scheduled rows does not come back to them.
#[tokio::test]
async fn an_idle_fetch_does_not_read_scheduled_rows() {
    let Some(server) = Postgres::shared().await else { return };
    let database = server.database().await;
    let pool = database.pool(3).await;
    let outbox = Outbox::new(Config::new()).unwrap();
    outbox.migrate(&pool).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(State::Scheduled.sql())).execute(&pool).await.unwrap();
    let (store, relay) = (outbox.store(pool.clone()), RelayId::new());
    let mut reader = PostgresReader::new(store.clone());
    for partition in store.heartbeat(relay, Duration::from_secs(600)).await.unwrap().owned {
        reader.assign(partition);
    }
    let limit = FetchLimit { messages: 1000, bytes: 16 << 20 };
    while reader.fetch(limit, &[]).await.unwrap().more {}

    let scans = reader.scans();
    let own = array(scans.iter().map(|scan| scan.partition));
    let parameters = format!(
        "{own}, {cursors}, {quotas}, {limits}, {own}, '{{}}', false, 1008, {low}, NULL",
        cursors = array(scans.iter().map(|scan| scan.after)),
        quotas = array([63; 16]),
        limits = array([9999; 16]),
        low = array(scans.iter().map(|scan| scan.low)),
    );
    let mut session = store.lend().await.unwrap();
    let case =
        Case { name: "idle", sql: outbox.shared.statements.fetch.once(), parameters, pages: 16, rows: 16 };
    let name = prepare(session.connection(), &case, Planned::WithoutStatistics).await;
    let (plan, used) = run_case(session.connection(), &name, &case.parameters).await;
    assert!(used.pages <= case.pages * case.rows, "{used:?}\n{plan}");
    session.end(Ok(())).await.unwrap();
}
