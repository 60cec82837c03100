//! The packaged image and compose file, and relays whose hosts vanish. Everything runs in containers, so it takes Docker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions beside the tests are tests, too; figures are printed"
)]

mod arrivals;
mod compose;
mod image;
mod load;
#[path = "../support/prometheus.rs"]
mod prometheus;
#[path = "../support/mod.rs"]
mod support;
mod vanishing;

use std::time::Duration;

/// Longer than anything takes, even on a busy machine; only a failing test waits for it.
const PATIENCE: Duration = Duration::from_secs(120);

const POSTGRES: &str = "postgres:17-alpine";
const RABBITMQ: &str = "rabbitmq:4.1-management-alpine";
