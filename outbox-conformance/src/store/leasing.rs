//! One owner per partition.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use outbox_core::{Membership, Partition, RelayId, Store};

use super::scene::{Deadline, LONG, ROUNDING};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

/// The lease handling of a relay.
struct Relay {
    id: RelayId,
    store: Arc<dyn Store>,
    owned: Vec<Partition>,
    share: usize,
}

impl Relay {
    async fn new(fixture: &dyn StoreFixture) -> Result<Self, Stop> {
        Ok(Self { id: RelayId::new(), store: fixture.store().await?, owned: Vec::new(), share: 0 })
    }

    async fn beat(&mut self) -> Result<Membership, Stop> {
        let membership = self.store.heartbeat(self.id, LONG).await?;
        self.owned.clone_from(&membership.owned);
        self.share = membership.share;
        Ok(membership)
    }

    /// Releases the partitions beyond its share, as the relay does.
    async fn release_surplus(&mut self) -> CaseResult {
        if self.owned.len() > self.share {
            let surplus = self.owned.split_off(self.share);
            self.store.release(self.id, &surplus).await?;
        }
        Ok(())
    }
}

/// Fails if two of them consider themselves the owner of the same partition.
fn check_exclusive(relays: &[Relay]) -> CaseResult {
    let mut owners = BTreeMap::new();
    for relay in relays {
        for partition in &relay.owned {
            if let Some(other) = owners.insert(*partition, relay.id) {
                return Err(Stop::Failed(format!(
                    "partition {partition} is owned by {} and by {other}",
                    relay.id
                )));
            }
        }
    }
    Ok(())
}

/// Lets the relays send heartbeats and release partitions in turn until they own all partitions, each its
/// share.
async fn balance(fixture: &dyn StoreFixture, relays: &mut [Relay]) -> CaseResult {
    let deadline = Deadline::new(fixture);
    loop {
        let mut partitions = 0;
        for i in 0..relays.len() {
            partitions = relays[i].beat().await?.partitions;
            check_exclusive(relays)?;
            relays[i].release_surplus().await?;
        }
        let owned: usize = relays.iter().map(|relay| relay.owned.len()).sum();
        let shares: usize = relays.iter().map(|relay| relay.share).sum();
        if (owned, shares) == (partitions, partitions) {
            return Ok(());
        }
        let what = || format!("{partitions} partitions to be owned; owned are {owned}, shares are {shares}");
        deadline.pause(fixture, what).await?;
    }
}

pub(crate) async fn one_relay_owns_everything(fixture: &dyn StoreFixture) -> CaseResult {
    let mut relay = Relay::new(fixture).await?;
    let first = relay.beat().await?;
    ensure!(first.partitions > 0, "there are no partitions");
    let all: Vec<_> = (0..).map(Partition).take(first.partitions).collect();
    let mut owned = first.owned.clone();
    owned.sort();
    ensure_eq!(owned, all, "partitions of the only relay");
    ensure_eq!((first.share, first.relays), (first.partitions, 1), "share and relays");
    let mut later = first;
    later.joined = false;
    for _ in 0..3 {
        ensure_eq!(relay.beat().await?, later, "membership at a later heartbeat");
    }
    Ok(())
}

pub(crate) async fn two_relays_share(fixture: &dyn StoreFixture) -> CaseResult {
    let mut first = Relay::new(fixture).await?;
    let partitions = first.beat().await?.partitions;
    let mut second = Relay::new(fixture).await?;
    let joined = second.beat().await?;
    ensure_eq!(joined.owned, [], "partitions of a relay that just joined");
    ensure_eq!(joined.relays, 2, "relays known to the one that joined");
    ensure_eq!(joined.partitions, partitions, "number of partitions known to it");
    let known = first.beat().await?;
    ensure_eq!(known.relays, 2, "relays known to the first one");
    ensure_eq!(first.share + second.share, partitions, "sum of the shares");
    ensure!(first.share.abs_diff(second.share) <= 1, "shares are {} and {}", first.share, second.share);
    first.release_surplus().await?;
    let taken = second.beat().await?.owned;
    ensure_eq!(taken.len(), second.share, "partitions of the second relay after the first released some");
    let kept = first.beat().await?.owned;
    ensure_eq!(kept.len(), first.share, "partitions of the first relay");
    check_exclusive(&[first, second])
}

