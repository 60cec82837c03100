//! The transactional outbox in one file, without a server and without settings:
//!
//! ```text
//! cargo run -p quickstart
//! ```
//!
//! A small shop keeps its orders in an SQLite file in a temporary folder. Each change of an order enqueues a message
//! in the same transaction. A relay then publishes the messages to a "broker" inside this process, which prints each
//! message and fails twice. Finally, the program prints the state of every message and the reason for it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to the person who runs it")]

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, fmt, fs, process};

use anyhow::{Context, bail, ensure};
use async_trait::async_trait;
use outbox::sqlite::sqlx::{self, SqlitePool};
use outbox::sqlite::{Config, OpenOptions, Outbox};
use outbox::{
    DeadLetterFilter, DeadLetters, Delivery, Error, ErrorKind, Event, Events, Message, MessageId, Outcome,
    Publisher, PublisherCapabilities, Received, Relay, RetryPolicy, Store,
};
use serde_json::json;

/// Far longer than any step takes. After it the program reports an error instead of waiting forever.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let folder = TemporaryFolder::create()?;
    let mut shop = Shop::open(&folder.0.join("shop.db")).await?;

    println!("1. THE SHOP changes orders and enqueues messages, both in one transaction\n");
    shop.place(1, "alice", Card::Good).await?;
    shop.place(2, "bob", Card::Declined).await?;
    shop.place(3, "carol", Card::Good).await?;
    shop.change(3, "paid", "order.paid").await?;
    shop.place(4, "dave", Card::Good).await?;
    shop.change(4, "gift-wrapped", "order.gift_wrapped").await?;
    shop.change(4, "paid", "order.paid").await?;

    println!("\n2. THE RELAY publishes what was committed, and tries again what failed\n");
    let broker = Broker::with_queues_for(["order.placed", "order.paid"]);
    let store = shop.outbox.store(shop.pool.clone());
    let relay = Relay::builder(store.clone(), broker.clone())
        .configure(|settings| {
            // The defaults wait longer and try more often; here nobody wants to wait.
            settings.retry = RetryPolicy::default()
                .max_attempts(3)
                .initial(Duration::from_millis(100))
                .max(Duration::from_millis(100))
                .jitter(false);
        })
        .build()?;
    // Before it starts, so that nothing is missed.
    let mut events = relay.events();
    let relay = relay.spawn();
    let mut fates = Fates::default();
    fates.watch(&mut events, 5).await?;

    println!("\n3. WHAT BECAME OF THEM\n");
    let dead_letters = store.dead_letters().context("this store keeps dead letters")?;
    shop.tell(&fates, dead_letters).await?;

    println!(
        "\n4. A REDRIVE: the reason is gone (the broker has a queue for gift-wrapping now), so try again\n"
    );
    broker.add_queue("order.gift_wrapped");
    let redriven = dead_letters.redrive(&DeadLetterFilter::all().topic("order.gift_wrapped"), 100).await?;
    println!(
        "   shop    redrives {redriven} dead letter: it is due at once, at its old place in its key's order"
    );
    fates.watch(&mut events, 2).await?;

    println!("\n5. IN THE END\n");
    shop.tell(&fates, dead_letters).await?;
    relay.shutdown().await?;
    let stats = store.stats(1000).await?;
    println!("   The outbox holds {} messages and {} dead letters.", stats.backlog, stats.dead_letters);
    shop.pool.close().await;
    Ok(())
}

/// A folder that is removed when this value is dropped. A program with more needs uses the crate `tempfile`.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn create() -> anyhow::Result<Self> {
        let path = env::temp_dir().join(format!("outbox-quickstart-{}", process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create the folder {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove the folder {}: {error}", self.0.display());
        }
    }
}

/// The service: it owns the table `orders`, and an outbox in the same database.
struct Shop {
    pool: SqlitePool,
    outbox: Outbox,
    /// Everything it ever meant to send, for the account at the end. A real service keeps no such list.
    sent: Vec<Sent>,
}

