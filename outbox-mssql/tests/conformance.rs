//! Every promise about stores, on SQL Server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use support::fixture::Harness;

outbox_conformance::store_tests!(match Harness::new() {
    Some(harness) => harness,
    None => return,
});
