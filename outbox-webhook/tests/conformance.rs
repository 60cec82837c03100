//! Every promise about publishers.

// A fixture asserts as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::fixture::Harness;

outbox_conformance::publisher_tests!(Harness);
