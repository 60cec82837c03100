//! The cost of a message for the transaction that enqueues it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use outbox_core::{Message, Relay};

use super::{Entrants, say};
use crate::databases::{Database, Table, TokioPostgres, Write, Writer};
use crate::line::{Line, Output};
use crate::load::Load;
use crate::options::{Common, Driver, Enqueue, Store};
use crate::servers;
use crate::verify::{Watched, verify};

/// The rows that a transaction writes next to its messages.
const BUSINESS: [u8; 200] = [b'b'; 200];
const BATCH: u64 = 100;

/// Runs it with the options' servers.
///
/// # Errors
/// If a server is unavailable, or a run was not correct.
pub async fn run(common: &Common, options: &Enqueue) -> Result<()> {
    let database = servers::database(common).await?;
    let writer = writer(common, options, &database)?;
    let output = Output::new(common);
    for clients in &options.clients {
        for batch in [1, BATCH] {
            let mut entrants = Entrants::new(common, &["bare", "ours", "ours+relay"])?;
            let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for round in 0..common.rounds {
                for name in entrants.next_round() {
                    let run = Run {
                        common,
                        database: &database,
                        writer: &writer,
                        clients: *clients,
                        batch,
                        seconds: options.seconds,
                    };
                    let rate = run.measure(name).await?;
                    say(format_args!(
                        "round {round}: {clients} clients, {batch} a transaction, {name}: {rate:.0}/s"
                    ));
                    rates.entry(name).or_default().push(rate);
                }
            }
            for (name, rounds) in &rates {
                let mut line = Line::new("enqueue", "rate", "commits/s", *name, common, rounds)
                    .with("store", database.name())
                    .with("driver", options.driver.name())
                    .with("clients", *clients)
                    .with("batch", batch);
                if let Some(bare) = rates.get("bare").filter(|_| *name != "bare") {
                    line = line.against("bare", bare);
                }
                output.emit(&line)?;
            }
        }
    }
    Ok(())
}

/// Commits the transactions of the clients.
fn writer(common: &Common, options: &Enqueue, database: &Arc<dyn Database>) -> Result<Arc<dyn Writer>> {
    let connections = options.clients.iter().copied().max().unwrap_or(1);
    Ok(match (options.driver, common.store) {
        (Driver::Sqlx, _) => database.clone(),
        (Driver::TokioPostgres, Store::Postgres) => {
            Arc::new(TokioPostgres::new(&database.url(), connections, false)?)
        }
        (Driver::TokioPostgresPrepared, Store::Postgres) => {
            Arc::new(TokioPostgres::new(&database.url(), connections, true)?)
        }
        (driver, _) => bail!("--driver {} needs --store postgres", driver.name()),
    })
}

struct Run<'a> {
    common: &'a Common,
    database: &'a Arc<dyn Database>,
    writer: &'a Arc<dyn Writer>,
    clients: usize,
    batch: u64,
    seconds: f64,
}

impl Run<'_> {
    /// Transactions per second.
    async fn measure(&self, name: &str) -> Result<f64> {
        self.database.clear().await?;
        let publisher = Watched::noop(0, None);
        let relay = match name {
            "ours+relay" => {
                let relay =
                    Relay::builder(self.database.own_store().await?, publisher.clone()).build()?.spawn();
                relay.status().wait_for(|status| !status.owned.is_empty()).await?;
                Some(relay)
            }
            _ => None,
        };
        let bare = name == "bare";
        let load = Load::new(u64::MAX, self.common.payload, self.common.keys);
        let (next, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let deadline = started + Duration::from_secs_f64(self.seconds);
        let mut clients = Vec::new();
        for _ in 0..self.clients {
            let (writer, load, next, batch) = (self.writer.clone(), load.clone(), next.clone(), self.batch);
            clients.push(tokio::spawn(async move {
                while Instant::now() < deadline {
                    let first = next.fetch_add(batch, Ordering::Relaxed);
                    let numbers = first..first + batch;
                    let messages: Vec<Message> = numbers.map(|n| load.message(n)).collect::<Result<_>>()?;
                    let write = if bare { Write::Bare(&messages) } else { Write::Enqueue(&messages) };
                    writer.commit(&[Write::Business(&BUSINESS), write]).await?;
                }
                anyhow::Ok(())
            }));
        }
        for client in clients {
            client.await??;
        }
        let took = started.elapsed();
        let messages = next.load(Ordering::Relaxed);
        let table = if bare { Table::Plain } else { Table::Outbox };
        if let Some(relay) = relay {
            publisher.some_confirmed(messages).await;
            relay.shutdown().await?;
            // With few keys, neighbouring messages of a key may be committed in either order.
            let load = Load::new(messages, self.common.payload, self.common.keys);
            verify(&load, &publisher.arrivals(), false)?;
            ensure!(self.database.waiting(table).await? == 0, "no figure: messages are left in the table");
        } else {
            let written = self.database.waiting(table).await?;
            ensure!(written == messages, "no figure: {messages} were committed and {written} are there");
        }
        Ok((messages / self.batch) as f64 / took.as_secs_f64())
    }
}
