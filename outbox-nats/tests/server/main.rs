//! The publisher against a real NATS server. Tests that do not harm the server share one, each with a separate stream.
//! Tests that harm it, or need other settings, start a separate one.

// Helpers of tests assert as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod content;
mod fake;
mod login;
mod outages;
#[allow(dead_code, reason = "the fixture is for the conformance suite")]
#[path = "../support/mod.rs"]
mod reading;
mod refusals;
mod rights;
mod support;
mod tls;
mod without_jetstream;