pub(crate) async fn shares_differ_by_one_at_most(fixture: &dyn StoreFixture) -> CaseResult {
    let mut relays = Vec::new();
    for count in 1..=5 {
        relays.push(Relay::new(fixture).await?);
        balance(fixture, &mut relays).await?;
        let shares: Vec<_> = relays.iter().map(|relay| relay.share).collect();
        let (least, most) = (shares.iter().min(), shares.iter().max());
        if let (Some(least), Some(most)) = (least, most) {
            ensure!(most - least <= 1, "shares of {count} relays are {shares:?}");
        }
    }
    // A relay that owns its share is not changed.
    let before: Vec<_> = relays.iter().map(|relay| relay.owned.clone()).collect();
    balance(fixture, &mut relays).await?;
    let after: Vec<_> = relays.iter().map(|relay| relay.owned.clone()).collect();
    ensure_eq!(after, before, "partitions when nothing has changed");
    Ok(())
}

pub(crate) async fn live_leases_are_not_taken(fixture: &dyn StoreFixture) -> CaseResult {
    let mut first = Relay::new(fixture).await?;
    let owned = first.beat().await?.owned;
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = Relay::new(fixture).await?;
        for _ in 0..3 {
            ensure_eq!(other.beat().await?.owned, [], "partitions taken from a live relay");
        }
        others.push(other);
    }
    let still = first.beat().await?;
    ensure_eq!(still.owned, owned, "partitions of a relay that has released nothing");
    ensure_eq!(still.relays, 4, "relays");
    ensure!(still.share < owned.len(), "the share did not shrink when others joined");
    Ok(())
}

pub(crate) async fn heartbeats_extend_leases(fixture: &dyn StoreFixture) -> CaseResult {
    // No other relay sends a heartbeat before the second one, so even a lease that has ended by then is still
    // free.
    let short = Duration::from_secs(1);
    let mut first = Relay::new(fixture).await?;
    let all = first.store.heartbeat(first.id, short).await?.owned;
    let renewed = first.beat().await?.owned;
    ensure_eq!(renewed, all, "partitions of a relay that keeps sending heartbeats");
    // The first of the two leases would have ended by now.
    fixture.pass_time(short + ROUNDING).await;
    let mut second = Relay::new(fixture).await?;
    for _ in 0..3 {
        ensure_eq!(
            second.beat().await?.owned,
            [],
            "partitions taken from a relay that keeps sending heartbeats"
        );
        ensure_eq!(first.beat().await?.owned, all, "partitions of a relay that keeps sending heartbeats");
    }
    Ok(())
}

pub(crate) async fn released_partitions_are_free_at_once(fixture: &dyn StoreFixture) -> CaseResult {
    let mut first = Relay::new(fixture).await?;
    let mut second = Relay::new(fixture).await?;
    first.beat().await?;
    second.beat().await?;
    let given = first.owned.split_off(first.owned.len().saturating_sub(1));
    first.store.release(first.id, &given).await?;
    ensure_eq!(second.beat().await?.owned, given, "partitions taken after one was released");
    // Releasing a partition that is no longer held, or no partition, changes nothing.
    first.store.release(first.id, &given).await?;
    first.store.release(first.id, &[]).await?;
    ensure_eq!(second.beat().await?.owned, given, "partitions after its former owner released one again");
    Ok(())
}

pub(crate) async fn leaving_frees_everything(fixture: &dyn StoreFixture) -> CaseResult {
    let mut relays = vec![Relay::new(fixture).await?, Relay::new(fixture).await?, Relay::new(fixture).await?];
    balance(fixture, &mut relays).await?;
    let Some(gone) = relays.pop() else { return Ok(()) };
    gone.store.leave(gone.id).await?;
    gone.store.leave(gone.id).await?;
    let known = relays[0].beat().await?.relays;
    ensure_eq!(known, 2, "relays after one left");
    balance(fixture, &mut relays).await?;
    let Some(gone) = relays.pop() else { return Ok(()) };
    gone.store.leave(gone.id).await?;
    let alone = relays[0].beat().await?;
    ensure_eq!(alone.owned.len(), alone.partitions, "partitions of the last relay");
    Ok(())
}

