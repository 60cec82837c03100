#![doc = include_str!("../README.md")]

mod case;
mod publisher_harness;
mod store_harness;

pub use case::{Case, CaseResult, PublisherCase, Stop, StoreCase};
pub use publisher_harness::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
pub use store_harness::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
