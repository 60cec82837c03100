//! A short run with every failure at least once, from two databases. `OUTBOX_LEDGER_SEED` sets the seed,
//! which is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "the functions next to the tests are test code"
)]

use std::sync::Arc;
use std::time::Duration;

use fault_runs::books::{Books, OnMariaDb, OnPostgres};
use fault_runs::brokers::OnRabbitMq;
use fault_runs::{Clocks, Kind, Plan, run};

async fn keep_the_ledger(books: Arc<dyn Books>) {
    // One at a time, otherwise the tests compete for the machine.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = TURN.lock().await;
    let Some(broker) = OnRabbitMq::start().await else { return };
    let seed = std::env::var("OUTBOX_LEDGER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut plan = Plan::new(env!("CARGO_BIN_EXE_fault-run").into(), seed);
    plan.time = Duration::from_secs(30);
    plan.pause = Duration::from_secs(1);
    plan.progress = |line| println!("{line}");
    plan.clocks = Clocks::find();
    if plan.clocks.is_none() {
        plan.kinds.retain(|kind| *kind != Kind::RelayClockJumps);
    }
    let kinds = plan.kinds.len();
    let report = run(plan, books, Arc::new(broker)).await;
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.faults.len(), kinds, "every fault has been");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_invented_or_reordered_while_everything_dies_once() {
    let Some(books) = OnPostgres::start().await else { return };
    keep_the_ledger(Arc::new(books)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_invented_or_reordered_on_mariadb_either() {
    let Some(books) = OnMariaDb::start().await else { return };
    keep_the_ledger(Arc::new(books)).await;
}
