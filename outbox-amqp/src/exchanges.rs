//! Making sure that an exchange is there before messages go to it.
//!
//! A message to an exchange that does not exist closes the channel, with all other messages on it. So each exchange
//! is looked up, or declared if the message asks for that, on a channel that may be thrown away; once per connection.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::connections::Connections;
use crate::error::closed;
use crate::link::Link;
use crate::outgoing::{Declaration, ExchangeSpec};
use crate::topology::kind;

/// Exchanges remembered per connection. Names may come from message contents, so there could be any number.
const REMEMBERED: usize = 10_000;

/// The exchanges that were there when we looked.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashSet<ExchangeSpec>>);

impl Known {
    /// An exchange of this name exists.
    pub(crate) fn exists(&self, name: &str) {
        self.insert(ExchangeSpec { name: name.to_owned(), declaration: None });
    }

    fn insert(&self, spec: ExchangeSpec) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            // Looking all of them up again costs less than keeping track of which was used last.
            known.clear();
        }
        known.insert(spec);
    }

    fn contains(&self, spec: &ExchangeSpec) -> bool {
        // The default exchange always exists, and cannot be looked up.
        spec.name.is_empty() || self.lock().contains(spec)
    }

    /// An exchange of this name may be gone.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().retain(|spec| spec.name != name);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ExchangeSpec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an exchange cannot be used.
#[derive(Clone, Debug)]
pub(crate) enum Unusable {
    /// The broker said no, or the connection failed.
    Failed(lapin::Error),
    /// The broker did not answer in time.
    TimedOut,
}

/// Looks up or declares the exchanges not known yet. Those which cannot be used are in the answer.
pub(crate) async fn ensure<'a>(
    link: &Link,
    connections: &Connections,
    specs: impl Iterator<Item = &'a ExchangeSpec>,
    deadline: Instant,
) -> HashMap<ExchangeSpec, Unusable> {
    let unknown: HashSet<&ExchangeSpec> = specs.filter(|spec| !link.exchanges().contains(spec)).collect();
    let mut unusable = HashMap::new();
    let mut channel = None;
    for spec in unknown {
        if Instant::now() >= deadline {
            unusable.insert(spec.clone(), Unusable::TimedOut);
            continue;
        }
        let attempt = async {
            match &spec.declaration {
                Some(declaration) if matches!(kind(&declaration.kind), ExchangeKind::Custom(_)) => {
                    declare_elsewhere(connections, &spec.name, declaration, deadline).await
                }
                declaration => declare(link, &mut channel, &spec.name, declaration.as_ref()).await,
            }
        };
        let failure = match Box::pin(link.wait(deadline, attempt)).await {
            Some(Ok(())) => {
                debug!(exchange = %spec.name, declared = spec.declaration.is_some(), "the exchange is there");
                link.exchanges().exists(&spec.name);
                link.exchanges().insert(spec.clone());
                continue;
            }
            Some(Err(error)) => {
                // The broker has closed the channel with its complaint.
                channel = None;
                if closed(&error).is_some() {
                    warn!(exchange = %spec.name, %error, "the exchange cannot be used");
                }
                Unusable::Failed(error)
            }
            None => {
                channel = None;
                Unusable::TimedOut
            }
        };
        unusable.insert(spec.clone(), failure);
    }
    unusable
}

async fn declare(
    link: &Link,
    channel: &mut Option<Channel>,
    name: &str,
    declaration: Option<&Declaration>,
) -> lapin::Result<()> {
    let channel = match channel {
        Some(channel) => channel,
        None => channel.insert(link.open_channel().await?),
    };
    declare_on(channel, name, declaration).await
}

async fn declare_on(channel: &Channel, name: &str, declaration: Option<&Declaration>) -> lapin::Result<()> {
    if let Some(declaration) = declaration {
        let options = ExchangeDeclareOptions {
            durable: declaration.durable,
            auto_delete: declaration.auto_delete,
            nowait: declaration.no_wait,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(name.into(), kind(&declaration.kind), options, FieldTable::default())
            .await?;
        if !declaration.no_wait {
            return Ok(());
        }
        // Nobody answers a declaration without waiting, but a failed one closes the channel, which this notices.
    }
    let look = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), ExchangeKind::default(), look, FieldTable::default()).await
}

/// RabbitMQ 3 closes the whole connection over a type it does not know, so plugins' types get one of their own.
async fn declare_elsewhere(
    connections: &Connections,
    name: &str,
    declaration: &Declaration,
    deadline: Instant,
) -> lapin::Result<()> {
    use crate::dial::DialFailure::{Refused, TimedOut, Undeclared};

    let link = match connections.dialer().connect(deadline).await {
        Ok(link) => link,
        Err(Refused { error, .. }) => return Err(error),
        Err(TimedOut { .. } | Undeclared(_)) => {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
    };
    let declared = async { declare_on(&link.open_channel().await?, name, Some(declaration)).await }.await;
    link.close().await;
    declared
}