struct Sent {
    order: i64,
    message: Message,
    committed: bool,
}

#[derive(PartialEq)]
enum Card {
    Good,
    Declined,
}

#[derive(Debug)]
struct CardDeclined;

impl fmt::Display for CardDeclined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the card was declined")
    }
}

impl std::error::Error for CardDeclined {}

impl Shop {
    async fn open(file: &Path) -> anyhow::Result<Self> {
        let pool = OpenOptions::new(file).open().await?;
        sqlx::query(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, state TEXT NOT NULL)",
        )
        .execute(&pool)
        .await?;
        let outbox = Outbox::new(Config::new())?;
        outbox.migrate(&pool).await?;
        Ok(Self { pool, outbox, sent: Vec::new() })
    }

    /// Takes a new order.
    async fn place(&mut self, order: i64, customer: &str, card: Card) -> anyhow::Result<()> {
        let message = message("order.placed", order)?;
        let result = self
            .outbox
            .transaction(&self.pool, async |connection| {
                sqlx::query("INSERT INTO orders (id, customer, state) VALUES (?, ?, 'placed')")
                    .bind(order)
                    .bind(customer)
                    .execute(&mut *connection)
                    .await?;
                self.outbox.enqueue(&mut *connection, &message).await?;
                if card == Card::Declined {
                    // An error rolls back: the row and the message vanish together.
                    bail!(CardDeclined);
                }
                Ok(())
            })
            .await;
        let committed = match result {
            Ok(()) => true,
            Err(error) if error.is::<CardDeclined>() => false,
            Err(error) => return Err(error),
        };
        let end = if committed { "commit" } else { "ROLLBACK, the card was declined" };
        println!("   shop    order {order} of {customer}: INSERT the order, enqueue order.placed, {end}");
        self.sent.push(Sent { order, message, committed });
        Ok(())
    }

    /// Changes an order's state.
    async fn change(&mut self, order: i64, state: &str, topic: &str) -> anyhow::Result<()> {
        let message = message(topic, order)?;
        self.outbox
            .transaction(&self.pool, async |connection| {
                sqlx::query("UPDATE orders SET state = ? WHERE id = ?")
                    .bind(state)
                    .bind(order)
                    .execute(&mut *connection)
                    .await?;
                self.outbox.enqueue(&mut *connection, &message).await?;
                anyhow::Ok(())
            })
            .await?;
        println!("   shop    order {order}: UPDATE to '{state}', enqueue {topic}, commit");
        self.sent.push(Sent { order, message, committed: true });
        Ok(())
    }

    /// Tells what became of every message.
    async fn tell(&self, fates: &Fates, dead_letters: &dyn DeadLetters) -> anyhow::Result<()> {
        let dead = dead_letters.list(&DeadLetterFilter::all(), None, 100).await?;
        let (mut delivered, mut others) = (Vec::new(), Vec::new());
        for Sent { order, message, committed } in &self.sent {
            let name = name(message.key(), message.topic());
            let dead_letter = dead.iter().find(|letter| letter.id == Some(message.id()));
            if let Some(attempts) = fates.delivered.get(&message.id()) {
                let trouble = fates.troubles.get(&message.id()).map(|error| format!(", before: {error}"));
                delivered.push(format!("{name}  attempt {attempts}{}", trouble.unwrap_or_default()));
            } else if !committed {
                let row: Option<i64> = sqlx::query_scalar("SELECT id FROM orders WHERE id = ?")
                    .bind(*order)
                    .fetch_optional(&self.pool)
                    .await?;
                ensure!(row.is_none(), "order {order} exists, although its transaction was rolled back");
                others.push(format!("{name}  rolled back: there is neither the order nor the message"));
            } else if let Some(letter) = dead_letter {
                others.push(format!(
                    "{name}  dead letter after {} attempts: {}",
                    letter.attempts, letter.error
                ));
            } else if dead.iter().any(|letter| letter.blocks_key && letter.key.as_deref() == message.key()) {
                others.push(format!("{name}  waits: an earlier message of its key is a dead letter"));
            } else {
                others.push(format!("{name}  is on its way"));
            }
        }
        for (title, lines) in [("Delivered:", delivered), ("Not delivered:", others)] {
            println!("   {title}");
            for line in lines {
                println!("     {line}");
            }
        }
        Ok(())
    }
}

