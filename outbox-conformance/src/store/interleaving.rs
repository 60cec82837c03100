//! Transactions that overlap at random.

use std::collections::BTreeMap;

use outbox_core::{FetchLimit, Fetched};

use super::scene::{Scene, check_order, keyed, name};
use crate::case::{CaseResult, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

/// The knowledge of a random test about one message.
struct Known {
    key: usize,
    payload: String,
    /// The step at which it was enqueued, and the one at which it was committed.
    enqueued: usize,
    committed: Option<usize>,
}

/// Enqueues, commits, rolls back, fetches and settles at random, and checks the returned rows and their
/// order.
pub(super) async fn run(fixture: &dyn StoreFixture, seed: u64, most_open: usize) -> CaseResult {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::new(fixture).await?;
    let mut known: Vec<Known> = Vec::new();
    let mut open = Vec::new();
    let mut seen: Vec<Fetched> = Vec::new();
    let mut unsettled: Vec<Fetched> = Vec::new();
    for step in 0..600 {
        match random.u32(0..100) {
            0..20 if open.len() < most_open => open.push((fixture.begin().await?, Vec::new())),
            0..55 if !open.is_empty() => {
                let chosen = random.usize(..open.len());
                let (transaction, messages) = &mut open[chosen];
                let key = random.usize(..4);
                let payload = known.len().to_string();
                transaction.enqueue(&[keyed(&format!("k{key}"), &payload)?]).await?;
                messages.push(known.len());
                known.push(Known { key, payload, enqueued: step, committed: None });
            }
            55..75 if !open.is_empty() => {
                let (transaction, messages) = open.swap_remove(random.usize(..open.len()));
                if random.u32(..5) == 0 {
                    transaction.rollback().await?;
                } else {
                    transaction.commit().await?;
                    for message in messages {
                        known[message].committed = Some(step);
                    }
                }
            }
            75..90 => {
                let limit = FetchLimit { messages: random.usize(1..20), bytes: 1 << 20 };
                let rows = scene.fetch_at_most(limit).await?.rows;
                check_order(&rows)?;
                seen.extend(rows.iter().cloned());
                unsettled.extend(rows);
            }
            // A store with one writer cannot settle while another transaction writes.
            _ if most_open > 1 || open.is_empty() => {
                let settled: Vec<_> = unsettled.drain(..random.usize(..=unsettled.len())).collect();
                scene.deliver(&settled).await?;
            }
            _ => {}
        }
    }
    for (transaction, messages) in open {
        transaction.commit().await?;
        for message in messages {
            known[message].committed = Some(600);
        }
    }
    let committed = known.iter().filter(|known| known.committed.is_some()).count();
    ensure!(seen.len() <= committed, "{} of {committed} committed rows were returned", seen.len());
    seen.extend(scene.expect(committed - seen.len()).await?);
    scene.expect_nothing().await?;

    let mut order = BTreeMap::new();
    for (i, row) in seen.iter().enumerate() {
        ensure!(order.insert(name(row), i).is_none(), "row {} was returned twice", name(row));
    }
    for known in &known {
        ensure_eq!(
            order.contains_key(&known.payload),
            known.committed.is_some(),
            "whether row {} was returned",
            known.payload
        );
    }
    for first in &known {
        let Some(committed) = first.committed else { continue };
        for second in known.iter().filter(|second| second.key == first.key && second.enqueued > committed) {
            if let (Some(a), Some(b)) = (order.get(&first.payload), order.get(&second.payload)) {
                ensure!(
                    a < b,
                    "row {} of key k{} was returned before row {}, which was committed before it was enqueued",
                    second.payload,
                    first.key,
                    first.payload
                );
            }
        }
    }
    Ok(())
}
