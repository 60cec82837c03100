//! The image, the compose file, and relays in containers that vanish from the network. Needs Docker.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions beside the tests are tests, too"
)]

mod compose;
mod image;
mod journal;
mod program;
#[path = "../support/prometheus.rs"]
mod prometheus;
#[path = "../support/mod.rs"]
mod support;
mod vanishing;
