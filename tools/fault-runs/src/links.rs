//! The two links of all relays: to the database, and to the broker.

use integration_tests::{Mode, Proxy};

use crate::books::Books;
use crate::brokers::Broker;

/// Proxies in front of the servers, for relays only: writers and consumers have direct connections.
#[derive(Debug)]
pub(crate) struct Links {
    /// Not for a database in a file.
    pub(crate) database: Option<Proxy>,
    pub(crate) broker: Proxy,
}

impl Links {
    pub(crate) async fn start(books: &dyn Books, broker: &dyn Broker) -> Self {
        let database = match books.address() {
            Some(address) => Some(Proxy::start(address).await),
            None => None,
        };
        Self { database, broker: Proxy::start(broker.address()).await }
    }

    pub(crate) async fn set_database(&self, mode: Mode) {
        if let Some(proxy) = &self.database {
            proxy.set(mode).await;
        }
    }

    pub(crate) async fn pass(&self) {
        self.set_database(Mode::Pass).await;
        self.broker.set(Mode::Pass).await;
    }

    pub(crate) fn database_url(&self, books: &dyn Books) -> String {
        self.database.as_ref().map_or_else(|| books.url(), |proxy| books.url_through(proxy))
    }
}
