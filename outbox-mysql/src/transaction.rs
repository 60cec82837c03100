//! Transactions.

use outbox_core::{Error, ErrorKind, Result};
use sqlx::{Connection, MySql, MySqlConnection, MySqlPool, Transaction};

use crate::error::map_error;
use crate::outbox::Outbox;

/// How often a transaction of our own is begun that others got in the way of.
const TRIES: usize = 5;

/// Begins a transaction of a store, on a session that was lent to it. Dropping the future is no harm: the session goes
/// with it, and what was begun on it.
pub(crate) async fn begin_on(session: &mut MySqlConnection) -> Result<Transaction<'_, MySql>> {
    session.begin().await.map_err(map_error)
}

/// Begins an application's transaction at the isolation level of the session.
///
/// In sqlx 0.9.0 a `begin` that is dropped half way gives its connection back to the pool inside the transaction
/// (launchbadge/sqlx#4385). So it runs in a task of its own, to its end, even if the caller goes away.
pub(crate) async fn begin(pool: &MySqlPool) -> Result<Transaction<'static, MySql>> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin().await });
    match begun.await {
        Ok(begun) => begun.map_err(map_error),
        Err(_) => Err(Error::new(ErrorKind::Unavailable, "the runtime is shutting down")),
    }
}

/// Runs a whole transaction of our own again if it was the victim of a deadlock or waited for a lock too long. The
/// server has rolled it back then, or dropping it does.
pub(crate) async fn again<T, F>(mut work: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    for _ in 1..TRIES {
        match work().await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tracing::debug!(error = %error.report(), "a transaction begins anew");
            }
            result => return result,
        }
    }
    work().await
}

impl Outbox {
    /// Begins a transaction, runs `work` in it, and commits. If `work` returns an error, panics, or is dropped, the
    /// transaction is rolled back: neither the changes nor the messages of `work` exist then.
    ///
    /// The isolation level is that of the pool's sessions. To be called within a tokio runtime.
    ///
    /// ```no_run
    /// use outbox_core::Message;
    /// use outbox_mysql::{Config, Outbox};
    ///
    /// # async fn example(pool: sqlx::MySqlPool) -> anyhow::Result<()> {
    /// let outbox = Outbox::new(Config::new())?;
    /// let order: u64 = outbox
    ///     .transaction(&pool, async |connection| {
    ///         let insert = sqlx::query("INSERT INTO orders (customer) VALUES (?)");
    ///         let order = insert.bind(4_i64).execute(&mut *connection).await?.last_insert_id();
    ///         let message = Message::json("order.placed", &order)?.key("customer-4").build()?;
    ///         outbox.enqueue(connection, &message).await?;
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
    /// A dropped call has committed or has been rolled back, as a whole.
    pub async fn transaction<T, E, F>(&self, pool: &MySqlPool, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut MySqlConnection) -> Result<T, E>,
        E: From<Error>,
    {
        let mut transaction = begin(pool).await?;
        // If this fails or unwinds, dropping the transaction rolls it back.
        let value = work(&mut transaction).await?;
        transaction.commit().await.map_err(map_error)?;
        Ok(value)
    }
}
