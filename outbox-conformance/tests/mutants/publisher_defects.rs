//! Publishers that break one rule each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use outbox_conformance::PublisherHarness;
use outbox_core::memory::MemoryPublisher;
use outbox_core::{
    Error, ErrorKind, Message, MessageId, Outcome, Publisher, PublisherCapabilities, Scope, Verdict, fail_all,
};

use crate::Found;
use crate::support::PublisherMemoryHarness;

/// The defect of the publisher.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    AnswersTooFew,
    AnswersTooMany,
    AnswersInAnotherOrder,
    AnswersNothingWithSomething,
    ConfirmsWhatIsUnroutable,
    ConfirmsTheNeighbourOfWhatIsUnroutable,
    LosesEveryThird,
    ChangesIds,
    LosesHeaders,
    LosesContentTypes,
    LosesKeys,
    CutsPayloads,
    ChangesEmptyPayloads,
    SendsTwice,
    ReordersABatch,
    DelaysCalls,
    DisturbsOverlappingCalls,
    RefusesRepeats,
    RefusesFullBatches,
    HasNoName,
    ChangesItsCapabilities,
    CannotBeClosed,
    ConfirmsAfterClosing,
    FailsTheWholeBatch,
    TriesOversizedAgain,
    ConfirmsOversized,
    BlamesTheBroker,
    TriesInvalidOptionsAgain,
    IgnoresInvalidOptions,
    GoesOnBehindAFailure,
    ConfirmsCuts,
    DeniesCuts,
    BlamesTheMessageForCuts,
    ConfirmsOutages,
    GivesUpInOutages,
    BlamesTheMessageForOutages,
    NeverRecovers,
    HangsInOutages,
    ConfirmsSilence,
    StopsAfterADrop,
    SendsAfterADrop,
    MixesUpReasons,
    ConfirmsWithoutAnAnswer,
    BlamesTheMessageForThrottling,
    GivesUpWhenThrottled,
    ConfirmsWhatWasRefused,
    GivesUpWhatWasRefused,
    BlamesTheBrokerForARefusal,
    RepeatsByItself,
}

const DEFECTS: &[(Defect, &str)] = &[
    (Defect::AnswersTooFew, "publishing::one_outcome_per_message"),
    (Defect::AnswersTooMany, "publishing::one_outcome_per_message"),
    (Defect::AnswersInAnotherOrder, "rejecting::unroutable_messages_fail_among_many"),
    (Defect::AnswersNothingWithSomething, "publishing::an_empty_batch_is_fine"),
    (Defect::ConfirmsWhatIsUnroutable, "rejecting::unroutable_messages_fail"),
    (Defect::ConfirmsTheNeighbourOfWhatIsUnroutable, "rejecting::unroutable_messages_fail_among_many"),
    (Defect::LosesEveryThird, "publishing::confirmed_messages_arrive"),
    (Defect::ChangesIds, "publishing::confirmed_messages_arrive"),
    (Defect::LosesHeaders, "publishing::confirmed_messages_arrive"),
    (Defect::LosesContentTypes, "publishing::confirmed_messages_arrive"),
    (Defect::LosesKeys, "publishing::confirmed_messages_arrive"),
    (Defect::CutsPayloads, "publishing::unusual_content_arrives"),
    (Defect::ChangesEmptyPayloads, "publishing::unusual_content_arrives"),
    (Defect::SendsTwice, "publishing::confirmed_messages_arrive"),
    (Defect::ReordersABatch, "publishing::order_is_kept_within_a_batch"),
    (Defect::DelaysCalls, "publishing::order_is_kept_across_calls"),
    (Defect::DisturbsOverlappingCalls, "publishing::calls_may_overlap"),
    (Defect::RefusesRepeats, "publishing::duplicates_are_published_again"),
    (Defect::RefusesFullBatches, "publishing::a_full_batch_is_taken"),
    (Defect::HasNoName, "publishing::capabilities_make_sense"),
    (Defect::ChangesItsCapabilities, "publishing::capabilities_make_sense"),
    (Defect::CannotBeClosed, "publishing::closing_is_clean"),
    (Defect::ConfirmsAfterClosing, "publishing::closing_is_clean"),
    (Defect::FailsTheWholeBatch, "rejecting::unroutable_messages_fail"),
    (Defect::FailsTheWholeBatch, "rejecting::invalid_options_fail"),
    (Defect::TriesOversizedAgain, "rejecting::oversized_messages_fail"),
    (Defect::ConfirmsOversized, "rejecting::oversized_messages_fail"),
    (Defect::BlamesTheBroker, "rejecting::unroutable_messages_fail"),
    (Defect::TriesInvalidOptionsAgain, "rejecting::invalid_options_fail"),
    (Defect::IgnoresInvalidOptions, "rejecting::invalid_options_fail"),
    (Defect::GoesOnBehindAFailure, "rejecting::a_key_stops_at_its_failure"),
    (Defect::ConfirmsCuts, "failing::a_cut_is_told_truly"),
    (Defect::DeniesCuts, "failing::a_cut_is_told_truly"),
    (Defect::BlamesTheMessageForCuts, "failing::a_cut_is_told_truly"),
    (Defect::ConfirmsOutages, "failing::a_broker_that_is_down_is_reported"),
    (Defect::GivesUpInOutages, "failing::a_broker_that_is_down_is_reported"),
    (Defect::BlamesTheMessageForOutages, "failing::a_broker_that_is_down_is_reported"),
    (Defect::HangsInOutages, "failing::a_broker_that_is_down_is_reported"),
    (Defect::NeverRecovers, "failing::an_outage_is_survived"),
    (Defect::NeverRecovers, "failing::a_cut_is_survived"),
    (Defect::ConfirmsSilence, "failing::a_stalled_broker_is_not_confirmed"),
    (Defect::StopsAfterADrop, "failing::dropped_calls_do_no_harm"),
    (Defect::SendsAfterADrop, "failing::dropped_calls_send_nothing_later"),
    (Defect::MixesUpReasons, "rejecting::each_failure_has_its_own_reason"),
    (Defect::ConfirmsWithoutAnAnswer, "answering::a_lost_answer_is_told_truly"),
    (Defect::DeniesCuts, "answering::a_lost_answer_is_told_truly"),
    (Defect::BlamesTheMessageForThrottling, "answering::throttling_is_told_as_such"),
    (Defect::GivesUpWhenThrottled, "answering::throttling_is_told_as_such"),
    (Defect::ConfirmsWhatWasRefused, "answering::a_partial_failure_is_told_apart"),
    (Defect::GivesUpWhatWasRefused, "answering::a_partial_failure_is_told_apart"),
    (Defect::BlamesTheBrokerForARefusal, "answering::a_partial_failure_is_told_apart"),
    (Defect::FailsTheWholeBatch, "answering::a_partial_failure_is_told_apart"),
    (Defect::RepeatsByItself, "answering::order_survives_partial_failures"),
];

