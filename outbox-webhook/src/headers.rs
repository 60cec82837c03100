//! What of a message travels in the headers of its request. The README promises these rules to consumers, so none may
//! change.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use outbox_core::{Error, ErrorKind, Message, Result};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::destination::Destination;

pub(crate) const ID: HeaderName = HeaderName::from_static("webhook-id");
pub(crate) const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
pub(crate) const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const TOPIC: HeaderName = HeaderName::from_static("outbox-topic");
const KEY: HeaderName = HeaderName::from_static("outbox-key");
/// Headers that cannot be HTTP headers, as JSON.
const HEADERS: HeaderName = HeaderName::from_static("outbox-headers");
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("outbox-webhook/", env!("CARGO_PKG_VERSION")));

/// Prefixes of names that the specification, this publisher and proxies use.
const PREFIXES: &[&str] = &["webhook-", "outbox-", "proxy-"];
/// Names that describe the transfer (<https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1>), and names that the publisher sets.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Characters that are percent-encoded. `%` is one of them, so that decoding returns every value.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    RESERVED.contains(&name.as_str()) || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// The headers of a message's request, without those of the attempt.
///
/// # Errors
/// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], both permanent, for headers that HTTP cannot carry.
pub(crate) fn of(message: &Message, destination: &Destination) -> Result<HeaderMap> {
    let mut headers = destination.headers.clone();
    let mut others = Map::new();
    for (name, value) in message.headers() {
        // An existing name differs in case only, or is set by the endpoint.
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(parsed) if !is_reserved(&parsed) && !headers.contains_key(&parsed) => {
                insert(&mut headers, parsed, encoded(value)?)?;
            }
            _ => drop(others.insert(name.clone(), value.as_str().into())),
        }
    }
    if !others.is_empty() {
        insert(&mut headers, HEADERS, encoded(&Value::Object(others).to_string())?)?;
    }
    if let Some(content_type) = message.content_type() {
        let value = HeaderValue::from_str(content_type).map_err(|_| {
            Error::malformed(
                "the content type cannot be sent by HTTP; it must have visible ASCII characters only",
            )
        })?;
        insert(&mut headers, header::CONTENT_TYPE, value)?;
    }
    insert(&mut headers, header::USER_AGENT, USER_AGENT)?;
    insert(&mut headers, ID, encoded(&message.id().to_string())?)?;
    insert(&mut headers, TOPIC, encoded(message.topic())?)?;
    if let Some(key) = message.key() {
        insert(&mut headers, KEY, encoded(key)?)?;
    }
    Ok(headers)
}

/// `HeaderMap::insert` panics at its limit.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) -> Result<()> {
    headers.try_insert(name, value).map(drop).map_err(|_| {
        Error::new(
            ErrorKind::TooLarge,
            "the message has more headers than a request can have; move some into the payload",
        )
    })
}

/// Percent-encodes what a header value cannot have: characters outside of ASCII, control characters, `%`, and a space at
/// either end, which receivers cut off.
fn encoded(value: &str) -> Result<HeaderValue> {
    let inner = value.strip_prefix(' ').unwrap_or(value);
    let (inner, last) = inner.strip_suffix(' ').map_or((inner, ""), |inner| (inner, "%20"));
    let first = if value.starts_with(' ') { "%20" } else { "" };
    let text: Cow<'_, str> = utf8_percent_encode(inner, ENCODED).into();
    HeaderValue::from_str(&format!("{first}{text}{last}"))
        .map_err(|_| Error::malformed("a header value cannot be sent by HTTP"))
}

#[cfg(test)]
mod tests {
    use outbox_core::{MessageBuilder, Verdict};
    use percent_encoding::percent_decode;
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::Endpoint;
    use crate::network::Guard;

    fn headers(builder: MessageBuilder) -> Result<HeaderMap> {
        let endpoint = Endpoint::new("https://example.com/x").header("authorization", "Bearer 1");
        of(&builder.build().unwrap(), &endpoint.destination("billing", &Guard::default()).unwrap())
    }

    #[test]
    fn everything_but_the_payload_is_in_headers() {
        let id: outbox_core::MessageId = "018f4d2e-7b1a-7c3d-9e5f-0123456789ab".parse().unwrap();
        let builder = Message::bytes("order.placed", "x").key("künde 4").id(id);
        let headers = headers(builder.content_type("text/plain").header("tenant", "50 % of acme")).unwrap();
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        assert_eq!(
            lines,
            [
                "authorization: Bearer 1",
                "content-type: text/plain",
                "outbox-key: k%C3%BCnde 4",
                "outbox-topic: order.placed",
                "tenant: 50 %25 of acme",
                concat!("user-agent: outbox-webhook/", env!("CARGO_PKG_VERSION")),
                "webhook-id: 018f4d2e-7b1a-7c3d-9e5f-0123456789ab",
            ]
        );
    }

    #[test]
    fn what_http_has_no_room_for_travels_as_json() {
        let reserved = [
            "webhook-id",
            "Outbox-Topic",
            "host",
            "Content-Length",
            "transfer-encoding",
            "connection",
            "user-agent",
            "proxy-authorization",
            "content-type",
            // The endpoint has set it.
            "Authorization",
        ];
        for name in reserved.into_iter().chain(["a b", "ü", "a:b", "a\nb"]) {
            let headers = headers(Message::bytes("t", "").header(name, "ü 50 %").header("x", "y")).unwrap();
            let json = percent_decode(headers["outbox-headers"].as_bytes()).decode_utf8().unwrap();
            assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), serde_json::json!({ name: "ü 50 %" }));
            assert_eq!(
                (headers["authorization"].as_bytes(), headers["x"].as_bytes()),
                (&b"Bearer 1"[..], &b"y"[..])
            );
        }
        let twice = headers(Message::bytes("t", "").header("Tenant", "a").header("tenant", "b")).unwrap();
        assert_eq!(
            (twice["tenant"].as_bytes(), twice["outbox-headers"].as_bytes()),
            (&b"a"[..], &br#"{"tenant":"b"}"#[..])
        );
    }

    #[test]
    fn a_content_type_that_http_cannot_carry_is_refused_for_good() {
        let error = headers(Message::bytes("t", "").content_type("text/plain\r\nhost: other")).unwrap_err();
        assert_eq!((error.kind(), error.verdict()), (ErrorKind::Malformed, Verdict::Permanent));
    }

    #[test]
    fn as_many_headers_as_there_are_do_no_harm() {
        let many = (0..40_000).map(|i| (format!("h{i}"), String::new()));
        let error = headers(Message::bytes("t", "").headers(many)).unwrap_err();
        assert_eq!((error.kind(), error.verdict()), (ErrorKind::TooLarge, Verdict::Permanent));
    }

    proptest! {
        #[test]
        fn decoding_gives_every_value_back(value in ".*") {
            let header = encoded(&value).unwrap();
            let text = header.to_str().unwrap();
            prop_assert_eq!(text.trim_matches([' ', '\t']), text);
            prop_assert_eq!(percent_decode(text.as_bytes()).decode_utf8().unwrap(), value);
        }
    }
}
