//! Transactions.

use std::time::Duration;

use outbox_core::{Error, Result};
use tokio::time::timeout;

use crate::call::begin;
use crate::error::map_error;
use crate::outbox::Outbox;
use crate::pool::{Client, Connection, Pool};

/// How long a rollback may take before the connection is thrown away, which rolls back as well.
const ROLLBACK: Duration = Duration::from_secs(5);

impl Outbox {
    /// Begins a transaction, runs `work` in it, and commits. If `work` returns an error, panics, or is dropped, the
    /// transaction is rolled back: neither the changes nor the messages of `work` exist then.
    ///
    /// The isolation level is READ COMMITTED; begin a transaction yourself for another one. To be called within a
    /// tokio runtime.
    ///
    /// If a statement fails, return its error. SQL Server goes on after most errors as if nothing had happened, and
    /// after some others, such as a deadlock, with no transaction at all: what is done then is committed by itself.
    ///
    /// ```no_run
    /// use outbox_core::Message;
    /// use outbox_mssql::{Config, Outbox, Pool};
    ///
    /// # async fn example(pool: Pool) -> anyhow::Result<()> {
    /// let outbox = Outbox::new(Config::new())?;
    /// let order: i64 = outbox
    ///     .transaction(&pool, async |client| {
    ///         let insert = "INSERT INTO orders (customer) OUTPUT inserted.id VALUES (@P1)";
    ///         let row = client.query(insert, &[&4_i64]).await?.into_row().await?;
    ///         let order: i64 = row.and_then(|row| row.get(0)).unwrap_or_default();
    ///         let message = Message::json("order.placed", &order)?.key("customer-4").build()?;
    ///         outbox.enqueue(client, &message).await?;
    ///         anyhow::Ok(order)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The error of `work`, or else the one of beginning or committing. After
    /// [`ErrorKind::Conflict`](outbox_core::ErrorKind::Conflict) (a deadlock, or a lock that was waited for too long)
    /// run it again from its beginning. If the commit fails with the verdict
    /// [`Unknown`](outbox_core::Verdict::Unknown), it may have taken effect.
    ///
    /// # Cancel safety
    /// A dropped call has committed or has been rolled back, as a whole. Its connection is closed.
    pub async fn transaction<T, E, F>(&self, pool: &Pool, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut Client) -> Result<T, E>,
        E: From<Error>,
    {
        // If anything below unwinds or is dropped, the connection goes, and the server rolls back.
        let mut connection = begin(pool).await?;
        match work(&mut connection).await {
            Ok(value) => {
                connection.commit_transaction().await.map_err(map_error)?;
                connection.give_back();
                Ok(value)
            }
            Err(error) => {
                rollback(connection).await;
                Err(error)
            }
        }
    }
}

/// Rolls back, so that the connection can be used again, or throws it away.
async fn rollback(mut connection: Connection) {
    let rolled_back = timeout(ROLLBACK, connection.rollback_transaction()).await;
    if matches!(rolled_back, Ok(Ok(()))) {
        connection.give_back();
    }
}
