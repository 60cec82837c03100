//! One publish call: sorts its batch into windows, runs them, and finds the messages that the broker refuses by closing
//! a channel or the connection.
//!
//! The broker does not say which of many messages it took offence at. So those that it has not confirmed are sent once
//! more, each alone. The one that closes its channel again has shown itself; the others get through, and the broker has
//! them twice at most.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream;
use outbox_core::{Error, ErrorKind, Message, MessageId, Outcome, Result, Scope, Verdict};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::dial::DialFailure;
use crate::error::{Closed, Stage, forbidden_exchange, is_explained, is_not_found, judge};
use crate::exchanges::{self, Unusable};
use crate::link::Link;
use crate::outgoing::Outgoing;
use crate::publisher::AmqpPublisher;
use crate::verdict::{Complaint, blocked};
use crate::window;

/// Messages that are sent alone at the same time, each on its own channel.
const ALONE_AT_ONCE: usize = 8;

/// After so many connections that end in a row, it is the broker and not a message.
const CONNECTIONS_ENDED: usize = 2;

pub(crate) struct Call<'a> {
    publisher: &'a AmqpPublisher,
    batch: &'a [Message],
    outcomes: Outcomes,
    deadline: Instant,
}

/// Messages by their places in the batch.
type Places = Vec<usize>;

impl<'a> Call<'a> {
    pub(crate) fn new(publisher: &'a AmqpPublisher, batch: &'a [Message]) -> Self {
        Self { publisher, batch, outcomes: Outcomes::new(batch.len()), deadline: Instant::now() }
    }

    pub(crate) async fn run(mut self) -> Vec<Outcome> {
        let places = (0..self.batch.len()).collect();
        let ready = self.translate(places);
        if !ready.is_empty() {
            self.publish(ready).await;
        }
        let outcomes = self.outcomes.finish();
        self.publisher.failures.report(&self.publisher.routing, self.batch, &outcomes);
        outcomes
    }

