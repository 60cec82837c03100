//! Names to addresses.

use std::fmt;
use std::io;
use std::net::IpAddr;

use async_trait::async_trait;

/// Looks up the addresses of a host.
///
/// Whatever it returns is checked: requests are sent to allowed addresses only.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// Returns the addresses of a host, the preferred one first. It must not block the thread. A request waits for it within
    /// [`connect_timeout`](crate::WebhookPublisherBuilder::connect_timeout), and may be dropped meanwhile.
    ///
    /// # Errors
    /// Any error counts as a receiver that cannot be reached; the message will be tried again.
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

impl fmt::Debug for dyn Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolve")
    }
}

/// The resolver of the operating system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System;

#[async_trait]
impl Resolve for System {
    async fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
    }
}
