//! A webhook as its receiver reads it.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use hyper::body::Bytes;

/// A request that the receiver has taken.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The path with the query.
    pub path: String,
    /// The method, such as `POST`.
    pub method: String,
    /// The version of HTTP, such as `HTTP/1.1`.
    pub version: String,
    /// The headers, with names in lowercase.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Bytes,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("path", &self.path)
            .field("version", &self.version)
            .field("headers", &self.headers)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Delivery {
    pub(super) fn new(head: &Parts, body: Bytes) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self {
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            method: head.method.to_string(),
            version: format!("{:?}", head.version),
            headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body,
        }
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether one of its signatures was made with this secret, as a receiver of Standard Webhooks finds out.
    ///
    /// # Panics
    /// If the secret is not `whsec_` with base64.
    pub fn is_signed_by(&self, secret: &str) -> bool {
        let bytes = STANDARD.decode(secret.strip_prefix("whsec_").expect("a secret")).expect("a secret");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        let (Some(id), Some(timestamp), Some(signatures)) =
            (self.header("webhook-id"), self.header("webhook-timestamp"), self.header("webhook-signature"))
        else {
            return false;
        };
        let mut signed = format!("{id}.{timestamp}.").into_bytes();
        signed.extend_from_slice(&self.body);
        let given = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        let given: Vec<_> = given.filter_map(|signature| STANDARD.decode(signature).ok()).collect();
        given.iter().any(|signature| hmac::verify(&key, &signed, signature).is_ok())
    }
}
