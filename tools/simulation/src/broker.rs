//! The broker, and a relay's connection to it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    Error, ErrorKind, Message, Outcome, Publisher, PublisherCapabilities, Scope, Verdict, fail_all,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::link::sleep_if;
use crate::process::Process;
use crate::trace::Trace;
use crate::weather::{Conditions, Fate, Weather};
use crate::witness::Witness;

/// The messages that the broker has accepted, in its order: keys and numbers.
pub(crate) type Taken = Arc<Mutex<Vec<(Option<String>, u64)>>>;

/// When the broker has finished everything it was sent, if it needs time for each message.
pub(crate) type FreeAt = Arc<Mutex<Option<Instant>>>;

/// The broker as one relay sees it.
pub(crate) struct Link {
    pub(crate) taken: Taken,
    pub(crate) free_at: FreeAt,
    pub(crate) relay: u32,
    pub(crate) weather: Arc<Weather>,
    pub(crate) process: Process,
    pub(crate) witness: Witness,
    pub(crate) trace: Trace,
    pub(crate) rng: Mutex<fastrand::Rng>,
    pub(crate) ordered_batches: bool,
}

/// The number in a message's payload.
pub(crate) fn number(message: &Message) -> u64 {
    std::str::from_utf8(message.payload()).expect("text").parse().expect("a number")
}

impl Link {
    /// When the broker will have finished these messages, after everything it was sent before.
    fn queue(&self, messages: usize, pace: Duration) -> Instant {
        let now = Instant::now();
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let end = free_at.unwrap_or(now).max(now) + pace * u32::try_from(messages).expect("a small number");
        *free_at = Some(end);
        end
    }

    /// Lets a slow broker accept the batch, even if the call is given up meanwhile.
    async fn take_slowly(
        &self,
        batch: &[Message],
        conditions: Conditions,
        mut rng: fastrand::Rng,
    ) -> Vec<Outcome> {
        let end = self.queue(batch.len(), conditions.pace);
        let under_way = self.weather.queued(end - Instant::now());
        let (taken, witness, weather) = (self.taken.clone(), self.witness.clone(), self.weather.clone());
        let (sent, ordered) = (batch.to_vec(), self.ordered_batches);
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            sleep_until(end).await;
            let outcomes = take(&taken, &witness, &weather, &sent, conditions, ordered, &mut rng);
            drop(under_way);
            // The caller may have stopped waiting.
            let _ = answer.send(outcomes);
        });
        answered.await.expect("the broker answers")
    }

    fn dice(&self) -> fastrand::Rng {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "simulated: the answer is lost")
}

/// The broker's handling of a batch. After a failed message of a key it accepts no later one, if it promises
/// that.
fn take(
    taken: &Taken,
    witness: &Witness,
    weather: &Weather,
    batch: &[Message],
    conditions: Conditions,
    ordered: bool,
    rng: &mut fastrand::Rng,
) -> Vec<Outcome> {
    let mut failed = HashSet::new();
    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
    let mut outcomes = Vec::with_capacity(batch.len());
    for message in batch {
        let key = message.key().filter(|_| ordered);
        if key.is_some_and(|key| failed.contains(key)) {
            outcomes.push(Err(Error::new(ErrorKind::Rejected, "not sent, because an earlier one failed")));
            continue;
        }
        let number = number(message);
        let poisoned = conditions.poison != 0 && number.is_multiple_of(conditions.poison);
        let outcome = if poisoned {
            Err(Error::new(ErrorKind::Malformed, "simulated: the message breaks its call"))
        } else if rng.u32(0..1_000) < conditions.refuses {
            Err(Error::new(ErrorKind::Rejected, "simulated: refused for now"))
        } else {
            taken.push((message.key().map(str::to_owned), number));
            if rng.u32(0..1_000) < conditions.broker.is_lost / 4 {
                weather.may_repeat();
                Err(Error::new(ErrorKind::Timeout, "simulated: the confirm is lost")
                    .with_scope(Scope::Message)
                    .with_verdict(Verdict::Unknown))
            } else {
                Ok(())
            }
        };
        if outcome.is_err() {
            witness.blamed(number);
            failed.extend(key);
        }
        outcomes.push(outcome);
    }
    outcomes
}

#[async_trait]
impl Publisher for Link {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::default().ordered_batches(self.ordered_batches)
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let numbers = batch.iter().map(number).fold(0, |sum: u64, number| sum.wrapping_mul(31) + number);
        self.trace.note(self.relay, "publish", numbers);
        self.trace.tell(self.relay, || format!("{:?}", batch.iter().map(number).collect::<Vec<_>>()));
        let conditions = self.weather.now();
        let _in_flight = self.witness.publishing(self.relay, batch, conditions.broker_down);
        let mut rng = self.dice();
        let fate = Fate::draw(&mut rng, conditions.broker, conditions.broker_down);
        let under_way = self.weather.under_way(&fate);
        sleep_if(fate.before).await;
        self.process.step().await;
        if fate.fails {
            return fail_all(batch, || {
                Error::new(ErrorKind::Unavailable, "simulated: the broker is unavailable")
            });
        }
        if fate.may_repeat() {
            self.weather.may_repeat();
        }
        if let Some(end) = batch.iter().position(|message| conditions.is_breaking(number(message))) {
            // Messages before it may have been accepted.
            let end = if rng.bool() { end } else { 0 };
            self.weather.may_repeat();
            take(&self.taken, &self.witness, &self.weather, &batch[..end], conditions, true, &mut rng);
            return fail_all(batch, interrupted);
        }
        if fate.is_late {
            // The request has left, and is on its way although the relay has stopped waiting for it.
            let (taken, sent, ordered) = (self.taken.clone(), batch.to_vec(), self.ordered_batches);
            let (witness, weather) = (self.witness.clone(), self.weather.clone());
            let late = Duration::from_millis(rng.u64(1..30_000));
            tokio::spawn(async move {
                sleep(late).await;
                take(&taken, &witness, &weather, &sent, conditions, ordered, &mut rng);
                drop(under_way);
            });
            // The relay gives up before that.
            sleep(Duration::from_secs(3_600)).await;
            return fail_all(batch, interrupted);
        }
        let outcomes = if conditions.pace.is_zero() {
            let ordered = self.ordered_batches;
            take(&self.taken, &self.witness, &self.weather, batch, conditions, ordered, &mut rng)
        } else {
            self.take_slowly(batch, conditions, rng).await
        };
        let taken = || {
            let taken = batch.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
            format!("confirmed {:?}", taken.map(|(message, _)| number(message)).collect::<Vec<_>>())
        };
        self.trace.tell(self.relay, taken);
        sleep_if(fate.after).await;
        self.process.step().await;
        if fate.is_lost { fail_all(batch, interrupted) } else { outcomes }
    }
}
