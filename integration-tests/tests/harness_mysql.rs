//! The harness itself, on a real MariaDB and a real MySQL: a test that relies on a failure must be able to
//! rely on the harness. Each promise is a function, and is tested on both.

#![allow(clippy::unwrap_used, reason = "the functions next to the tests are test code")]

use std::time::{Duration, Instant};

use integration_tests::mysql::{MySqlServer, Product, product};
use integration_tests::{Mode, Server, eventually};
use sqlx::mysql::{MySqlConnection, MySqlPool};
use sqlx::{Connection, Executor, MySql};

const DEADLINE: Duration = Duration::from_secs(120);
/// For an event that must not happen. Long compared with a round trip on one machine.
const IN_VAIN: Duration = Duration::from_millis(300);

async fn one(connection: &mut MySqlConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("SELECT 1").fetch_one(connection).await
}

async fn count(pool: &MySqlPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM thing").fetch_one(pool).await.unwrap()
}

async fn make_a_thing<'e>(executor: impl Executor<'e, Database = MySql>) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("CREATE TABLE thing (id int); INSERT INTO thing VALUES (1)")
        .execute(executor)
        .await
        .map(drop)
}

async fn databases_of_two_tests_do_not_see_each_other<P: Product>() {
    let Some(server) = MySqlServer::<P>::shared().await else { return };
    let (one, other) = (server.database().await, server.database().await);
    assert_ne!(one.name(), other.name());
    let (one, other) = (one.pool(2).await, other.pool(2).await);
    sqlx::raw_sql("CREATE TABLE thing (id int)").execute(&one).await.unwrap();
    make_a_thing(&other).await.unwrap();
    assert_eq!(count(&one).await, 0);
    assert_eq!(count(&other).await, 1);
}

async fn a_database_goes_with_its_value<P: Product>() {
    let Some(server) = MySqlServer::<P>::shared().await else { return };
    let database = server.database().await;
    let name = database.name().to_owned();
    let pool = database.pool(2).await;
    make_a_thing(&pool).await.unwrap();
    // Both an idle session and one that locks the table it has read.
    let mut in_use = pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM thing FOR UPDATE").execute(&mut *in_use).await.unwrap();
    drop(database);
    let admin = MySqlPool::connect(server.url()).await.unwrap();
    eventually("the database to be dropped", DEADLINE, || async {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM information_schema.schemata WHERE schema_name = ?")
                .bind(&name)
                .fetch_one(&admin)
                .await
                .unwrap();
        (left == 0).then_some(())
    })
    .await;
}

async fn text_is_whole_unicode<P: Product>() {
    let Some(server) = MySqlServer::<P>::shared().await else { return };
    let database = server.database().await;
    let pool = database.pool(1).await;
    sqlx::raw_sql("CREATE TABLE thing (name varchar(10))").execute(&pool).await.unwrap();
    sqlx::query("INSERT INTO thing VALUES (?)").bind("é漢🦀").execute(&pool).await.unwrap();
    let name: String = sqlx::query_scalar("SELECT name FROM thing").fetch_one(&pool).await.unwrap();
    assert_eq!(name, "é漢🦀");
}

async fn what_was_committed_outlives_a_kill<P: Product>() {
    let Some(server) = MySqlServer::<P>::start().await else { return };
    let database = server.database().await;
    let pool = database.pool(2).await;
    sqlx::raw_sql("CREATE TABLE thing (id int)").execute(&pool).await.unwrap();
    let mut session = MySqlConnection::connect(database.url()).await.unwrap();
    // Committed one by one, with no time between the last commit and the kill.
    for id in 0..50 {
        sqlx::query("INSERT INTO thing VALUES (?)").bind(id).execute(&mut session).await.unwrap();
    }
    server.kill().await;
    assert!(one(&mut session).await.is_err(), "a session outlived its server");
    assert!(
        MySqlConnection::connect(database.url()).await.is_err(),
        "a server that was killed took a connection"
    );

    server.restart().await;
    assert_eq!(count(&database.pool(2).await).await, 50);
    // Also while it is up, and while it is stopped.
    server.restart().await;
    server.stop().await;
    server.restart().await;
    assert_eq!(count(&database.pool(2).await).await, 50);
}

async fn a_stopped_server_answers_nobody_until_it_goes_on<P: Product>() {
    let Some(server) = MySqlServer::<P>::start().await else { return };
    let mut session = MySqlConnection::connect(server.url()).await.unwrap();
    server.stop().await;
    {
        let answer = one(&mut session);
        tokio::pin!(answer);
        assert!(tokio::time::timeout(IN_VAIN, &mut answer).await.is_err(), "an open session was answered");
        let newcomer = MySqlConnection::connect(server.url());
        assert!(tokio::time::timeout(IN_VAIN, newcomer).await.is_err(), "a new session was answered");
        server.cont().await;
        assert_eq!(tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap(), 1);
    }
    assert_eq!(one(&mut session).await.unwrap(), 1);
}

async fn the_proxy_stands_between_client_and_server<P: Product>() {
    let Some(server) = MySqlServer::<P>::shared().await else { return };
    let proxy = server.proxy().await;
    let database = server.database().await;
    let url = database.url_through(&proxy);
    let mut session = MySqlConnection::connect(&url).await.unwrap();
    assert_eq!(one(&mut session).await.unwrap(), 1);

    proxy.set(Mode::Delay(Duration::from_millis(100))).await;
    let asked = Instant::now();
    assert_eq!(one(&mut session).await.unwrap(), 1);
    assert!(asked.elapsed() >= Duration::from_millis(200), "delayed by {:?} only", asked.elapsed());

    // The statement is executed, and its client does not learn of it.
    proxy.set(Mode::CutAnswersAfter(0)).await;
    make_a_thing(&mut session).await.unwrap_err();
    let pool = database.pool(1).await;
    eventually("the work to be done", DEADLINE, || async {
        let found: Result<i64, _> = sqlx::query_scalar("SELECT count(*) FROM thing").fetch_one(&pool).await;
        (found.ok()? == 1).then_some(())
    })
    .await;

    proxy.set(Mode::Refuse).await;
    MySqlConnection::connect(&url).await.unwrap_err();
    proxy.set(Mode::Pass).await;
    assert_eq!(one(&mut MySqlConnection::connect(&url).await.unwrap()).await.unwrap(), 1);
}

/// Defines two tests for each promise.
macro_rules! on_both {
    ($($promise:ident),* $(,)?) => {
        mod mariadb {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise::<super::product::MariaDb>().await;
            })*
        }

        mod mysql {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise::<super::product::MySql>().await;
            })*
        }
    };
}

on_both!(
    databases_of_two_tests_do_not_see_each_other,
    a_database_goes_with_its_value,
    text_is_whole_unicode,
    what_was_committed_outlives_a_kill,
    a_stopped_server_answers_nobody_until_it_goes_on,
    the_proxy_stands_between_client_and_server,
);
