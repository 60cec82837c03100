//! Who may look, and who may change something.
//!
//! A page that somebody has open in a browser on the same machine can send requests to the loopback address. It must
//! neither read answers (which the browser prevents, unless a name of its own leads to the loopback address) nor change
//! anything (which it cannot without the token; and a request that says it comes from another site is refused before).

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;
use tracing::warn;

use super::Shared;
use crate::config::Http;

/// An answer to a request that is not served.
pub(super) fn refusal(status: StatusCode, error: impl Into<String>) -> Response {
    (status, axum::Json(json!({ "error": error.into() }))).into_response()
}

/// Reading is open on the loopback address. Elsewhere it needs the token.
pub(super) async fn reading(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let settings = &shared.settings;
    let allowed = if settings.listen.ip().is_loopback() {
        check_host(settings, request.headers()).or_else(|refusal| {
            // Who knows the token may come by any name, as through a proxy.
            check_token(settings, request.headers()).map_err(|_| refusal)
        })
    } else {
        check_token(settings, request.headers())
    };
    answer(allowed, request, next).await
}

/// Changing something needs the token, always.
pub(super) async fn changing(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let allowed = check_site(headers)
        .and_then(|()| check_json(headers))
        .and_then(|()| check_token(&shared.settings, headers));
    answer(allowed, request, next).await
}

async fn answer(allowed: Result<(), Refusal>, request: Request, next: Next) -> Response {
    match allowed {
        Ok(()) => next.run(request).await,
        Err((status, error)) => {
            let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
            warn!(?peer, path = request.uri().path(), error, "refused a request");
            refusal(status, error)
        }
    }
}

/// Keeps answers from being kept, guessed at, or shown within other pages. What is a page has a policy of its own.
pub(super) async fn headers(mut response: Response) -> Response {
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    response.headers_mut().entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
    response
}

type Refusal = (StatusCode, &'static str);

fn text(headers: &HeaderMap, name: impl Into<HeaderName>) -> Option<&str> {
    headers.get(name.into()).and_then(|value| value.to_str().ok())
}

fn check_token(settings: &Http, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(token) = &settings.token else {
        return Err((
            StatusCode::FORBIDDEN,
            "a token is required, but none is configured; set http.token_file or http.token_env",
        ));
    };
    let shown = text(headers, header::AUTHORIZATION).and_then(|value| {
        let (scheme, shown) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(shown.trim())
    });
    let shown = shown.unwrap_or_default().as_bytes();
    if bool::from(shown.ct_eq(token.reveal().as_bytes())) {
        return Ok(());
    }
    Err((StatusCode::UNAUTHORIZED, "a token is required, as in `Authorization: Bearer …`"))
}

/// Whether the name by which we were called is one of the loopback address, or the one we listen at.
fn check_host(settings: &Http, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = text(headers, header::HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        // The colons of an IPv6 address are within brackets.
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<IpAddr>().ok();
    let known = name.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|address| address.is_loopback() || address == settings.listen.ip());
    if known { Ok(()) } else { Err((StatusCode::FORBIDDEN, "use localhost or the address in the URL")) }
}

/// A browser says where a request comes from.
fn check_site(headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = Err((StatusCode::FORBIDDEN, "this request comes from another site"));
    match text(headers, HeaderName::from_static("sec-fetch-site")) {
        None | Some("same-origin" | "none") => {}
        Some(_) => return refused,
    }
    let Some(origin) = text(headers, header::ORIGIN) else { return Ok(()) };
    let host = text(headers, header::HOST);
    let from = origin.split_once("://").map(|(_, from)| from);
    if from.is_some() && from == host { Ok(()) } else { refused }
}

/// A form of another site cannot send JSON without being asked first.
fn check_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let media = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    if media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "send JSON, with the content type application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn settings(listen: &str) -> Http {
        let token = Some(Secret::new("a-token-for-this-test"));
        Http { listen: listen.parse().unwrap(), token, payloads: false }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let settings = settings("127.0.0.1:9464");
        for (host, right) in [
            ("localhost", true),
            ("LocalHost:9464", true),
            ("127.0.0.1:9464", true),
            ("127.0.0.2", true),
            ("[::1]:9464", true),
            ("evil.example", false),
            ("evil.example:9464", false),
            ("localhost.evil.example", false),
            ("", false),
        ] {
            assert_eq!(check_host(&settings, &headers(&[("host", host)])).is_ok(), right, "{host}");
        }
    }

    #[test]
    fn only_the_token_opens() {
        let settings = settings("127.0.0.1:1");
        for (value, right) in [
            ("Bearer a-token-for-this-test", true),
            ("bearer a-token-for-this-test", true),
            ("Bearer a-token-for-this-tes", false),
            ("Bearer", false),
            ("Basic a-token-for-this-test", false),
            ("a-token-for-this-test", false),
        ] {
            let checked = check_token(&settings, &headers(&[("authorization", value)]));
            assert_eq!(checked.is_ok(), right, "{value}");
        }
        let none = Http { token: None, ..settings };
        assert_eq!(
            check_token(&none, &headers(&[("authorization", "Bearer ")])).unwrap_err().0,
            StatusCode::FORBIDDEN
        );
    }

    #[test]
    fn requests_of_other_sites_are_refused() {
        for (pairs, right) in [
            (&[("host", "localhost:1")][..], true),
            (&[("host", "localhost:1"), ("origin", "http://localhost:1")], true),
            (&[("host", "localhost:1"), ("origin", "http://localhost:2")], false),
            (&[("host", "localhost:1"), ("origin", "http://evil.example")], false),
            (&[("host", "localhost:1"), ("origin", "null")], false),
            (&[("host", "localhost:1"), ("sec-fetch-site", "same-origin")], true),
            (&[("host", "localhost:1"), ("sec-fetch-site", "same-site")], false),
            (&[("host", "localhost:1"), ("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(check_site(&headers(pairs)).is_ok(), right, "{pairs:?}");
        }
    }

    #[test]
    fn a_form_is_no_json() {
        for (media, right) in [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
        ] {
            assert_eq!(check_json(&headers(&[("content-type", media)])).is_ok(), right, "{media}");
        }
        assert!(check_json(&headers(&[])).is_err());
    }
}
