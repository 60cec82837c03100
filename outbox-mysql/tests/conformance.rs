//! Every promise about stores, on MariaDB and on MySQL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use support::Product;
use support::fixture::Harness;

mod mariadb {
    use super::*;

    outbox_conformance::store_tests!(match Harness::new(Product::MariaDb) {
        Some(harness) => harness,
        None => return,
    });
}

mod mysql {
    use super::*;

    outbox_conformance::store_tests!(match Harness::new(Product::MySql) {
        Some(harness) => harness,
        None => return,
    });
}
