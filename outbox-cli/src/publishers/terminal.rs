//! Messages as lines on the standard output, for trying things out.

use std::io::Write;
use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{Error, ErrorKind, Finding, Message, Outcome, Publisher, PublisherCapabilities, Result};
use serde_json::{Map, Value};

use super::{Broker, PublisherSettings};
use crate::config::Section;

/// Writes each message as one line of JSON. It counts as confirmed once the system has taken the line.
#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    payloads: bool,
    refuse: Vec<String>,
}

impl Terminal {
    /// A broker that has no place for some topics.
    pub(crate) fn new(payloads: bool, refuse: Vec<String>) -> Self {
        Self { payloads, refuse }
    }

    fn line(&self, message: &Message) -> String {
        let mut line = Map::new();
        line.insert("id".to_owned(), message.id().to_string().into());
        line.insert("topic".to_owned(), message.topic().into());
        if let Some(key) = message.key() {
            line.insert("key".to_owned(), key.into());
        }
        let payload = if self.payloads {
            String::from_utf8_lossy(message.payload()).into()
        } else {
            format!("({} bytes)", message.payload().len())
        };
        line.insert("payload".to_owned(), payload.into());
        Value::Object(line).to_string()
    }
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    let mut payloads = true;
    section.fill("payloads", section.truth("payloads"), &mut payloads);
    Some(Arc::new(Terminal::new(payloads, section.texts("refuse"))))
}

#[async_trait]
impl PublisherSettings for Terminal {
    fn place(&self) -> String {
        "the standard output".to_owned()
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Broker for Terminal {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.clone())
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Publisher for Terminal {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::default()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let mut out = std::io::stdout().lock();
        let write = |message: &Message| {
            if self.refuse.iter().any(|topic| topic == message.topic()) {
                return Err(Error::new(ErrorKind::Unroutable, "no consumer takes this topic")
                    .with("topic", message.topic()));
            }
            let line = self.line(message);
            writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| {
                // A pipe whose reader has gone is a broker that is down.
                Error::new(ErrorKind::Unavailable, "standard output is closed").with_source(error)
            })
        };
        batch.iter().map(write).collect()
    }
}
