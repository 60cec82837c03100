//! What a message may ask of this publisher.

use std::fmt;

use outbox_core::PublisherOptions;
use serde::{Deserialize, Serialize};

use crate::NAME;

/// Per-message options, stored as JSON under `"webhook"`.
///
/// Every field is optional. An unknown field or an invalid value makes the message a dead letter with the reason
/// ([`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed)). The other messages of its batch are not affected.
///
/// ```
/// use outbox_core::Message;
/// use outbox_webhook::WebhookOptions;
///
/// let message = Message::bytes("order.placed", "17")
///     .options(&WebhookOptions::new().url("https://customer.example/hooks"))
///     .build()?;
/// assert_eq!(
///     serde_json::to_string(message.options())?,
///     r#"{"webhook":{"url":"https://customer.example/hooks"}}"#
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhookOptions {
    /// The name of the endpoint to which this message is sent, whatever its topic. Default: none, and the publisher's routes
    /// decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The URL to which this message is sent, in place of the endpoint's. It is refused unless the publisher allows URLs in
    /// messages ([`WebhookPublisherBuilder::message_urls`](crate::WebhookPublisherBuilder::message_urls)), and cannot be
    /// combined with [`endpoint`](Self::endpoint). Default: none, and the message goes to an endpoint of the settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl fmt::Debug for WebhookOptions {
    /// Without the URL: its path and query are often a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookOptions")
            .field("endpoint", &self.endpoint)
            .field("url", &self.url.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

impl PublisherOptions for WebhookOptions {
    const PUBLISHER: &'static str = NAME;
}

impl WebhookOptions {
    /// Creates empty options: the publisher's settings decide everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`endpoint`](Self::endpoint).
    #[must_use]
    pub fn endpoint(mut self, name: impl Into<String>) -> Self {
        self.endpoint = Some(name.into());
        self
    }

    /// Sets [`url`](Self::url).
    #[must_use]
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }
}
