//! The broker side: one batch in, one outcome per message out.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::message::Message;

/// What became of one message.
///
/// `Ok` means the broker itself has durably taken the message: a publisher confirm, a success entry of a batch
/// API. It never means "written to a socket". An error's [`Verdict`](crate::Verdict) tells whether the message
/// surely did not arrive (`Retry`, `Permanent`) or may have (`Unknown`); its [`Scope`](crate::Scope) tells
/// whether this message or the whole broker is concerned.
pub type Outcome = Result<()>;

/// What a broker's interface can do. Grows by fields; start from [`PublisherCapabilities::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublisherCapabilities {
    /// Whether one call keeps the order of a key *and*, once a message of a key has failed, fails every later
    /// message of that key in the same call. Only then does the relay put several messages of a key into one
    /// call; otherwise a key has one message in flight at a time. Default: `false`, which is always safe.
    pub ordered_batches: bool,
    /// Maximum number of messages in one call. Default: 500.
    ///
    /// The relay does not fill calls from the start. The first ones hold 10 messages, and full calls that are answered within
    /// a quarter of [`publish_timeout`](crate::Settings::publish_timeout) let the size double, up to this limit. A call that
    /// times out sets it back to 10, and then to half each time. So a publisher that sends its messages one after the other need not
    /// set this, as long as it sends 10 of them within the timeout.
    pub max_batch_messages: usize,
    /// The most bytes ([`Message::size`]) one call takes. Default: 4 MiB.
    pub max_batch_bytes: usize,
    /// The largest single message, payload only, where the publisher knows one. Larger ones are dead-lettered
    /// without being sent. Default: none.
    pub max_message_bytes: Option<usize>,
}

impl Default for PublisherCapabilities {
    fn default() -> Self {
        Self {
            ordered_batches: false,
            max_batch_messages: 500,
            max_batch_bytes: 4 << 20,
            max_message_bytes: None,
        }
    }
}

impl PublisherCapabilities {
    /// Sets [`ordered_batches`](Self::ordered_batches).
    #[must_use]
    pub fn ordered_batches(mut self, yes: bool) -> Self {
        self.ordered_batches = yes;
        self
    }

    /// Sets [`max_batch_messages`](Self::max_batch_messages).
    #[must_use]
    pub fn max_batch_messages(mut self, messages: usize) -> Self {
        self.max_batch_messages = messages;
        self
    }

    /// Sets [`max_batch_bytes`](Self::max_batch_bytes).
    #[must_use]
    pub fn max_batch_bytes(mut self, bytes: usize) -> Self {
        self.max_batch_bytes = bytes;
        self
    }

    /// Sets [`max_message_bytes`](Self::max_message_bytes).
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: Option<usize>) -> Self {
        self.max_message_bytes = bytes;
        self
    }
}

/// A broker, as the relay sees it.
///
/// # The contract
/// - [`publish`](Self::publish) answers with exactly one [`Outcome`] per message, in the order of the batch.
/// - `Ok` only after the broker's own durable acknowledgement of *that* message. Unroutable is a failure.
/// - If the answer did not arrive, the outcome is `Unknown` ([`ErrorKind::Timeout`](crate::ErrorKind::Timeout),
///   [`ErrorKind::Interrupted`](crate::ErrorKind::Interrupted)), never `Retry` and never `Ok`.
/// - A broker that is down or throttling says so with an error of [`Scope::Endpoint`](crate::Scope::Endpoint):
///   the relay then pauses and probes, and counts no attempts. If one message fails like this again and again while
///   others are answered, the relay counts its attempts.
/// - A failure of one message does not disturb the others of its batch.
/// - It never panics on a message's content; what cannot be sent is a `Permanent` outcome with the reason.
/// - It reconnects by itself: after an outage, a later call succeeds without outside help.
///
/// Several calls run at once. A key is in one of them only, and is in it once unless
/// [`ordered_batches`](PublisherCapabilities::ordered_batches) is set.
///
/// # Cancel safety
/// The relay drops the future of a call that passes its publish timeout, and treats every message of it as
/// `Unknown`. After the drop, the publisher must not begin to send a message of that call: a half-used
/// connection or channel is closed, not reused.
#[async_trait]
pub trait Publisher: Send + Sync + 'static {
    /// A short stable name: the key under which per-message options are stored, and a metric label.
    fn name(&self) -> &'static str;

    /// What this broker's interface can do. Must not change while a relay runs.
    fn capabilities(&self) -> PublisherCapabilities;

    /// Publishes a batch and waits for the broker's acknowledgements.
    async fn publish(&self, batch: &[Message]) -> Vec<Outcome>;

    /// Closes connections after the last call. The relay calls it once, when it has stopped; a call afterwards
    /// may reconnect.
    async fn close(&self) {}
}

#[async_trait]
impl<P: Publisher + ?Sized> Publisher for Arc<P> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn capabilities(&self) -> PublisherCapabilities {
        (**self).capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        (**self).publish(batch).await
    }

    async fn close(&self) {
        (**self).close().await;
    }
}

/// Gives every message of a batch the same failure, for publishers that fail before they could send anything.
pub fn fail_all(batch: &[Message], mut error: impl FnMut() -> Error) -> Vec<Outcome> {
    batch.iter().map(|_| Err(error())).collect()
}
