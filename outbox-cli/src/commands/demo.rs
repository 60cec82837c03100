//! `outbox demo`: an outbox at work, without any server.

use std::time::Duration;

use outbox_core::{DeadLetterFilter, Event, Message, Received, Relay, RetryPolicy, Store};
use outbox_sqlite::sqlx::{self, SqlitePool};
use outbox_sqlite::{Config, OpenOptions, Outbox};
use serde_json::json;
use tokio::time::timeout;

use crate::exit::Failure;
use crate::output::{self, HEADING, QUIET, noteln, styled};
use crate::publishers::Terminal;

/// Nothing here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The topic that the demo's broker has no place for.
const HOMELESS: &str = "order.lost";

pub(crate) async fn run() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.db");
    let pool = OpenOptions::new(&file).open().await?;
    let outbox = Outbox::new(Config::new())?;
    outbox.migrate(&pool).await?;
    heading("A shop changes its orders, and enqueues a message in the same transaction.");
    prepare(&pool).await.map_err(outbox_sqlite::map_error)?;
    for (order, topic, commit) in [
        (1, "order.placed", true),
        (2, "order.placed", false),
        (3, "order.placed", true),
        (3, HOMELESS, true),
        (3, "order.paid", true),
        (1, "order.paid", true),
    ] {
        change(&pool, &outbox, order, topic, commit).await?;
        let end = if commit { "COMMIT" } else { "ROLLBACK" };
        noteln(format_args!(
            "  BEGIN; UPDATE orders … {order}; enqueue {topic} with key order-{order}; {end};"
        ));
    }

    heading("A relay publishes what was committed. Here the broker is this terminal:");
    let store = outbox.store(pool.clone());
    let relay = Relay::builder(store.clone(), Terminal::new(true, vec![HOMELESS.to_owned()]))
        .configure(|settings| {
            settings.retry =
                RetryPolicy::default().max_attempts(2).initial(Duration::from_millis(50)).jitter(false);
        })
        .build()?;
    let mut events = relay.events();
    let relay = relay.spawn();
    let ended = async {
        // Of the five that were committed, one is dead, and one waits behind it.
        let mut left = 4;
        while left > 0 {
            match events.recv().await {
                Some(Received::Event(Event::Delivered(_) | Event::DeadLettered(_))) => left -= 1,
                Some(_) => {}
                None => break,
            }
        }
    };
    timeout(PATIENCE, ended).await.map_err(|_| Failure::failed("the relay did not stop"))?;

    heading("The message that was refused is a dead letter now, and the later messages of its key wait:");
    let letters =
        store.dead_letters().ok_or_else(|| Failure::failed("the store does not support dead letters"))?;
    for letter in letters.list(&DeadLetterFilter::all(), None, 10).await? {
        let topic = letter.topic.unwrap_or_default();
        output::data(format_args!("{topic} after {} attempts: {}\n", letter.attempts, letter.error))?;
    }
    heading("The dead letter is discarded, and the later messages of its key are delivered:");
    letters.discard(&DeadLetterFilter::all(), 10).await?;
    let delivered = async {
        while let Some(received) = events.recv().await {
            if matches!(received, Received::Event(Event::Delivered(_))) {
                break;
            }
        }
    };
    timeout(PATIENCE, delivered).await.map_err(|_| Failure::failed("the relay did not stop"))?;
    relay.shutdown().await?;
    let stats = store.stats(100).await?;
    heading(&format!("The outbox holds {} messages and {} dead letters.", stats.backlog, stats.dead_letters));
    noteln(styled(
        QUIET,
        "Next: write an outbox.toml, then `outbox config check`, `outbox migrate`, `outbox relay`.",
    ));
    pool.close().await;
    folder.close()?;
    Ok(())
}

fn heading(text: &str) {
    noteln(format_args!("\n{}", styled(HEADING, text)));
}

async fn prepare(pool: &SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::query("CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT NOT NULL)").execute(pool).await?;
    for order in 1..=3 {
        sqlx::query("INSERT INTO orders VALUES (?, 'new')").bind(order).execute(pool).await?;
    }
    Ok(())
}

/// Changes an order and enqueues a message about it, in one transaction.
async fn change(
    pool: &SqlitePool,
    outbox: &Outbox,
    order: i64,
    topic: &str,
    commit: bool,
) -> Result<(), Failure> {
    let message = Message::json(topic, &json!({ "order": order }))?.key(format!("order-{order}")).build()?;
    let work = async {
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(outbox_sqlite::map_error)?;
        sqlx::query("UPDATE orders SET state = ? WHERE id = ?")
            .bind(topic)
            .bind(order)
            .execute(&mut *transaction)
            .await
            .map_err(outbox_sqlite::map_error)?;
        outbox.enqueue(&mut *transaction, &message).await?;
        let end = if commit { transaction.commit().await } else { transaction.rollback().await };
        end.map_err(outbox_sqlite::map_error)
    };
    Ok(work.await?)
}
