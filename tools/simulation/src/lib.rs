#![doc = include_str!("../README.md")]
// A checker: it must fail clearly when the simulation itself breaks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod broker;
mod link;
mod process;
mod trace;
mod weather;
mod witness;
mod world;

pub use trace::Trace;
pub use world::{Outcome, simulate};
