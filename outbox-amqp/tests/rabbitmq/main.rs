//! The publisher against a real RabbitMQ. One node serves all tests that leave it alone, each in a virtual host of its
//! own; tests that harm the broker start one for themselves.

// Helpers of tests assert as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod confirms;
mod content;
mod exchanges;
mod faults;
mod isolation;
mod login;
mod nodes;
mod outages;
mod stuck;
mod support;
mod topology;
