//! Every promise about publishers, on an emulator of Kinesis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions beside the tests are tests, too"
)]

mod support;

use support::fixture::Harness;

outbox_conformance::publisher_tests!(Harness);
