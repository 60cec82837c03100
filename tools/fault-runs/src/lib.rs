#![doc = include_str!("../README.md")]
// A checker: it must fail clearly and immediately when the tools of a run break.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod books;
pub mod brokers;
mod clock;
mod faults;
mod links;
pub mod relay;
mod relays;
mod run;
mod writers;

pub use clock::Clocks;
pub use faults::Kind;
pub use run::{Plan, Report, run};
