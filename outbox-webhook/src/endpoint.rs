//! Who receives webhooks: the endpoints of the settings, and URLs that messages name.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use outbox_core::{Error, Result};
use url::{Host, Url};

use crate::destination::Destination;
use crate::headers::is_reserved;
use crate::network::{Guard, Network};
use crate::signature::Signer;

/// A receiver of webhooks: a URL, the secrets that sign requests to it, and headers of its own.
///
/// ```
/// use outbox_webhook::Endpoint;
///
/// let endpoint = Endpoint::new("https://billing.example/hooks")
///     .secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
///     .header("authorization", "Bearer 2fd4e1c6");
/// // URL, secrets and header values are hidden.
/// assert_eq!(format!("{endpoint:?}"), r#"Endpoint { host: Some("billing.example"), secrets: 1, headers: ["authorization"] }"#);
/// ```
#[derive(Clone)]
pub struct Endpoint {
    url: String,
    /// The current one first.
    secrets: Vec<String>,
    headers: Vec<(String, String)>,
}

impl fmt::Debug for Endpoint {
    /// Without path, query, secrets and header values: paths are secrets of many receivers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Url::parse(&self.url).ok();
        f.debug_struct("Endpoint")
            .field("host", &url.as_ref().and_then(Url::host_str))
            .field("secrets", &self.secrets.len())
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

impl Endpoint {
    /// Creates an endpoint without a secret: its requests have no signature. The URL is `https://…` or `http://…`, without
    /// user and password.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), secrets: Vec::new(), headers: Vec::new() }
    }

    /// Adds a secret that signs each request, `whsec_` followed by 24 to 64 bytes in base64.
    ///
    /// While a receiver changes its secret, set the new one first and then the old one: requests have a signature of each.
    /// At most two. Default: none, and no signature.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Adds a header to each request, such as `authorization`. Its value never appears in logs and errors. Names that begin
    /// with `webhook-` or `outbox-`, and those that HTTP needs for itself, are refused. Default: none.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Checks the URL, the secrets and the headers, as [`build`](crate::WebhookPublisherBuilder::build) does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) with the field that is wrong: `url`, `secret` or `headers`. The
    /// error does not show its value.
    pub fn check(&self, allowed_networks: &[Network]) -> Result<()> {
        self.destination("", &Guard { allowed: allowed_networks.to_vec() }).map(drop)
    }

    /// Reads the settings. `name` is what people call the endpoint.
    pub(crate) fn destination(&self, name: &str, guard: &Guard) -> Result<Destination> {
        let named = |error: Error, field: &str| {
            let error = error.with("field", field);
            if name.is_empty() { error } else { error.with("endpoint", name) }
        };
        let uri = target(&self.url, guard).map_err(|problem| named(Error::config(problem), "url"))?;
        let signer = Signer::new(&self.secrets).map_err(|error| named(error, "secret"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let (name, value) = own_header(name, value).map_err(|error| named(error, "headers"))?;
            if headers.try_append(name, value).is_err() {
                return Err(named(Error::config("an endpoint has too many headers"), "headers"));
            }
        }
        Ok(Destination { name: name.to_owned(), uri, signer, headers })
    }
}

fn own_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    let problem = |text| Error::config(text).with("header", name);
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| problem("a header name is invalid; expected letters, digits and hyphens"))?;
    if is_reserved(&parsed) {
        return Err(problem("an endpoint cannot set this header, which the publisher or HTTP itself sets"));
    }
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| problem("a header value is invalid; expected visible ASCII characters and spaces"))?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

/// Permission for messages to name their URLs, and how requests to these are made.
///
/// The URL must be `https` and the address public, unless the settings say otherwise. Headers of endpoints are never sent to
/// a URL of a message.
#[derive(Clone, Default)]
pub struct MessageUrls {
    secrets: Vec<String>,
    plaintext: bool,
}

impl fmt::Debug for MessageUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageUrls")
            .field("secrets", &self.secrets.len())
            .field("plaintext", &self.plaintext)
            .finish()
    }
}

impl MessageUrls {
    /// Creates a permission for `https` URLs, without a signature.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a secret that signs each request to a URL of a message, as [`Endpoint::secret`] does. All these receivers
    /// know the same secret, so each of them could forge requests to the others. Use endpoints if they belong to different
    /// parties. Default: none.
    #[must_use]
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Sets whether URLs may be `http`, so that requests are sent without encryption. Default: `false`.
    #[must_use]
    pub fn plaintext(mut self, yes: bool) -> Self {
        self.plaintext = yes;
        self
    }

    /// Checks the secrets, as [`build`](crate::WebhookPublisherBuilder::build) does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) for the field `secret`. The error does not show its value.
    pub fn check(&self) -> Result<()> {
        self.checked().map(drop)
    }

    pub(crate) fn checked(&self) -> Result<MessageTargets> {
        let signer = Signer::new(&self.secrets)
            .map_err(|error| error.with("field", "secret").with("setting", "message_urls"))?;
        Ok(MessageTargets { signer, plaintext: self.plaintext })
    }
}

/// [`MessageUrls`] after its check.
#[derive(Clone, Debug)]
pub(crate) struct MessageTargets {
    signer: Signer,
    plaintext: bool,
}

