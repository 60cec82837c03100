//! The harness itself, on a real SQL Server.

#![allow(clippy::unwrap_used, reason = "the functions next to the tests are test code")]

use std::time::Duration;

use integration_tests::mssql::Client;
use integration_tests::{Mode, Server, SqlServer, eventually};
use tiberius::Config;
use tokio::net::TcpStream;
use tokio_util::compat::TokioAsyncWriteCompatExt;

const DEADLINE: Duration = Duration::from_secs(120);

async fn connect(config: Config) -> tiberius::Result<Client> {
    let stream = TcpStream::connect(config.get_addr()).await?;
    Box::pin(Client::connect(config, stream.compat_write())).await
}

async fn run(client: &mut Client, batch: &str) -> tiberius::Result<()> {
    client.simple_query(batch).await?.into_results().await.map(drop)
}

async fn number(client: &mut Client, query: &str) -> tiberius::Result<i32> {
    let row = client.simple_query(query).await?.into_row().await?;
    Ok(row.and_then(|row| row.get(0)).unwrap())
}

#[tokio::test]
async fn databases_of_two_tests_do_not_see_each_other() {
    let Some(server) = SqlServer::shared().await else { return };
    let (one, other) = (server.database().await, server.database().await);
    assert_ne!(one.name(), other.name());
    let (mut one, mut other) = (one.connect().await, other.connect().await);
    run(&mut one, "CREATE TABLE thing (id int)").await.unwrap();
    run(&mut other, "CREATE TABLE thing (id int); INSERT INTO thing VALUES (1)").await.unwrap();
    assert_eq!(number(&mut one, "SELECT count(*) FROM thing").await.unwrap(), 0);
    assert_eq!(number(&mut other, "SELECT count(*) FROM thing").await.unwrap(), 1);
}

#[tokio::test]
async fn a_database_goes_with_its_value() {
    let Some(server) = SqlServer::shared().await else { return };
    let (database, other) = (server.database().await, server.database().await);
    let query = format!("SELECT count(*) FROM sys.databases WHERE name = '{}'", database.name());
    let admin = tokio::sync::Mutex::new(other.connect().await);
    assert_eq!(number(&mut *admin.lock().await, &query).await.unwrap(), 1);
    drop(database);
    eventually("the database to be dropped", DEADLINE, || async {
        (number(&mut *admin.lock().await, &query).await.unwrap() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_committed_outlives_a_kill() {
    let Some(server) = SqlServer::start().await else { return };
    let database = server.database().await;
    let mut session = database.connect().await;
    run(&mut session, "CREATE TABLE thing (id int); INSERT INTO thing VALUES (1)").await.unwrap();
    server.kill().await;
    run(&mut session, "SELECT 1").await.unwrap_err();
    server.restart().await;
    // The server accepts connections before it has recovered every database.
    eventually("what was committed", DEADLINE, || async {
        let mut session = connect(database.config()).await.ok()?;
        let count = number(&mut session, "SELECT count(*) FROM thing").await.ok()?;
        (count == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_proxy_stands_between_client_and_server() {
    let Some(server) = SqlServer::shared().await else { return };
    let proxy = server.proxy().await;
    let database = server.database().await;
    let mut session = connect(database.config_through(&proxy)).await.unwrap();
    assert_eq!(number(&mut session, "SELECT 1").await.unwrap(), 1);

    // The statement is executed, and its client does not learn of it.
    proxy.set(Mode::CutAnswersAfter(0)).await;
    run(&mut session, "CREATE TABLE thing (id int)").await.unwrap_err();
    let direct = tokio::sync::Mutex::new(database.connect().await);
    eventually("the work to be done", DEADLINE, || async {
        number(&mut *direct.lock().await, "SELECT count(*) FROM thing").await.ok()
    })
    .await;

    proxy.set(Mode::Refuse).await;
    connect(database.config_through(&proxy)).await.unwrap_err();
}
