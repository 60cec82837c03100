//! What a message may ask of this publisher.

use outbox_core::PublisherOptions;
use serde::{Deserialize, Serialize};

use crate::NAME;

/// Per-message options, stored as JSON under `"pubsub"`.
///
/// Every field is optional. A field that does not exist, or a value that Pub/Sub cannot carry, makes the message a dead
/// letter with the reason ([`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed)); the other messages of its batch
/// are not affected.
///
/// ```
/// use outbox_core::Message;
/// use outbox_pubsub::PubSubOptions;
///
/// let message = Message::bytes("order-placed", "17")
///     .key("customer-4")
///     .options(&PubSubOptions::new().ordering_key("region-1"))
///     .build()?;
/// assert_eq!(serde_json::to_string(message.options())?, r#"{"pubsub":{"ordering_key":"region-1"}}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PubSubOptions {
    /// The ordering key, at most 1024 bytes, whatever the publisher's setting is. `""` is none. Default: the message's
    /// key.
    ///
    /// Messages of one *key* are still sent in their order and one after the other; which of them a subscriber gets in
    /// order is decided by the *ordering key*.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
}

impl PublisherOptions for PubSubOptions {
    const PUBLISHER: &'static str = NAME;
}

impl PubSubOptions {
    /// No options: everything follows the publisher's settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`ordering_key`](Self::ordering_key).
    #[must_use]
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.ordering_key = Some(key.into());
        self
    }
}
