//! Every promise about publishers, on standard and on FIFO queues.

// A fixture asserts as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::fixture::Harness;

mod standard {
    use super::*;

    outbox_conformance::publisher_tests!(match Harness::new(false) {
        Some(harness) => harness,
        None => return,
    });
}

mod fifo {
    use super::*;

    outbox_conformance::publisher_tests!(match Harness::new(true) {
        Some(harness) => harness,
        None => return,
    });
}
