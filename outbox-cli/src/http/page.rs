//! The dashboard: one page and what it loads, all of it within the program.
//!
//! There is nothing in it that anybody must not see, so it is open to all. What it shows it asks for as anybody else has to.

use axum::extract::Path;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::guard::refusal;

/// Nothing from elsewhere, nothing within the page itself, and no text ever becomes HTML.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! files {
    ($($name:literal: $kind:ident,)*) => {
        &[$(($name, $kind, include_str!(concat!("../../dashboard/", $name))),)*]
    };
}

const FILES: &[(&str, &str, &str)] = files! {
    "app.js": SCRIPT,
    "chart.js": SCRIPT,
    "client.js": SCRIPT,
    "dialogs.js": SCRIPT,
    "dom.js": SCRIPT,
    "failures.js": SCRIPT,
    "icon.svg": IMAGE,
    "layout.css": STYLE,
    "letters.js": SCRIPT,
    "overview.js": SCRIPT,
    "payload.js": SCRIPT,
    "relays.js": SCRIPT,
    "style.css": STYLE,
    "theme.js": SCRIPT,
    "waiting.js": SCRIPT,
};

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 2] =
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, content).into_response()
}

pub(super) async fn index() -> Response {
    file(HTML, include_str!("../../dashboard/index.html"))
}

pub(super) async fn part(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, content)) => file(kind, content),
        None => refusal(StatusCode::NOT_FOUND, "the dashboard has no such file"),
    }
}