/// All messages of one order have its key, and so are published in the order in which they were enqueued.
fn message(topic: &str, order: i64) -> outbox::Result<Message> {
    Message::json(topic, &json!({ "order": order }))?.key(format!("order-{order}")).build()
}

fn name(key: Option<&str>, topic: &str) -> String {
    format!("{:<8} {topic:<18}", key.unwrap_or("-"))
}

/// What the relay's delivery events have told so far.
#[derive(Default)]
struct Fates {
    /// With the number of the attempt that succeeded.
    delivered: HashMap<MessageId, u32>,
    /// The last error of an attempt that was followed by another one.
    troubles: HashMap<MessageId, String>,
}

impl Fates {
    /// Follows the events until so many more messages have ended, well or badly, or have been found to wait.
    async fn watch(&mut self, events: &mut Events, count: usize) -> anyhow::Result<()> {
        let end = async {
            let mut ended = 0;
            while ended < count {
                match events.recv().await {
                    Some(Received::Event(event)) => ended += self.note(&event),
                    Some(Received::Missed(missed)) => bail!("{missed} events were missed"),
                    None => bail!("the relay has ended"),
                }
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, end).await.context("the relay takes too long")?
    }

    /// Notes an event, and says how many messages have ended with it.
    fn note(&mut self, event: &Event) -> usize {
        match event {
            Event::Delivered(delivery) => {
                self.delivered.extend(delivery.id.map(|id| (id, delivery.attempts)));
                1
            }
            Event::Retrying { delivery, after } => {
                println!("   relay   {}  tries again in {after:?}", of(delivery));
                self.troubles.extend(delivery.id.zip(delivery.error.clone()));
                0
            }
            Event::DeadLettered(delivery) => {
                println!("   relay   {}  gives up: to the dead letters", of(delivery));
                1
            }
            // Leases and outages: not a word about them here.
            _ => 0,
        }
    }
}

fn of(delivery: &Delivery) -> String {
    name(delivery.key.as_deref(), delivery.topic.as_deref().unwrap_or("-"))
}

/// A broker in this process. It is busy once, when it sees order 3 for the first time, and takes only messages that
/// it has a queue for.
#[derive(Clone, Default)]
struct Broker {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    queues: HashSet<&'static str>,
    was_busy: bool,
}

impl Broker {
    fn with_queues_for(topics: impl IntoIterator<Item = &'static str>) -> Self {
        let broker = Self::default();
        topics.into_iter().for_each(|topic| broker.add_queue(topic));
        broker
    }

    fn add_queue(&self, topic: &'static str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).queues.insert(topic);
    }

    fn take(&self, message: &Message) -> Outcome {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.queues.contains(message.topic()) {
            return Err(Error::new(ErrorKind::Unroutable, "there is no queue for this topic")
                .with("topic", message.topic()));
        }
        if message.key() == Some("order-3") && !std::mem::replace(&mut state.was_busy, true) {
            return Err(Error::new(ErrorKind::Rejected, "the broker is busy"));
        }
        Ok(())
    }
}

#[async_trait]
impl Publisher for Broker {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::default()
    }

    /// One outcome per message. `Ok` means that the broker answers for it from now on.
    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let take = |message| {
            let outcome = self.take(message);
            let answer = match &outcome {
                Ok(()) => format!("takes it: {}", String::from_utf8_lossy(message.payload())),
                Err(error) => format!("REFUSES it: {error}"),
            };
            println!("   broker  {}  {answer}", name(message.key(), message.topic()));
            outcome
        };
        batch.iter().map(take).collect()
    }
}