pub(crate) fn all() -> Vec<Found<dyn PublisherHarness>> {
    let found = |(defect, case): &(Defect, &'static str)| -> Found<dyn PublisherHarness> {
        let defect = *defect;
        let harness = PublisherMemoryHarness::new(Arc::new(move || {
            Box::new(move |inner| {
                Arc::new(Broken {
                    inner,
                    defect,
                    calls: AtomicU64::new(0),
                    running: AtomicU64::new(0),
                    stopped: AtomicBool::new(false),
                    closed: AtomicBool::new(false),
                    seen: Mutex::default(),
                    kept: Mutex::default(),
                })
            })
        }));
        (format!("{defect:?}"), case, Arc::new(harness))
    };
    DEFECTS.iter().map(found).collect()
}

struct Broken {
    inner: MemoryPublisher,
    defect: Defect,
    calls: AtomicU64,
    running: AtomicU64,
    stopped: AtomicBool,
    closed: AtomicBool,
    seen: Mutex<BTreeSet<MessageId>>,
    kept: Mutex<Vec<Message>>,
}

/// Detects that a call was dropped.
struct Call<'a> {
    broken: &'a Broken,
    done: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.broken.running.fetch_sub(1, Ordering::Relaxed);
        if !self.done && self.broken.defect == Defect::StopsAfterADrop {
            self.broken.stopped.store(true, Ordering::Relaxed);
        }
    }
}

fn is(outcome: &Outcome, kind: ErrorKind) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == kind)
}

impl Broken {
    fn spoil_message(&self, message: &Message) -> Message {
        let mut payload = message.payload().clone();
        match self.defect {
            Defect::CutsPayloads => payload.truncate(100_000),
            Defect::ChangesEmptyPayloads if payload.is_empty() => payload = "null".into(),
            _ => {}
        }
        let id = if self.defect == Defect::ChangesIds { MessageId::new() } else { message.id() };
        let mut options = message.options().clone();
        if self.defect == Defect::IgnoresInvalidOptions {
            options = outbox_core::Options::new();
        }
        let mut builder = Message::bytes(message.topic(), payload).id(id).raw_options(options);
        if self.defect != Defect::LosesHeaders {
            builder = builder.headers(message.headers().clone());
        }
        if let Some(key) = message.key().filter(|_| self.defect != Defect::LosesKeys) {
            builder = builder.key(key);
        }
        if let Some(kind) = message.content_type().filter(|_| self.defect != Defect::LosesContentTypes) {
            builder = builder.content_type(kind);
        }
        builder.build().unwrap()
    }

