#![doc = include_str!("../README.md")]

mod case;
mod publisher;
mod publisher_harness;
mod run;
mod store;
mod store_harness;
mod suites;

pub use case::{Case, CaseResult, PublisherCase, Stop, StoreCase};
pub use publisher_harness::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
pub use run::{CaseReport, Report, run_publisher_suite, run_store_suite};
#[doc(hidden)]
pub use run::{publisher_test, store_test};
pub use store_harness::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
pub use suites::{publisher_suite, store_suite};
