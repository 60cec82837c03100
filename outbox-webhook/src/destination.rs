//! Destinations: where a request goes, and whom a failure of one concerns.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::Uri;
use http::header::HeaderMap;
use outbox_core::publishing::Routing;
use outbox_core::{Error, ErrorKind, Message, Result, Scope};

use crate::endpoint::MessageTargets;
use crate::network::Guard;
use crate::options::WebhookOptions;
use crate::signature::Signer;

/// Where a request goes.
#[derive(Clone)]
pub(crate) struct Destination {
    /// The endpoint's name in the settings, or the host of a message's URL. Never a URL.
    pub(crate) name: String,
    pub(crate) uri: Uri,
    pub(crate) signer: Signer,
    /// Those of the endpoint.
    pub(crate) headers: HeaderMap,
}

impl fmt::Debug for Destination {
    /// Without the URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("name", &self.name)
            .field("host", &self.uri.host())
            .field("signer", &self.signer)
            .field("headers", &self.headers)
            .finish()
    }
}

/// Whom a failure concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concern {
    /// The one message.
    Message,
    /// Every message to the URL.
    Url,
    /// Every message to the host.
    Host,
}

/// How far the settings reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// All messages go to one URL.
    pub(crate) one_url: bool,
    /// All messages go to one scheme, host and port.
    pub(crate) one_host: bool,
}

impl Reach {
    /// The scope that the relay knows for this: if all messages are concerned, it is the endpoint.
    ///
    /// It has no scope for one destination among several. Such a failure is one of its message: it counts as an attempt, and
    /// other destinations are not affected.
    pub(crate) fn scope(self, concern: Concern) -> Scope {
        let all = match concern {
            Concern::Message => false,
            Concern::Url => self.one_url,
            Concern::Host => self.one_host,
        };
        if all { Scope::Endpoint } else { Scope::Message }
    }
}

/// Every destination there is.
#[derive(Clone, Debug)]
pub(crate) struct Destinations {
    pub(crate) routing: Routing<String>,
    pub(crate) endpoints: HashMap<String, Arc<Destination>>,
    pub(crate) message_urls: Option<MessageTargets>,
    pub(crate) guard: Arc<Guard>,
}

impl Destinations {
    pub(crate) fn reach(&self) -> Reach {
        let all_same = |same: fn(&Uri, &Uri) -> bool| {
            let mut uris = self.endpoints.values().map(|endpoint| &endpoint.uri);
            let first = uris.next();
            self.message_urls.is_none() && first.is_some_and(|first| uris.all(|uri| same(first, uri)))
        };
        Reach {
            one_url: all_same(|one, other| one == other),
            one_host: all_same(|one, other| {
                (one.scheme(), one.authority()) == (other.scheme(), other.authority())
            }),
        }
    }

    /// The destination of a message.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without an endpoint for it, and [`ErrorKind::Malformed`] for a URL or options that are not
    /// allowed.
    pub(crate) fn of(&self, message: &Message) -> Result<Arc<Destination>> {
        let WebhookOptions { endpoint, url } = message.options().get::<WebhookOptions>()?.unwrap_or_default();
        if let Some(url) = url {
            if endpoint.is_some() {
                return Err(Error::malformed(
                    "the message names an endpoint and a URL; remove one of the two options",
                ));
            }
            let Some(targets) = &self.message_urls else {
                return Err(Error::malformed(
                    "the message names a URL, which the publisher's settings do not allow; set message_urls, or remove the \
                     option url",
                ));
            };
            return targets.destination(&url, &self.guard).map(Arc::new);
        }
        let name = endpoint.unwrap_or_else(|| self.routing.route(message, str::to_owned));
        self.endpoints.get(&name).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                "no endpoint has this name; add the endpoint, or a route to another one",
            )
            .with("endpoint", name)
            .with("topic", message.topic())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::WebhookPublisherBuilder;
    use crate::endpoint::{Endpoint, MessageUrls};
    use crate::publisher::WebhookPublisher;

    fn destinations(builder: WebhookPublisherBuilder) -> Destinations {
        builder.build().unwrap().destinations
    }

    fn endpoints(urls: &[&str]) -> WebhookPublisherBuilder {
        urls.iter()
            .fold(WebhookPublisher::builder(), |builder, url| builder.endpoint(*url, Endpoint::new(*url)))
    }

    #[test]
    fn the_whole_publisher_is_concerned_if_all_messages_are() {
        for (builder, one_url, one_host) in [
            (endpoints(&["http://a.example/x"]), true, true),
            (endpoints(&["http://a.example/x", "http://a.example/y"]), false, true),
            (endpoints(&["http://a.example/", "http://a.example:8080/"]), false, false),
            (endpoints(&["http://a.example/", "http://b.example/"]), false, false),
            (
                endpoints(&["http://a.example/"]).message_urls(MessageUrls::new().plaintext(true)),
                false,
                false,
            ),
            (WebhookPublisher::builder().message_urls(MessageUrls::new().plaintext(true)), false, false),
        ] {
            let reach = destinations(builder).reach();
            assert_eq!(reach, Reach { one_url, one_host });
            for (concern, all) in
                [(Concern::Message, false), (Concern::Url, one_url), (Concern::Host, one_host)]
            {
                assert_eq!(reach.scope(concern) == Scope::Endpoint, all, "{reach:?} {concern:?}");
            }
        }
    }

    #[test]
    fn options_go_before_routes_and_routes_before_the_topic() {
        let named = |name: &str| (name.to_owned(), Endpoint::new(format!("http://{name}.example/")));
        let builder = ["topic", "route", "option"]
            .map(named)
            .into_iter()
            .fold(WebhookPublisher::builder().route("routed", "route"), |builder, (name, endpoint)| {
                builder.endpoint(name, endpoint)
            });
        let all = destinations(builder);
        let of = |topic: &str, options: WebhookOptions| {
            let message = Message::bytes(topic, "").options(&options).build().unwrap();
            all.of(&message).map(|destination| destination.name.clone())
        };
        assert_eq!(of("topic", WebhookOptions::new()).unwrap(), "topic");
        assert_eq!(of("routed", WebhookOptions::new()).unwrap(), "route");
        assert_eq!(of("routed", WebhookOptions::new().endpoint("option")).unwrap(), "option");
        let missing =
            [of("other", WebhookOptions::new()), of("topic", WebhookOptions::new().endpoint("other"))];
        for error in missing.map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(error.report().contains("endpoint: other"), "{}", error.report());
        }
        let both = WebhookOptions::new().endpoint("option").url("http://x.example/");
        assert_eq!(of("topic", both).unwrap_err().kind(), ErrorKind::Malformed);
    }
}