pub(crate) async fn expired_leases_are_taken(fixture: &dyn StoreFixture) -> CaseResult {
    let ttl = Duration::from_millis(400);
    let dying = Relay::new(fixture).await?;
    let mut heir = Relay::new(fixture).await?;
    let before = fixture.now();
    let all = dying.store.heartbeat(dying.id, ttl).await?.owned;
    let deadline = Deadline::new(fixture);
    loop {
        let membership = heir.beat().await?;
        if !membership.owned.is_empty() {
            let waited = fixture.now().since(before);
            ensure!(
                waited + ROUNDING >= ttl,
                "partitions were taken {waited:?} after a heartbeat for {ttl:?}"
            );
        }
        if membership.owned.len() == all.len() {
            ensure_eq!(
                (membership.relays, membership.share),
                (1, all.len()),
                "relays and share of the successor"
            );
            break;
        }
        deadline
            .pause(fixture, || format!("a successor that owns the partitions; it has {:?}", membership.owned))
            .await?;
    }
    // The dead relay returns, and finds its partitions taken.
    ensure_eq!(dying.store.heartbeat(dying.id, ttl).await?.owned, [], "partitions of a relay that returned");
    Ok(())
}

pub(crate) async fn strangers_release_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    let mut first = Relay::new(fixture).await?;
    let owned = first.beat().await?.owned;
    let other = fixture.store().await?;
    other.release(RelayId::new(), &owned).await?;
    other.leave(RelayId::new()).await?;
    ensure_eq!(
        other.heartbeat(RelayId::new(), LONG).await?.owned,
        [],
        "partitions that another relay released"
    );
    ensure_eq!(first.beat().await?.owned, owned, "partitions after another relay released them");
    Ok(())
}

pub(crate) async fn concurrent_heartbeats_never_share_a_partition(fixture: &dyn StoreFixture) -> CaseResult {
    let mut relays = Vec::new();
    for _ in 0..8 {
        relays.push(Relay::new(fixture).await?);
    }
    for round in 0..12 {
        // Releases have ended before the next heartbeats begin, so the partitions in their answers must not
        // overlap.
        try_join_all(relays.iter_mut().map(Relay::beat)).await?;
        check_exclusive(&relays)?;
        try_join_all(relays.iter_mut().map(Relay::release_surplus)).await?;
        if round == 6 {
            // Half of them leave immediately, and others join.
            for relay in relays.drain(4..) {
                relay.store.leave(relay.id).await?;
            }
            for _ in 0..4 {
                relays.push(Relay::new(fixture).await?);
            }
        }
    }
    balance(fixture, &mut relays).await
}

pub(crate) async fn relays_come_and_go(fixture: &dyn StoreFixture) -> CaseResult {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let with_seed = |stop| match stop {
        Stop::Failed(text) => Stop::Failed(format!("with seed {seed}: {text}")),
        stop => stop,
    };
    let mut relays: Vec<Relay> = Vec::new();
    for _ in 0..150 {
        match random.u32(0..10) {
            0 if relays.len() < 6 => relays.push(Relay::new(fixture).await?),
            1 if !relays.is_empty() => {
                let relay = relays.swap_remove(random.usize(..relays.len()));
                relay.store.leave(relay.id).await?;
            }
            2 if !relays.is_empty() => {
                // Its lease ends immediately, without its knowledge: its partitions may have other owners
                // from now on.
                let relay = relays.swap_remove(random.usize(..relays.len()));
                relay.store.heartbeat(relay.id, Duration::from_millis(1)).await?;
            }
            3..6 if !relays.is_empty() => {
                let chosen = random.usize(..relays.len());
                relays[chosen].release_surplus().await?;
            }
            _ if !relays.is_empty() => {
                let chosen = random.usize(..relays.len());
                relays[chosen].beat().await?;
            }
            _ => {}
        }
        check_exclusive(&relays).map_err(with_seed)?;
    }
    relays.push(Relay::new(fixture).await?);
    balance(fixture, &mut relays).await.map_err(with_seed)
}