    fn spoil_outcome(&self, outcome: &mut Outcome) {
        let unroutable = is(outcome, ErrorKind::Unroutable);
        let (large, malformed) = (is(outcome, ErrorKind::TooLarge), is(outcome, ErrorKind::Malformed));
        let (cut, down) = (is(outcome, ErrorKind::Interrupted), is(outcome, ErrorKind::Unavailable));
        let (throttled, refused) = (is(outcome, ErrorKind::Throttled), is(outcome, ErrorKind::Rejected));
        let rejected = || Error::new(ErrorKind::Rejected, "rejected");
        match self.defect {
            Defect::ConfirmsWithoutAnAnswer if cut => *outcome = Ok(()),
            Defect::BlamesTheMessageForThrottling if throttled => {
                *outcome = Err(Error::new(ErrorKind::Throttled, "no").with_scope(Scope::Message));
            }
            Defect::GivesUpWhenThrottled if throttled => {
                *outcome = Err(Error::new(ErrorKind::Throttled, "no").with_verdict(Verdict::Permanent));
            }
            Defect::ConfirmsWhatWasRefused if refused => *outcome = Ok(()),
            Defect::GivesUpWhatWasRefused if refused => *outcome = Err(Error::malformed("no")),
            Defect::BlamesTheBrokerForARefusal if refused => {
                *outcome = Err(rejected().with_scope(Scope::Endpoint));
            }
            Defect::ConfirmsWhatIsUnroutable if unroutable => *outcome = Ok(()),
            Defect::BlamesTheBroker if unroutable => {
                *outcome = Err(Error::new(ErrorKind::Unroutable, "unroutable").with_scope(Scope::Endpoint));
            }
            Defect::TriesOversizedAgain if large => *outcome = Err(rejected()),
            Defect::ConfirmsOversized if large => *outcome = Ok(()),
            Defect::TriesInvalidOptionsAgain if malformed => *outcome = Err(rejected()),
            Defect::ConfirmsOutages if down => *outcome = Ok(()),
            Defect::GivesUpInOutages if down => {
                *outcome = Err(Error::new(ErrorKind::Unavailable, "no").with_verdict(Verdict::Permanent));
            }
            Defect::BlamesTheMessageForOutages if down => *outcome = Err(rejected()),
            Defect::DeniesCuts if cut => *outcome = Err(Error::new(ErrorKind::Unavailable, "cut")),
            Defect::BlamesTheMessageForCuts if cut => {
                *outcome = Err(Error::new(ErrorKind::Interrupted, "cut").with_scope(Scope::Message));
            }
            _ => {}
        }
    }

    async fn send(&self, batch: &[Message]) -> Vec<Outcome> {
        match self.defect {
            Defect::ReordersABatch => {
                let reversed: Vec<_> = batch.iter().rev().cloned().collect();
                let mut outcomes = self.inner.publish(&reversed).await;
                outcomes.reverse();
                outcomes
            }
            // Each call sends the messages of the previous one, and confirms its own.
            Defect::DelaysCalls if batch.len() == 1 => {
                let odd = self.calls.load(Ordering::Relaxed) % 2 == 1;
                if odd {
                    self.kept.lock().unwrap().extend_from_slice(batch);
                } else {
                    let kept = std::mem::take(&mut *self.kept.lock().unwrap());
                    self.inner.publish(batch).await;
                    self.inner.publish(&kept).await;
                }
                vec![Ok(())]
            }
            Defect::LosesEveryThird => {
                let mut outcomes = Vec::new();
                for (i, message) in batch.iter().enumerate() {
                    let lost = i % 3 == 2;
                    outcomes.extend(if lost {
                        vec![Ok(())]
                    } else {
                        self.inner.publish(std::slice::from_ref(message)).await
                    });
                }
                outcomes
            }
            Defect::GoesOnBehindAFailure => {
                let mut outcomes = Vec::new();
                for message in batch {
                    outcomes.extend(self.inner.publish(std::slice::from_ref(message)).await);
                }
                outcomes
            }
            // Refused messages are confirmed, and sent after the next call.
            Defect::RepeatsByItself => {
                let mut outcomes = self.inner.publish(batch).await;
                let late = std::mem::take(&mut *self.kept.lock().unwrap());
                let refused = self.inner.publish(&late).await;
                let refused = late.into_iter().zip(refused).filter(|(_, outcome)| outcome.is_err());
                self.kept.lock().unwrap().extend(refused.map(|(message, _)| message));
                for (message, outcome) in batch.iter().zip(&mut outcomes) {
                    if is(outcome, ErrorKind::Rejected) {
                        self.kept.lock().unwrap().push(message.clone());
                        *outcome = Ok(());
                    }
                }
                outcomes
            }
            Defect::SendsTwice => {
                self.inner.publish(batch).await;
                self.inner.publish(batch).await
            }
            // Messages that have not been sent when the connection is cut are forgotten, and confirmed.
            Defect::ConfirmsCuts => {
                let (first, second) = batch.split_at(batch.len() / 2);
                let mut outcomes = self.inner.publish(first).await;
                if outcomes.iter().any(|outcome| is(outcome, ErrorKind::Interrupted)) {
                    return batch.iter().map(|_| Ok(())).collect();
                }
                outcomes.extend(self.inner.publish(second).await);
                outcomes
            }
            Defect::SendsAfterADrop => {
                let (inner, batch) = (self.inner.clone(), batch.to_vec());
                let sending = tokio::spawn(async move {
                    loop {
                        let outcomes = inner.publish(&batch).await;
                        if !outcomes.iter().any(|outcome| is(outcome, ErrorKind::Unavailable)) {
                            return outcomes;
                        }
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                });
                sending.await.unwrap()
            }
            _ => self.inner.publish(batch).await,
        }
    }
}

#[async_trait]
impl Publisher for Broken {
    fn name(&self) -> &'static str {
        if self.defect == Defect::HasNoName { "" } else { self.inner.name() }
    }

