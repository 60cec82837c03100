//! The harness itself, on a real PostgreSQL: a test that relies on a failure must be able to rely on the
//! harness. Most promises are functions, and are tested on both versions.

#![allow(clippy::unwrap_used, reason = "the functions next to the tests are test code")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::postgres::{Edition, PostgresServer, edition};
use integration_tests::{Environment, Mode, Postgres, Server, Subprocess, eventually};
use sqlx::Connection;
use sqlx::postgres::{PgConnection, PgPool};

const DEADLINE: Duration = Duration::from_secs(120);
/// For an event that must not happen. Long compared with a round trip on one machine.
const IN_VAIN: Duration = Duration::from_millis(300);

async fn one(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(connection).await
}

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM thing").fetch_one(pool).await.unwrap()
}

async fn databases_of_two_tests_do_not_see_each_other<E: Edition>() {
    let Some(postgres) = PostgresServer::<E>::shared().await else { return };
    let (one, other) = (postgres.database().await, postgres.database().await);
    assert_ne!(one.name(), other.name());
    let (one, other) = (one.pool(2).await, other.pool(2).await);
    sqlx::raw_sql("CREATE TABLE thing (id int)").execute(&one).await.unwrap();
    sqlx::raw_sql("CREATE TABLE thing (id int); INSERT INTO thing VALUES (1)").execute(&other).await.unwrap();
    assert_eq!(count(&one).await, 0);
    assert_eq!(count(&other).await, 1);
}

async fn a_database_goes_with_its_value<E: Edition>() {
    let Some(postgres) = PostgresServer::<E>::shared().await else { return };
    let database = postgres.database().await;
    let name = database.name().to_owned();
    let _in_use = database.pool(1).await;
    drop(database);
    let mut admin = PgConnection::connect(postgres.url()).await.unwrap();
    let admin = tokio::sync::Mutex::new(&mut admin);
    eventually("the database to be dropped", DEADLINE, || async {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname = $1")
            .bind(&name)
            .fetch_one(&mut **admin.lock().await)
            .await
            .unwrap();
        (left == 0).then_some(())
    })
    .await;
}

async fn what_was_committed_outlives_a_kill<E: Edition>() {
    let Some(postgres) = PostgresServer::<E>::start().await else { return };
    let database = postgres.database().await;
    let pool = database.pool(2).await;
    sqlx::raw_sql("CREATE TABLE thing (id int); INSERT INTO thing VALUES (1)").execute(&pool).await.unwrap();
    let mut session = PgConnection::connect(database.url()).await.unwrap();

    postgres.kill().await;
    assert!(one(&mut session).await.is_err(), "a session outlived its server");
    assert!(
        PgConnection::connect(database.url()).await.is_err(),
        "a server that was killed took a connection"
    );

    postgres.restart().await;
    assert_eq!(count(&database.pool(2).await).await, 1);
    // Also while it is up, and while it is stopped.
    postgres.restart().await;
    postgres.stop().await;
    postgres.restart().await;
    assert_eq!(count(&database.pool(2).await).await, 1);
}

async fn a_stopped_server_answers_nobody_until_it_goes_on<E: Edition>() {
    let Some(postgres) = PostgresServer::<E>::start().await else { return };
    let mut session = PgConnection::connect(postgres.url()).await.unwrap();
    postgres.stop().await;
    {
        let answer = one(&mut session);
        tokio::pin!(answer);
        assert!(tokio::time::timeout(IN_VAIN, &mut answer).await.is_err(), "an open session was answered");
        let newcomer = PgConnection::connect(postgres.url());
        assert!(tokio::time::timeout(IN_VAIN, newcomer).await.is_err(), "a new session was answered");
        postgres.cont().await;
        assert_eq!(tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap(), 1);
    }
    assert_eq!(one(&mut session).await.unwrap(), 1);
}

