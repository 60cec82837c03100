//! One window: messages sent on one channel, and the wait for the broker's answers to them.

use std::pin::pin;
use std::task::Poll;

use futures_util::poll;
use lapin::options::BasicPublishOptions;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::link::Lease;
use crate::outgoing::Outgoing;
use crate::verdict::{Answers, Sent, Unsent, Verdicts};

/// Sends the messages and waits for all answers, at most until the deadline.
///
/// # Cancel safety
/// Dropped, it leaves the lease to close the channel, and to cut the connection if a message is half written.
pub(crate) async fn run(mut lease: Lease, window: Vec<Outgoing<'_>>, deadline: Instant) -> Answers {
    let routes: Vec<(String, String)> =
        window.iter().map(|message| (message.exchange.name.clone(), message.routing_key.clone())).collect();
    let ids: Vec<String> = window.iter().map(|message| message.id.to_string()).collect();

    let (mut sent, unsent) = send(&mut lease, window, deadline).await;
    collect(&mut sent, deadline).await;
    cut_if_silent(&lease, &sent);
    let answers = Verdicts { ids: &ids, routes: &routes }.give(sent, unsent);
    if answers.clean {
        lease.give_back();
    }
    answers
}

/// Gives the connection up if the broker owes answers and has no excuse.
///
/// To close the channel would not do: what the broker has not read yet must not be published later, and a connection
/// that does not answer must not be used again. Only where the broker has said that it is blocked, and all is written,
/// the connection is kept, for on it we learn when the alarm is over; a new one would learn of the alarm only by
/// another message whose outcome is unknown.
fn cut_if_silent(lease: &Lease, sent: &[Sent]) {
    let stuck = sent.iter().any(|sent| matches!(sent, Sent::Stuck));
    let late = sent.iter().filter(|sent| matches!(sent, Sent::Stuck | Sent::Late)).count();
    if stuck || (late > 0 && lease.link().blocked().is_none()) {
        warn!(messages = late, "no answer in time, cutting the connection");
        lease.link().cut();
    }
}

/// Hands the messages over one by one, until one cannot be.
async fn send(
    lease: &mut Lease,
    window: Vec<Outgoing<'_>>,
    deadline: Instant,
) -> (Vec<Sent>, Option<Unsent>) {
    let mut sent = Vec::with_capacity(window.len());
    let Some(channel) = lease.channel().cloned() else { return (sent, Some(Unsent::Late)) };
    for message in window {
        if let Some(reason) = lease.link().blocked() {
            return (sent, Some(Unsent::Blocked(reason)));
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut publish = pin!(channel.basic_publish(
            message.exchange.name.as_str().into(),
            message.routing_key.as_str().into(),
            options,
            message.payload,
            message.properties,
        ));
        // The first look either queues the whole message or finds that nothing can be sent any more.
        let written = match poll!(&mut publish) {
            Poll::Ready(Err(error)) => return (sent, Some(Unsent::Failed(error))),
            Poll::Ready(Ok(confirm)) => Ok(Ok(confirm)),
            Poll::Pending => {
                lease.set_writing(true);
                let written = timeout_at(deadline, publish).await;
                lease.set_writing(false);
                written
            }
        };
        match written {
            Ok(Ok(confirm)) => sent.push(Sent::Waiting(confirm)),
            Ok(Err(error)) => {
                sent.push(Sent::Lost(error.clone()));
                return (sent, Some(Unsent::Failed(error)));
            }
            Err(_) => {
                sent.push(Sent::Stuck);
                let unsent = lease.link().blocked().map_or(Unsent::Late, Unsent::Blocked);
                return (sent, Some(unsent));
            }
        }
    }
    (sent, None)
}

/// Waits for the confirms. In turn is as good as any order: every one of them is waited for.
async fn collect(sent: &mut [Sent], deadline: Instant) {
    for sent in sent {
        if let Sent::Waiting(confirm) = sent {
            *sent = match timeout_at(deadline, confirm).await {
                Ok(Ok(confirmation)) => confirmation.into(),
                Ok(Err(error)) => Sent::Lost(error),
                Err(_) => Sent::Late,
            };
        }
    }
}
