//! Every promise about publishers, on an emulator of Kinesis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use support::fixture::Harness;

outbox_conformance::publisher_tests!(Harness);
