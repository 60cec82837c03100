#![doc = include_str!("../README.md")]

mod case;
mod inbox;
mod inbox_harness;
mod ledger;
mod publisher;
mod publisher_harness;
mod run;
mod store;
mod store_harness;
mod suites;

pub use case::{Case, CaseResult, InboxCase, PublisherCase, Stop, StoreCase};
pub use inbox_harness::{InboxFixture, InboxHarness, InboxTransaction};
pub use ledger::{Breach, Ledger, Rules, Verdict};
pub use publisher_harness::{Fault, PublisherFixture, PublisherHarness, PublisherTraits, Received};
pub use run::{CaseReport, Report, run_inbox_suite, run_publisher_suite, run_store_suite};
#[doc(hidden)]
pub use run::{inbox_test, publisher_test, store_test};
pub use store_harness::{EnqueueTransaction, MalformedRow, StoreFixture, StoreHarness, StoreTraits};
pub use suites::{inbox_suite, publisher_suite, store_suite};