    fn capabilities(&self) -> PublisherCapabilities {
        let capabilities = self.inner.capabilities();
        let used = self.calls.load(Ordering::Relaxed) > 0;
        if self.defect == Defect::ChangesItsCapabilities && used {
            return capabilities.max_batch_messages(17);
        }
        capabilities
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let running = self.running.fetch_add(1, Ordering::Relaxed);
        let mut call = Call { broken: self, done: false };
        let unavailable = || Error::new(ErrorKind::Unavailable, "broken for good");

        if self.stopped.load(Ordering::Relaxed) {
            return fail_all(batch, unavailable);
        }
        match self.defect {
            Defect::DisturbsOverlappingCalls if running > 0 => return fail_all(batch, unavailable),
            Defect::RefusesFullBatches if batch.len() > 250 => return fail_all(batch, unavailable),
            Defect::ConfirmsAfterClosing if self.closed.load(Ordering::Relaxed) => {
                return batch.iter().map(|_| Ok(())).collect();
            }
            Defect::AnswersNothingWithSomething if batch.is_empty() => return vec![Ok(())],
            Defect::RefusesRepeats => {
                let mut seen = self.seen.lock().unwrap();
                if !batch.iter().all(|message| seen.insert(message.id())) {
                    return fail_all(batch, unavailable);
                }
            }
            Defect::ConfirmsSilence => {
                // A missing answer counts as a success after a second.
                let soon = std::time::Duration::from_secs(1);
                return match tokio::time::timeout(soon, self.inner.publish(batch)).await {
                    Ok(outcomes) => outcomes,
                    Err(_) => batch.iter().map(|_| Ok(())).collect(),
                };
            }
            _ => {}
        }
        let spoiled: Vec<_> = batch.iter().map(|message| self.spoil_message(message)).collect();
        let mut outcomes = self.send(&spoiled).await;
        call.done = true;

        let down = outcomes.iter().any(|outcome| is(outcome, ErrorKind::Unavailable));
        let cut = outcomes.iter().any(|outcome| is(outcome, ErrorKind::Interrupted));
        if self.defect == Defect::HangsInOutages && down {
            std::future::pending::<()>().await;
        }
        if self.defect == Defect::NeverRecovers && (down || cut) {
            self.stopped.store(true, Ordering::Relaxed);
        }
        outcomes.iter_mut().for_each(|outcome| self.spoil_outcome(outcome));
        match self.defect {
            Defect::AnswersTooFew => {
                outcomes.pop();
            }
            // Each failed message has the reason of the next one that failed.
            Defect::MixesUpReasons => {
                let mut failed: Vec<_> = outcomes.iter_mut().filter(|outcome| outcome.is_err()).collect();
                for i in 1..failed.len() {
                    let (before, after) = failed.split_at_mut(i);
                    std::mem::swap(&mut *before[i - 1], &mut *after[0]);
                }
            }
            Defect::AnswersTooMany => outcomes.push(Ok(())),
            Defect::AnswersInAnotherOrder => outcomes.reverse(),
            Defect::ConfirmsTheNeighbourOfWhatIsUnroutable if outcomes.len() > 100 => outcomes.rotate_left(1),
            Defect::FailsTheWholeBatch if outcomes.iter().any(Result::is_err) => {
                outcomes = fail_all(batch, || Error::new(ErrorKind::Rejected, "rejected"));
            }
            _ => {}
        }
        outcomes
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if self.defect == Defect::CannotBeClosed {
            std::future::pending::<()>().await;
        }
        self.inner.close().await;
    }
}
