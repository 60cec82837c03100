//! Running statements, and running them again.

use std::time::{Duration, Instant};

use outbox_core::{ErrorKind, Result};
use tiberius::{Row, ToSql};

use crate::error::map_error;
use crate::pool::{Client, Connection, Pool};

/// How often a call of our own is made that others got in the way of, and how long it may have taken by then: one that
/// waited for a lock until the server gave up is not made again.
const TRIES: usize = 5;
const SOON: Duration = Duration::from_secs(5);

/// The rows of each `SELECT` and each `OUTPUT`, in their order.
#[derive(Debug)]
pub(crate) struct Results(std::vec::IntoIter<Vec<Row>>);

impl Results {
    /// The next ones. Empty if there are none, too.
    pub(crate) fn rows(&mut self) -> Vec<Row> {
        self.0.next().unwrap_or_default()
    }
}

pub(crate) async fn query(
    client: &mut Client,
    statement: &str,
    parameters: &[&dyn ToSql],
) -> Result<Results> {
    let stream = client.query(statement, parameters).await.map_err(map_error)?;
    let results = stream.into_results().await.map_err(map_error)?;
    Ok(Results(results.into_iter()))
}

/// Runs a statement whose answer says nothing.
pub(crate) async fn execute(client: &mut Client, statement: &str, parameters: &[&dyn ToSql]) -> Result<()> {
    client.execute(statement, parameters).await.map_err(map_error)?;
    Ok(())
}

/// Begins a transaction in which every statement sees what was committed before it.
pub(crate) async fn begin(pool: &Pool) -> Result<Connection> {
    let mut connection = pool.call().await?;
    let isolation = tiberius::IsolationLevel::ReadCommitted;
    connection.begin_transaction_with_isolation(isolation).await.map_err(map_error)?;
    Ok(connection)
}

/// Commits, and puts the connection back.
pub(crate) async fn commit(mut connection: Connection) -> Result<()> {
    connection.commit_transaction().await.map_err(map_error)?;
    connection.give_back();
    Ok(())
}

/// Makes a call of our own again if it was the victim of a deadlock, or of another conflict that shows soon. It has to
/// begin with a connection of its own: an error has thrown the former one away.
pub(crate) async fn again<T, F>(mut work: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begun = Instant::now();
    for _ in 1..TRIES {
        match work().await {
            Err(error) if error.kind() == ErrorKind::Conflict && begun.elapsed() < SOON => {
                tracing::debug!(error = %error.report(), "a call is made again");
            }
            result => return result,
        }
    }
    work().await
}
