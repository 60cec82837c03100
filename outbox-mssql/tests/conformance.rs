//! Every promise about stores, on SQL Server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use support::fixture::Harness;

outbox_conformance::store_tests!(match Harness::new() {
    Some(harness) => harness,
    None => return,
});
