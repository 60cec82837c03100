//! Every promise about stores, on PostgreSQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use support::fixture::Harness;

mod installed {
    use super::*;

    outbox_conformance::store_tests!(match Harness::Installed.if_available() {
        Some(harness) => harness,
        None => return,
    });
}

mod newer {
    use super::*;

    outbox_conformance::store_tests!(match Harness::Newer.if_available() {
        Some(harness) => harness,
        None => return,
    });
}