    /// Makes messages ready, and gives those that AMQP or the broker could not take their outcome.
    fn translate(&mut self, places: Places) -> Vec<Outgoing<'a>> {
        let mut ready = Vec::with_capacity(places.len());
        for place in places {
            let Some(message) = self.batch.get(place) else { continue };
            match Outgoing::new(place, message, &self.publisher.routing, self.publisher.max_message_bytes) {
                Ok(outgoing) => ready.push(outgoing),
                Err(error) => self.outcomes.set(place, Err(error)),
            }
        }
        ready
    }

    async fn publish(&mut self, ready: Vec<Outgoing<'a>>) {
        // One call, one channel. The semaphore is never closed.
        let Ok(_permit) = self.publisher.calls.acquire().await else { return };
        self.deadline = Instant::now() + self.publisher.confirm_timeout;
        self.send(ready).await;
        self.mend_topology().await;
    }

    /// Sends messages until each has an outcome that says something about it, or the time is over.
    async fn send(&mut self, mut ready: Vec<Outgoing<'a>>) {
        while !ready.is_empty() {
            let Some(link) = self.connect(&ready).await else { return };
            if let Some(reason) = link.blocked() {
                return self.outcomes.fail_all(&ready, &|| link.endpoint().locate(blocked(&reason)));
            }
            ready = self.keep_usable(&link, ready).await;
            let (together, alone) =
                plan(ready, |message| self.publisher.quarantine.holds(message.id, &message.exchange.name));
            let mut suspects = Suspects::default();
            let mut unsent = Places::new();
            for window in together {
                unsent.extend(self.run_window(window, &mut suspects).await);
            }
            self.run_alone(alone, Stage::Alone, ALONE_AT_ONCE, &mut suspects).await;

            let Suspects { of_channels, of_connections } = suspects;
            // Each culprit costs a connection, so nothing else may be under way on it.
            for (places, at_once) in [(of_channels, ALONE_AT_ONCE), (of_connections, 1)] {
                let again = self.translate(places);
                if let Some(link) = self.connect(&again).await {
                    let again = self.keep_usable(&link, again).await;
                    self.run_alone(again, Stage::AloneAgain, at_once, &mut Suspects::default()).await;
                }
            }
            ready = if self.is_over() { Vec::new() } else { self.translate(unsent) };
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The connection for these messages: a new one if the old one has ended or is not to be trusted any more. Without
    /// one, the messages of which nothing is known yet get their outcome.
    async fn connect(&mut self, messages: &[Outgoing<'_>]) -> Option<Arc<Link>> {
        if messages.is_empty() {
            return None;
        }
        match self.publisher.link(self.deadline).await {
            Ok(link) => Some(link),
            Err(failure) => {
                let publisher = self.publisher;
                self.outcomes.fail_all(messages, &|| publisher.not_connected(failure.as_ref()));
                None
            }
        }
    }

    /// Gives an outcome to the messages that this connection cannot carry, or whose exchange cannot be used, and keeps
    /// the others.
    async fn keep_usable(&mut self, link: &Link, ready: Vec<Outgoing<'a>>) -> Vec<Outgoing<'a>> {
        let ready = self.outcomes.keep(ready, |message| message.fits(link.frame_max()));
        let specs = ready.iter().map(|message| &message.exchange);
        let connections = &self.publisher.connections;
        let unusable = Box::pin(exchanges::ensure(link, connections, specs, self.deadline)).await;
        self.outcomes.keep(ready, |message| match unusable.get(&message.exchange) {
            None => Ok(()),
            Some(Unusable::Failed(error)) => {
                let judged = judge(error, Stage::Exchange).with("exchange", &message.exchange.name);
                Err(link.endpoint().locate(judged))
            }
            Some(Unusable::TimedOut) => Err(link.endpoint().locate(Error::new(
                ErrorKind::Unavailable,
                "the message was not sent: the broker did not answer in time whether its exchange exists",
            ))),
        })
    }

    /// Runs one window. Gives what was not sent because the broker closed the channel before.
    async fn run_window(&mut self, window: Vec<Outgoing<'a>>, suspects: &mut Suspects) -> Places {
        let Some(link) = self.connect(&window).await else { return Places::new() };
        let sent: Vec<Sent> = window.iter().map(Sent::of).collect();
        let (outcomes, complaint) = attempt(&link, window, Stage::Alone, self.deadline).await;
        let unclear =
            |outcome: &Outcome| matches!(outcome, Err(error) if error.verdict() == Verdict::Unknown);
        let unclear: Vec<bool> = outcomes.iter().map(unclear).collect();
        for (sent, outcome) in sent.iter().zip(outcomes) {
            self.outcomes.set(sent.place, outcome);
        }
        let Some(complaint) = complaint else { return Places::new() };
        self.publisher.learn(&link, &complaint, &sent);
        // Confirmed, but another message's return sat on the confirm, and its own may have been waiting.
        let confirmed =
            (0..sent.len()).filter(|place| unclear[*place] && !complaint.suspects.contains(place));
        suspects.of_channels.extend(confirmed.map(|place| sent[place].place));
        let forbidden = forbidden_exchange(&complaint.error);
        let alone = complaint.suspects.len() == 1;
        for suspect in complaint.suspects.iter().filter_map(|place| sent.get(*place)) {
            if forbidden == Some(suspect.exchange.as_str()) {
                // The broker takes none of them, whoever it meant.
                let judged = judge(&complaint.error, Stage::AloneAgain).with("exchange", &suspect.exchange);
                self.outcomes.set(suspect.place, Err(link.endpoint().locate(judged)));
            } else if !alone || !is_explained(&complaint.error) {
                suspects.add(complaint.closed, [suspect.place]);
            }
        }
        sent.iter().skip(complaint.sent).map(|sent| sent.place).collect()
    }

    /// Sends each message alone, on the connection that there is at its turn.
    async fn run_alone(
        &mut self,
        messages: Vec<Outgoing<'a>>,
        stage: Stage,
        at_once: usize,
        suspects: &mut Suspects,
    ) {
        if messages.is_empty() {
            return;
        }
        let alone = Alone {
            publisher: self.publisher,
            stage,
            deadline: self.deadline,
            forbidden: Mutex::default(),
            ended: AtomicUsize::new(0),
        };
        // A list: of a lazy iterator the compiler cannot tell that the whole may go to another thread.
        let attempts: Vec<_> = messages.into_iter().map(|message| alone.send(message)).collect();
        let results: Vec<_> = stream::iter(attempts).buffer_unordered(at_once).collect().await;
        for (place, outcome, closed) in results {
            if let Some(closed) = closed {
                suspects.add(closed, [place]);
            }
            self.outcomes.set(place, outcome);
        }
    }

    /// Declares the topology again if a message shows that a part of it may be gone, and sends again what is known not
    /// to have arrived because of that.
    async fn mend_topology(&mut self) {
        let declarations = &self.publisher.connections.dialer().declarations;
        let missed = self.outcomes.places(|outcome| {
            matches!(outcome, Err(error) if matches!(error.kind(), ErrorKind::Unroutable | ErrorKind::NotFound))
        });
        if declarations.is_empty() || missed.is_empty() || self.is_over() {
            return;
        }
        let mut missed = self.translate(missed);
        missed.retain(|message| declarations.concern(&message.exchange.name, &message.routing_key));
        let Some(link) = self.connect(&missed).await else { return };
        if declarations.repeat(&link, self.deadline).await {
            self.send(missed).await;
        }
    }
}

/// Runs one window on one channel of the connection.
async fn attempt(
    link: &Arc<Link>,
    window: Vec<Outgoing<'_>>,
    stage: Stage,
    deadline: Instant,
) -> (Vec<Outcome>, Option<Complaint>) {
    let failed = |error: &dyn Fn() -> Error| {
        (window.iter().map(|_| Err(link.endpoint().locate(error()))).collect(), None)
    };
    let lease = match timeout_at(deadline, link.lease()).await {
        Ok(Ok(lease)) => lease,
        Ok(Err(error)) => return failed(&|| judge(&error, Stage::Before)),
        Err(_) => {
            // Not even a new channel: the broker does not answer at all.
            link.cut();
            return failed(&|| {
                Error::new(
                    ErrorKind::Unavailable,
                    "the message was not sent: the broker did not open a channel in time",
                )
            });
        }
    };
    let answers = Box::pin(window::run(lease, window, stage, deadline)).await;
    let locate = |outcome: Outcome| outcome.map_err(|error| link.endpoint().locate(error));
    (answers.outcomes.into_iter().map(locate).collect(), answers.complaint)
}

/// A message on its way.
pub(crate) struct Sent {
    place: usize,
    id: MessageId,
    exchange: String,
}

impl Sent {
    fn of(message: &Outgoing<'_>) -> Self {
        Self { place: message.index, id: message.id, exchange: message.exchange.name.clone() }
    }
}

/// Messages that the broker may have refused, by what it closed.
#[derive(Default)]
struct Suspects {
    of_channels: Places,
    of_connections: Places,
}

impl Suspects {
    fn add(&mut self, closed: Closed, places: impl IntoIterator<Item = usize>) {
        match closed {
            Closed::Channel | Closed::Stray => self.of_channels.extend(places),
            Closed::Connection => self.of_connections.extend(places),
        }
    }
}

/// Messages of one call that are sent alone.
struct Alone<'a> {
    publisher: &'a AmqpPublisher,
    stage: Stage,
    deadline: Instant,
    /// Exchanges to which the user may not publish, with the broker's answer. One message is enough to learn it.
    forbidden: Mutex<HashMap<String, lapin::Error>>,
    /// Connections that ended one after the other.
    ended: AtomicUsize,
}

impl Alone<'_> {
    /// Sends one message. With the outcome comes what the broker closed, if it did not say why.
    async fn send(&self, message: Outgoing<'_>) -> (usize, Outcome, Option<Closed>) {
        let sent = Sent::of(&message);
        let (exchange, key) = (message.exchange.name.clone(), message.routing_key.clone());
        if Instant::now() >= self.deadline || self.ended.load(Ordering::Relaxed) >= CONNECTIONS_ENDED {
            let text = "the message was not sent: others took the time, or had the connection closed";
            let error = Error::new(ErrorKind::Unavailable, text);
            return (sent.place, Err(self.publisher.connections.dialer().endpoint.locate(error)), None);
        }
        let link = match self.publisher.link(self.deadline).await {
            Ok(link) => link,
            Err(failure) => {
                return (sent.place, Err(self.publisher.not_connected(failure.as_ref())), None);
            }
        };
        let known = self.lock().get(&exchange).cloned();
        if let Some(error) = known {
            let judged = judge(&error, self.stage).with("exchange", &exchange).with("routing_key", &key);
            return (sent.place, Err(link.endpoint().locate(judged)), None);
        }
        let (outcomes, complaint) = attempt(&link, vec![message], self.stage, self.deadline).await;
        let outcome = outcomes.into_iter().next().unwrap_or_else(|| Err(forgotten()));
        let Some(complaint) = complaint else {
            if outcome.is_ok() {
                self.publisher.quarantine.clear(sent.id);
                self.ended.store(0, Ordering::Relaxed);
            }
            return (sent.place, outcome, None);
        };
        if complaint.closed == Closed::Connection {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(exchange) = forbidden_exchange(&complaint.error) {
            self.lock().insert(exchange.to_owned(), complaint.error.clone());
        }
        self.publisher.learn(&link, &complaint, std::slice::from_ref(&sent));
        if matches!(&outcome, Err(error) if error.verdict() == Verdict::Permanent) {
            // It will not come back.
            self.publisher.quarantine.clear(sent.id);
        }
        let unexplained = (!is_explained(&complaint.error)).then_some(complaint.closed);
        (sent.place, outcome, unexplained)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, lapin::Error>> {
        self.forbidden.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AmqpPublisher {
    /// The connection, if there is one before the deadline. Without a failure it is late.
    async fn link(&self, deadline: Instant) -> Result<Arc<Link>, Option<DialFailure>> {
        match timeout_at(deadline, self.connections.get()).await {
            Ok(connected) => connected.map_err(Some),
            Err(_) => Err(None),
        }
    }

    fn not_connected(&self, failure: Option<&DialFailure>) -> Error {
        let dialer = self.connections.dialer();
        match failure {
            Some(failure) => failure.to_error(dialer),
            None => dialer.endpoint.locate(Error::new(
                ErrorKind::Unavailable,
                "the message was not sent: there was no connection in time",
            )),
        }
    }

    /// Takes care that what the broker complained about does not disturb others again.
    fn learn(&self, link: &Link, complaint: &Complaint, sent: &[Sent]) {
        debug!(error = %complaint.error, suspects = complaint.suspects.len(), "the broker closed a channel or the connection");
        if sent.len() > 1 {
            link.retire();
        }
        let suspects = complaint.suspects.iter().filter_map(|place| sent.get(*place));
        if let Some(exchange) = forbidden_exchange(&complaint.error) {
            self.quarantine.suspect_exchange(exchange);
        } else if is_not_found(&complaint.error) {
            // They are looked up again before the next message goes there.
            suspects.for_each(|sent| link.exchanges().forget(&sent.exchange));
        } else if complaint.closed != Closed::Stray {
            // Should there be no time to send them alone now, the next call does.
            suspects.for_each(|sent| self.quarantine.suspect(sent.id));
        }
    }
}

/// Sorts messages into windows: what must be alone, and the others together, but with no message id twice in a window,
/// since a returned message is recognised by it.
fn plan<'a>(
    ready: Vec<Outgoing<'a>>,
    alone: impl Fn(&Outgoing<'_>) -> bool,
) -> (Vec<Vec<Outgoing<'a>>>, Vec<Outgoing<'a>>) {
    let mut together: Vec<(HashSet<MessageId>, Vec<Outgoing<'a>>)> = Vec::new();
    let mut singles = Vec::new();
    for message in ready {
        if alone(&message) {
            singles.push(message);
            continue;
        }
        match together.iter_mut().find(|(ids, _)| !ids.contains(&message.id)) {
            Some((ids, window)) => {
                ids.insert(message.id);
                window.push(message);
            }
            None => together.push((HashSet::from([message.id]), vec![message])),
        }
    }
    (together.into_iter().map(|(_, window)| window).collect(), singles)
}

/// The outcomes of a batch, filled in as they become known.
struct Outcomes(Vec<Option<Outcome>>);

impl Outcomes {
    fn new(len: usize) -> Self {
        Self((0..len).map(|_| None).collect())
    }

    /// Notes an outcome. That a message could not be sent once more says nothing about the first time.
    fn set(&mut self, place: usize, outcome: Outcome) {
        let Some(slot) = self.0.get_mut(place) else { return };
        let unknown = matches!(slot, Some(Err(error)) if error.verdict() == Verdict::Unknown);
        let not_sent = |error: &Error| error.verdict() == Verdict::Retry && error.scope() == Scope::Endpoint;
        if !unknown || !outcome.as_ref().is_err_and(not_sent) {
            *slot = Some(outcome);
        }
    }

    /// Fails the messages of which nothing is known yet.
    fn fail_all(&mut self, messages: &[Outgoing<'_>], error: &dyn Fn() -> Error) {
        for message in messages {
            if let Some(slot @ None) = self.0.get_mut(message.index) {
                *slot = Some(Err(error()));
            }
        }
    }

    /// Keeps the messages that pass the check, and gives the others its error.
    fn keep<'a>(
        &mut self,
        messages: Vec<Outgoing<'a>>,
        check: impl Fn(&Outgoing<'_>) -> Result<()>,
    ) -> Vec<Outgoing<'a>> {
        messages
            .into_iter()
            .filter_map(|message| match check(&message) {
                Ok(()) => Some(message),
                Err(error) => {
                    self.set(message.index, Err(error));
                    None
                }
            })
            .collect()
    }

    /// The places of the outcomes that are known and pass the check.
    fn places(&self, check: impl Fn(&Outcome) -> bool) -> Places {
        let known = self.0.iter().enumerate();
        known.filter(|(_, outcome)| outcome.as_ref().is_some_and(&check)).map(|(place, _)| place).collect()
    }

    fn finish(self) -> Vec<Outcome> {
        self.0.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(forgotten()))).collect()
    }
}

fn forgotten() -> Error {
    Error::new(ErrorKind::Internal, "the publisher forgot a message; this is a bug in it")
        .with_verdict(Verdict::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Routing;

    #[test]
    fn an_unknown_outcome_is_replaced_only_by_a_better_one() {
        let unknown = || Err(Error::new(ErrorKind::Interrupted, ""));
        let kind = |next: Outcome| {
            let mut outcomes = Outcomes::new(1);
            outcomes.set(0, unknown());
            outcomes.set(0, next);
            outcomes.finish().remove(0).err().map(|error| error.kind())
        };
        for not_sent in [ErrorKind::Unavailable, ErrorKind::Throttled] {
            assert_eq!(kind(Err(Error::new(not_sent, ""))), Some(ErrorKind::Interrupted));
        }
        for known in [ErrorKind::Malformed, ErrorKind::NotFound, ErrorKind::Timeout] {
            assert_eq!(kind(Err(Error::new(known, ""))), Some(known));
        }
        assert_eq!(kind(Ok(())), None);
    }

    #[test]
    fn no_id_is_twice_in_a_window_and_suspects_are_alone() {
        let twin = MessageId::new();
        let messages: Vec<Message> = [Some(twin), None, Some(twin), None, Some(twin)]
            .into_iter()
            .map(|id| Message::bytes("t", "").id(id.unwrap_or_default()).build().unwrap())
            .collect();
        let suspect = messages[3].id();
        let ready = messages
            .iter()
            .enumerate()
            .map(|(index, message)| Outgoing::new(index, message, &Routing::default(), 1).unwrap())
            .collect();
        let places = |window: Vec<Outgoing<'_>>| window.iter().map(|message| message.index).collect();
        let (together, alone) = plan(ready, |message| message.id == suspect);
        let windows: Vec<Vec<usize>> = together.into_iter().map(places).chain([places(alone)]).collect();
        assert_eq!(windows, [vec![0, 1], vec![2], vec![4], vec![3]]);
    }
}