async fn the_proxy_stands_between_client_and_server<E: Edition>() {
    let Some(postgres) = PostgresServer::<E>::shared().await else { return };
    let proxy = postgres.proxy().await;
    let database = postgres.database().await;
    let url = database.url_through(&proxy);
    let mut session = PgConnection::connect(&url).await.unwrap();
    assert_eq!(one(&mut session).await.unwrap(), 1);

    proxy.set(Mode::Delay(Duration::from_millis(100))).await;
    let asked = Instant::now();
    assert_eq!(one(&mut session).await.unwrap(), 1);
    assert!(asked.elapsed() >= Duration::from_millis(200), "delayed by {:?} only", asked.elapsed());

    // The statement is executed, and its client does not learn of it.
    proxy.set(Mode::CutAnswersAfter(0)).await;
    sqlx::raw_sql("CREATE TABLE thing (id int)").execute(&mut session).await.unwrap_err();
    assert_eq!(count(&database.pool(1).await).await, 0);

    proxy.set(Mode::Refuse).await;
    PgConnection::connect(&url).await.unwrap_err();
    proxy.set(Mode::Pass).await;
    assert_eq!(one(&mut PgConnection::connect(&url).await.unwrap()).await.unwrap(), 1);
}

/// Defines two tests for each promise.
macro_rules! on_both {
    ($($promise:ident),* $(,)?) => {
        mod of_the_system {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise::<super::edition::System>().await;
            })*
        }

        mod newer {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise::<super::edition::Newer>().await;
            })*
        }
    };
}

on_both!(
    databases_of_two_tests_do_not_see_each_other,
    a_database_goes_with_its_value,
    what_was_committed_outlives_a_kill,
    a_stopped_server_answers_nobody_until_it_goes_on,
    the_proxy_stands_between_client_and_server,
);

async fn version<E: Edition>() -> Option<i32> {
    let mut session = PgConnection::connect(PostgresServer::<E>::shared().await?.url()).await.unwrap();
    let number = "SELECT current_setting('server_version_num')::int / 10000";
    Some(sqlx::query_scalar(number).fetch_one(&mut session).await.unwrap())
}

#[tokio::test]
async fn the_newer_version_is_not_older() {
    let Some(system) = version::<edition::System>().await else { return };
    let Some(newer) = version::<edition::Newer>().await else { return };
    assert!(newer >= system, "the newer version is {newer}, that of the system {system}");
}

/// The files below a folder whose names end with this string.
fn records(folder: &Path, end: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => records(&entry.path(), end),
            _ => vec![entry.path()],
        })
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect()
}

#[tokio::test]
async fn nothing_outlives_a_test_process_that_is_killed() {
    // Only a server that runs as a process of this machine leaves records to inspect.
    let environment = Environment::of_process().with("OUTBOX_TEST_MODE", "process");
    let Some(_installed) = Postgres::start_in(environment).await else { return };

    let folder = tempfile::tempdir().unwrap();
    // The server's user must have access.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "of_the_system::databases_of_two_tests_do_not_see_each_other"]);
    command.env("OUTBOX_TEST_TMPDIR", folder.path()).env("OUTBOX_TEST_MODE", "process");
    command.env_remove("OUTBOX_TEST_POSTGRES_URL");
    let mut tests = Subprocess::start("tests", command);
    let record = eventually("the server's process", DEADLINE, || async {
        let record = fs::read_to_string(records(folder.path(), ".process").first()?).ok()?;
        record.ends_with('\n').then_some(record)
    })
    .await;
    tests.kill_alone();

    eventually("the folders to be removed", DEADLINE, || async {
        fs::read_dir(folder.path()).unwrap().next().is_none().then_some(())
    })
    .await;
    let server = record.split(' ').next().unwrap();
    eventually("the server to end", DEADLINE, || async {
        let status = fs::read_to_string(format!("/proc/{server}/stat")).unwrap_or_default();
        (status.is_empty() || status.contains(") Z ")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_replaced_by_another() {
    let nobody = Environment::of_process()
        .with("OUTBOX_TEST_MODE", "process")
        .with("OUTBOX_TEST_POSTGRES_BIN", "/nonexistent");
    let error = Postgres::try_start(nobody).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("OUTBOX_TEST_POSTGRES_BIN is /nonexistent"), "{text}");
    assert!(text.contains("container: not allowed"), "{text}");
}
