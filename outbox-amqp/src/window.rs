//! One window: messages sent on one channel, and the wait for the broker's answers to them.

use std::pin::pin;
use std::task::Poll;

use futures_util::{FutureExt, poll};
use lapin::options::BasicPublishOptions;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::error::Stage;
use crate::link::Lease;
use crate::outgoing::Outgoing;
use crate::verdict::{Answers, Sent, Unsent, Verdicts};

/// Sends the messages and waits for all answers, at most until the deadline. `alone` is what to judge by if the broker
/// can have refused one of them only.
///
/// # Cancel safety
/// Dropped, it leaves the lease to close the channel, and to cut the connection if a message is half written.
pub(crate) async fn run(
    mut lease: Lease,
    window: Vec<Outgoing<'_>>,
    alone: Stage,
    deadline: Instant,
) -> Answers {
    let routes: Vec<(String, String)> =
        window.iter().map(|message| (message.exchange.name.clone(), message.routing_key.clone())).collect();
    let ids: Vec<String> = window.iter().map(|message| message.id.to_string()).collect();

    let (mut sent, unsent) = send(&mut lease, window, deadline).await;
    if sent.iter().any(|sent| matches!(sent, Sent::Stuck)) {
        // The rest of it must never follow, and a new connection is the only way to be sure.
        warn!("a message could not be written in time, cutting the connection");
        lease.link().cut();
    }
    lease.link().wait(deadline, collect(&mut sent)).await;
    give_up_on_late(&mut sent);
    let answers = Verdicts { ids: &ids, routes: &routes, alone }.give(sent, unsent);
    if answers.clean {
        lease.give_back();
    }
    // Otherwise the channel is closed: what is still to come on it must reach no other window.
    answers
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
        let options = BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
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
async fn collect(sent: &mut [Sent]) {
    for sent in sent {
        if let Sent::Waiting(confirm) = sent {
            *sent = match confirm.await {
                Ok(confirmation) => confirmation.into(),
                Err(error) => Sent::Lost(error),
            };
        }
    }
}

/// Notes what is not confirmed by now. Behind the first late confirm there may be others that have come.
fn give_up_on_late(sent: &mut [Sent]) {
    let mut late = 0;
    for sent in sent {
        if let Sent::Waiting(confirm) = sent {
            *sent = match confirm.now_or_never() {
                Some(Ok(confirmation)) => confirmation.into(),
                Some(Err(error)) => Sent::Lost(error),
                None => {
                    late += 1;
                    Sent::Late
                }
            };
        }
    }
    if late > 0 {
        debug!(messages = late, "no confirm in time");
    }
}
