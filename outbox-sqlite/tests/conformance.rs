//! Every promise about stores, on SQLite.

// Tests assert by panicking, in their helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use common::fixture::Harness;

outbox_conformance::store_tests!(Harness);
