//! What a message may ask of this publisher.

use std::time::Duration;

use outbox_core::PublisherOptions;
use serde::{Deserialize, Serialize};

use crate::NAME;

/// Per-message options, stored as JSON under `"amqp"`.
///
/// Every field is optional; what is not set follows the publisher's settings. A field that does not exist, or a
/// value that AMQP cannot carry, makes the message a dead letter with the reason
/// ([`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed)); the other messages of its batch are not affected.
///
/// ```
/// use std::time::Duration;
/// use outbox_amqp::AmqpOptions;
/// use outbox_core::Message;
///
/// let message = Message::bytes("order.placed", "17")
///     .options(&AmqpOptions::new().exchange("orders").priority(5).expiration(Duration::from_secs(60)))
///     .build()?;
/// assert_eq!(
///     serde_json::to_string(message.options())?,
///     r#"{"amqp":{"exchange":"orders","expiration":60000,"priority":5}}"#
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AmqpOptions {
    /// The exchange to publish to, instead of the one the publisher's routing gives. `""` is the default exchange,
    /// which leads to the queue named by the routing key. At most 255 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// If set, the exchange is declared with this type (`direct`, `fanout`, `topic`, `headers`, or a plugin's)
    /// before the first message goes there, once per connection. Needs [`exchange`](Self::exchange). Without it,
    /// the exchange must exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_type: Option<String>,
    /// Whether the declared exchange survives a restart of the broker. Default: `true`. Needs
    /// [`exchange_type`](Self::exchange_type), as do the three after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_durable: Option<bool>,
    /// Whether the declared exchange is deleted when its last binding goes. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_auto_delete: Option<bool>,
    /// Whether the declared exchange takes messages from other exchanges only. Default: `false`. `true` is refused:
    /// no publisher may publish to such an exchange, so the message could never be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_internal: Option<bool>,
    /// Whether the declaration itself is sent without asking for an answer. Default: `false`. The exchange's
    /// existence is checked afterwards in any case, so this saves nothing; it is here for options written for
    /// other libraries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange_no_wait: Option<bool>,
    /// The routing key, instead of the one the publisher's routing gives. At most 255 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<String>,
    /// Whether queues write the message to disk. Default: `true`. With `false`, a confirmed message is lost when
    /// the broker restarts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
    /// The priority, for queues with `x-max-priority`. Default: none, which queues treat as 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// After how many milliseconds in a queue the message expires. Default: never. At most 4 294 967 295.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiration: Option<u64>,
    /// The correlation id, at most 255 bytes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Where to answer to, at most 255 bytes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The message's type, at most 255 bytes; `type` in JSON. Default: none.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
    /// The name of the publishing application, at most 255 bytes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    /// The encoding of the payload such as `gzip`, at most 255 bytes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// The time of the message in seconds since 1970-01-01T00:00:00Z. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
}

impl PublisherOptions for AmqpOptions {
    const PUBLISHER: &'static str = NAME;
}

impl AmqpOptions {
    /// No options: everything follows the publisher's settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`exchange`](Self::exchange).
    #[must_use]
    pub fn exchange(mut self, name: impl Into<String>) -> Self {
        self.exchange = Some(name.into());
        self
    }

    /// Sets [`exchange_type`](Self::exchange_type), and so has the exchange declared.
    #[must_use]
    pub fn exchange_type(mut self, name: impl Into<String>) -> Self {
        self.exchange_type = Some(name.into());
        self
    }

    /// Sets [`exchange_durable`](Self::exchange_durable).
    #[must_use]
    pub fn exchange_durable(mut self, yes: bool) -> Self {
        self.exchange_durable = Some(yes);
        self
    }

    /// Sets [`exchange_auto_delete`](Self::exchange_auto_delete).
    #[must_use]
    pub fn exchange_auto_delete(mut self, yes: bool) -> Self {
        self.exchange_auto_delete = Some(yes);
        self
    }

    /// Sets [`exchange_internal`](Self::exchange_internal).
    #[must_use]
    pub fn exchange_internal(mut self, yes: bool) -> Self {
        self.exchange_internal = Some(yes);
        self
    }

    /// Sets [`exchange_no_wait`](Self::exchange_no_wait).
    #[must_use]
    pub fn exchange_no_wait(mut self, yes: bool) -> Self {
        self.exchange_no_wait = Some(yes);
        self
    }

    /// Sets [`routing_key`](Self::routing_key).
    #[must_use]
    pub fn routing_key(mut self, key: impl Into<String>) -> Self {
        self.routing_key = Some(key.into());
        self
    }

    /// Sets [`persistent`](Self::persistent).
    #[must_use]
    pub fn persistent(mut self, yes: bool) -> Self {
        self.persistent = Some(yes);
        self
    }

    /// Sets [`priority`](Self::priority).
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets [`expiration`](Self::expiration), in whole milliseconds.
    #[must_use]
    pub fn expiration(mut self, after: Duration) -> Self {
        self.expiration = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Sets [`correlation_id`](Self::correlation_id).
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets [`reply_to`](Self::reply_to).
    #[must_use]
    pub fn reply_to(mut self, address: impl Into<String>) -> Self {
        self.reply_to = Some(address.into());
        self
    }

    /// Sets [`message_type`](Self::message_type).
    #[must_use]
    pub fn message_type(mut self, name: impl Into<String>) -> Self {
        self.message_type = Some(name.into());
        self
    }

    /// Sets [`app_id`](Self::app_id).
    #[must_use]
    pub fn app_id(mut self, id: impl Into<String>) -> Self {
        self.app_id = Some(id.into());
        self
    }

    /// Sets [`content_encoding`](Self::content_encoding).
    #[must_use]
    pub fn content_encoding(mut self, encoding: impl Into<String>) -> Self {
        self.content_encoding = Some(encoding.into());
        self
    }

    /// Sets [`timestamp`](Self::timestamp), in seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn timestamp(mut self, seconds: u64) -> Self {
        self.timestamp = Some(seconds);
        self
    }
}
