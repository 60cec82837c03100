//! Every promise about publishers, with ordering keys and without.

// A fixture asserts as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::fixture::Harness;

mod ordered {
    use super::*;

    outbox_conformance::publisher_tests!(match Harness::new(true) {
        Some(harness) => harness,
        None => return,
    });
}

mod unordered {
    use super::*;

    outbox_conformance::publisher_tests!(match Harness::new(false) {
        Some(harness) => harness,
        None => return,
    });
}
