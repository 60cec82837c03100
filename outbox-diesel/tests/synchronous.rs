//! Enqueueing in the transactions of a synchronous connection.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use diesel::Connection as _;
use diesel::result::Error as DieselError;
use outbox_core::Error;
use outbox_diesel::TransactionError;
use support::{Scene, blocking, message};

#[tokio::test]
async fn a_synchronous_transaction_takes_its_messages_along() {
    let Some(scene) = Scene::new().await else { return };
    let outbox = scene.outbox.clone();
    let (_, ()) = blocking(scene.sync_connection().await, move |connection| {
        let failed = connection.transaction::<(), TransactionError, _>(|connection| {
            outbox.enqueue(connection, &message("rolled back"))?;
            outbox.enqueue_batch(connection, &[message("rolled back")])?;
            Err(DieselError::RollbackTransaction.into())
        });
        assert!(matches!(failed, Err(TransactionError::Diesel(DieselError::RollbackTransaction))));

        let committed = connection.transaction::<(), TransactionError, _>(|connection| {
            // A transaction in a transaction is a savepoint.
            let failed = connection.transaction::<(), TransactionError, _>(|connection| {
                outbox.enqueue(connection, &message("rolled back"))?;
                Err(Error::config("changed my mind").into())
            });
            assert!(matches!(failed, Err(TransactionError::Outbox(_))));
            connection.transaction::<(), TransactionError, _>(|connection| {
                Ok(outbox.enqueue(connection, &message("in a savepoint"))?)
            })?;
            Ok(outbox.enqueue(connection, &message("in the transaction"))?)
        });
        committed.unwrap();
        outbox.enqueue(connection, &message("alone")).unwrap();
        outbox.enqueue_batch(connection, &[]).unwrap();
    })
    .await;
    assert_eq!(scene.topics().await, ["in a savepoint", "in the transaction", "alone"]);
}
