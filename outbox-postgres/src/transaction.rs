//! Transactions.

use outbox_core::{Error, ErrorKind, Result};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::error::map_error;
use crate::outbox::Outbox;

/// Begins a transaction in which every statement sees what was committed before it, whatever the database's default.
///
/// In sqlx 0.9.0 a `begin` that is dropped half way gives its connection back to the pool inside the transaction
/// (launchbadge/sqlx#4385). So it runs in a task of its own, to its end, even if the caller goes away.
pub(crate) async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await });
    match begun.await {
        Ok(begun) => begun.map_err(map_error),
        Err(_) => Err(Error::new(ErrorKind::Unavailable, "the runtime is shutting down")),
    }
}

impl Outbox {
    /// Begins a transaction, runs `work` in it, and commits. If `work` returns an error, panics, or is dropped, the
    /// transaction is rolled back: neither the changes nor the messages of `work` exist then.
    ///
    /// The isolation level is READ COMMITTED; begin a transaction yourself for another one. To be called within a
    /// tokio runtime.
    ///
    /// ```no_run
    /// use outbox_core::Message;
    /// use outbox_postgres::{Config, Outbox};
    ///
    /// # async fn example(pool: sqlx::PgPool) -> anyhow::Result<()> {
    /// let outbox = Outbox::new(Config::new())?;
    /// let order: i64 = outbox
    ///     .transaction(&pool, async |connection| {
    ///         let insert = sqlx::query_scalar("INSERT INTO orders (customer) VALUES ($1) RETURNING id");
    ///         let order = insert.bind(4_i64).fetch_one(&mut *connection).await?;
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
    /// The error of `work`, or else the one of beginning or committing. If the commit fails with the verdict
    /// [`Unknown`](outbox_core::Verdict::Unknown), it may have taken effect.
    ///
    /// # Cancel safety
    /// A dropped call has committed or has been rolled back, as a whole.
    pub async fn transaction<T, E, F>(&self, pool: &PgPool, work: F) -> Result<T, E>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
        E: From<Error>,
    {
        let mut transaction = begin(pool).await?;
        // If this fails or unwinds, dropping the transaction rolls it back.
        let value = work(&mut transaction).await?;
        transaction.commit().await.map_err(map_error)?;
        Ok(value)
    }
}
