//! An inbox in memory, and inboxes that break one rule each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outbox_conformance::{InboxFixture, InboxHarness, InboxTransaction};
use outbox_core::{Error, MessageId, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Found;

/// The defect of an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    Nothing,
    EverythingIsNew,
    NothingIsNew,
    RollbackForgetsNothing,
    CommitForgets,
    ConsumersShare,
    ConsumersFold,
    AnyNameIsTaken,
    ARepeatEndsTheTransaction,
    NobodyWaits,
    WhoWaitedLoses,
    WhoWaitedWins,
    PurgeHasNoLimit,
    PurgeTakesTheYoung,
    PurgeTakesNothing,
    PurgeOnlyCounts,
}

type Entry = (String, MessageId);

#[derive(Default)]
struct State {
    /// With the time of the commit, if it was committed.
    entries: Mutex<BTreeMap<Entry, Option<Instant>>>,
    changed: Notify,
}

#[derive(Clone)]
pub(crate) struct Harness(pub(crate) Defect);

struct Fixture(Defect, Arc<State>);

struct Transaction {
    defect: Defect,
    state: Arc<State>,
    mine: Vec<Entry>,
    over: bool,
}

#[async_trait]
impl InboxHarness for Harness {
    async fn create(&self) -> Result<Box<dyn InboxFixture>> {
        Ok(Box::new(Fixture(self.0, Arc::default())))
    }
}

#[async_trait]
impl InboxFixture for Fixture {
    async fn begin(&self) -> Result<Box<dyn InboxTransaction>> {
        Ok(Box::new(Transaction { defect: self.0, state: self.1.clone(), mine: Vec::new(), over: false }))
    }

    async fn purge(&self, older_than: Duration, limit: usize) -> Result<u64> {
        let mut entries = self.1.entries.lock().unwrap();
        let is_old = |at: &Option<Instant>| match self.0 {
            Defect::PurgeTakesTheYoung => at.is_some(),
            _ => at.is_some_and(|at| at.elapsed() >= older_than),
        };
        let limit = if self.0 == Defect::PurgeHasNoLimit { usize::MAX } else { limit };
        let old: Vec<Entry> =
            entries.iter().filter(|(_, at)| is_old(at)).map(|(entry, _)| entry.clone()).take(limit).collect();
        if self.0 == Defect::PurgeTakesNothing {
            return Ok(0);
        }
        for entry in &old {
            if self.0 == Defect::PurgeOnlyCounts {
                entries.insert((format!("{}, purged", entry.0), entry.1), None);
            } else {
                entries.remove(entry);
            }
        }
        Ok(old.len() as u64)
    }
}

#[async_trait]
impl InboxTransaction for Transaction {
    async fn accept(&mut self, consumer: &str, id: MessageId) -> Result<bool> {
        let bad = consumer.is_empty() || consumer.len() > 255 || consumer.contains('\0');
        if bad && self.defect != Defect::AnyNameIsTaken {
            return Err(Error::config("no name"));
        }
        match self.defect {
            Defect::EverythingIsNew => return Ok(true),
            Defect::NothingIsNew => return Ok(false),
            _ => {}
        }
        let consumer = match self.defect {
            Defect::ConsumersShare => String::new(),
            Defect::ConsumersFold => consumer.to_lowercase(),
            _ => consumer.to_owned(),
        };
        let entry = (consumer, id);
        let mut waited = false;
        loop {
            let changed = self.state.changed.notified();
            {
                let mut entries = self.state.entries.lock().unwrap();
                match entries.get(&entry) {
                    None if waited && self.defect == Defect::WhoWaitedLoses => return Ok(false),
                    None => {
                        entries.insert(entry.clone(), None);
                        self.mine.push(entry);
                        return Ok(true);
                    }
                    Some(Some(_)) if waited && self.defect == Defect::WhoWaitedWins => return Ok(true),
                    Some(at) if at.is_some() || self.mine.contains(&entry) => {
                        if self.defect == Defect::ARepeatEndsTheTransaction {
                            self.over = true;
                        }
                        return Ok(false);
                    }
                    Some(_) if self.defect == Defect::NobodyWaits => return Ok(false),
                    Some(_) => {}
                }
            }
            waited = true;
            changed.await;
        }
    }

    async fn commit(mut self: Box<Self>) -> Result<()> {
        if self.over || self.defect == Defect::CommitForgets {
            return Ok(());
        }
        for entry in std::mem::take(&mut self.mine) {
            self.state.entries.lock().unwrap().insert(entry, Some(Instant::now()));
        }
        self.state.changed.notify_waiters();
        Ok(())
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        for entry in std::mem::take(&mut self.mine) {
            let mut entries = self.state.entries.lock().unwrap();
            if self.defect == Defect::RollbackForgetsNothing {
                entries.insert(entry, Some(Instant::now()));
            } else {
                entries.remove(&entry);
            }
        }
        self.state.changed.notify_waiters();
    }
}

pub(crate) fn all() -> Vec<Found<dyn InboxHarness>> {
    use Defect as D;
    [
        (D::EverythingIsNew, "accepting::a_message_is_new_once"),
        (D::EverythingIsNew, "accepting::of_those_who_race_one_wins"),
        (D::NothingIsNew, "accepting::a_message_is_new_once"),
        (D::RollbackForgetsNothing, "accepting::what_is_rolled_back_is_new_again"),
        (D::CommitForgets, "accepting::of_those_who_race_one_wins"),
        (D::ConsumersShare, "accepting::consumers_do_not_disturb_each_other"),
        (D::ConsumersFold, "accepting::consumers_do_not_disturb_each_other"),
        (D::AnyNameIsTaken, "accepting::impossible_names_are_refused"),
        (D::ARepeatEndsTheTransaction, "accepting::a_repeat_leaves_the_transaction_usable"),
        (D::NobodyWaits, "accepting::who_comes_second_waits_for_the_first"),
        (D::WhoWaitedLoses, "accepting::who_comes_second_waits_for_the_first"),
        (D::WhoWaitedWins, "accepting::who_comes_second_waits_for_the_first"),
        (D::PurgeHasNoLimit, "forgetting::purging_is_bounded"),
        (D::PurgeTakesTheYoung, "forgetting::young_entries_are_kept"),
        (D::PurgeTakesNothing, "forgetting::purging_is_bounded"),
        (D::PurgeOnlyCounts, "forgetting::what_is_purged_is_new_again"),
    ]
    .into_iter()
    .map(|(defect, case)| {
        let harness: Arc<dyn InboxHarness> = Arc::new(Harness(defect));
        (format!("{defect:?}"), case, harness)
    })
    .collect()
}