impl MessageTargets {
    /// The destination of a message that names its URL.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed), which does not show the URL.
    pub(crate) fn destination(&self, url: &str, guard: &Guard) -> Result<Destination> {
        let uri = target(url, guard).map_err(Error::malformed)?;
        let host = uri.host().unwrap_or_default().to_owned();
        if uri.scheme_str() != Some("https") && !self.plaintext {
            return Err(Error::malformed("the message's URL is http; it must be https").with("host", host));
        }
        let signer = self.signer.clone();
        Ok(Destination { name: host, uri, signer, headers: HeaderMap::new() })
    }
}

/// Reads a URL. A problem does not show it, because a path may be a secret.
fn target(text: &str, guard: &Guard) -> Result<Uri, String> {
    const EXPECTED: &str = "expected https://host/path";
    let url = Url::parse(text).map_err(|error| format!("the URL is invalid: {error}; {EXPECTED}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the URL has an unknown scheme; {EXPECTED}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the URL has a user or a password; remove it and set the header authorization instead".to_owned()
        );
    }
    if url.fragment().is_some() {
        return Err("the URL has a #fragment, which cannot be sent; remove it".to_owned());
    }
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(name)) if !name.is_empty() => None,
        _ => return Err(format!("the URL has no host; {EXPECTED}")),
    };
    if let Some(address) = literal.filter(|address| !guard.allows(*address)) {
        return Err(format!(
            "the URL's address {address} is not a public one; add it to allowed_networks if requests may be sent there"
        ));
    }
    Uri::try_from(url.as_str()).map_err(|error| format!("the URL is invalid: {error}; {EXPECTED}"))
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn refusal(endpoint: &Endpoint) -> String {
        let error = endpoint.destination("billing", &Guard::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.report();
        assert!(text.contains("endpoint: billing") && !text.contains("s3cret"), "{text}");
        text
    }

    #[test]
    fn a_url_is_refused_with_the_reason_and_not_shown() {
        for (url, named) in [
            ("", "invalid"),
            ("/s3cret", "invalid"),
            ("ftp://example.com/s3cret", "unknown scheme"),
            ("https://me:s3cret@example.com/", "authorization"),
            ("https://s3cret@example.com/", "authorization"),
            ("https://example.com/#s3cret", "fragment"),
            ("https:///s3cret?", ""),
            ("http://127.0.0.1/s3cret", "127.0.0.1"),
            ("http://2130706433/s3cret", "127.0.0.1"),
            ("http://0x7f.1/s3cret", "127.0.0.1"),
            ("http://0177.0.0.1/s3cret", "127.0.0.1"),
            ("http://[::1]/s3cret", "::1"),
            ("http://[::ffff:10.0.0.1]/s3cret", "::ffff:10.0.0.1"),
            ("http://169.254.169.254/s3cret", "allowed_networks"),
        ] {
            // With three slashes, the first part of the path becomes the host.
            if url.starts_with("https:///") {
                Endpoint::new(url).destination("billing", &Guard::default()).unwrap();
                continue;
            }
            let text = refusal(&Endpoint::new(url));
            assert!(text.contains(named), "{url}: {text}");
        }
        let guard = Guard { allowed: vec!["127.0.0.1".parse().unwrap()] };
        Endpoint::new("http://127.0.0.1:8080/x").destination("billing", &guard).unwrap();
    }

    #[test]
    fn secrets_and_headers_are_checked() {
        let endpoint = || Endpoint::new("https://example.com");
        assert!(refusal(&endpoint().secret("whsec_s3cret")).contains("whsec_ followed by"));
        assert!(refusal(&endpoint().secret(SECRET).secret(SECRET).secret(SECRET)).contains("two secrets"));
        assert!(refusal(&endpoint().header("webhook-id", "s3cret")).contains("header: webhook-id"));
        assert!(refusal(&endpoint().header("Host", "s3cret")).contains("cannot set"));
        assert!(refusal(&endpoint().header("a b", "s3cret")).contains("name is invalid"));
        assert!(refusal(&endpoint().header("x", "s3cret\r\nhost: y")).contains("value is invalid"));
        let good = endpoint().secret(SECRET).secret(SECRET).header("x-api-key", "s3cret");
        let good = good.destination("billing", &Guard::default()).unwrap();
        assert!(!format!("{good:?}").contains("s3cret"), "{good:?}");
    }

    #[test]
    fn a_url_of_a_message_is_https_and_public() {
        let of = |urls: MessageUrls, url: &str| urls.checked().unwrap().destination(url, &Guard::default());
        let good = of(MessageUrls::new(), "https://customer.example:8443/s3cret").unwrap();
        assert_eq!((&*good.name, good.headers.len()), ("customer.example", 0));
        of(MessageUrls::new().plaintext(true), "http://customer.example/").unwrap();
        for url in ["http://customer.example/s3cret", "https://10.0.0.1/s3cret", "s3cret"] {
            let error = of(MessageUrls::new(), url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(!error.report().contains("s3cret"), "{}", error.report());
        }
        assert!(MessageUrls::new().secret("s3cret").checked().unwrap_err().report().contains("message_urls"));
    }
}
