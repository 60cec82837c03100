//! Looking for what the settings name, before there is a message.

use aws_sdk_sqs::types::QueueAttributeName;
use outbox_aws::{Transmission, sdk_error};
use outbox_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout_at};

use crate::publisher::SqsPublisher;
use crate::queue::Queue;
use crate::queues::about_a_queue;

/// Looks at each queue that the settings name; where they name none, whether the service answers us.
pub(crate) async fn run(publisher: &SqsPublisher) -> Result<()> {
    let deadline = Instant::now() + publisher.call_timeout;
    let mut queues = publisher.routing.destinations().peekable();
    if queues.peek().is_none() {
        return knows_us(publisher, deadline).await;
    }
    for queue in queues {
        look(publisher, queue, deadline).await.map_err(|error| error.with("queue", queue.as_str()))?;
    }
    Ok(())
}

async fn look(publisher: &SqsPublisher, queue: &Queue, deadline: Instant) -> Result<()> {
    let SqsPublisher { client, overrides, queues, .. } = publisher;
    let url = queues.url(client, overrides, queue, deadline).await.map_err(|failure| failure.to_error())?;
    let transmission = Transmission::new();
    let looking = client
        .get_queue_attributes()
        .queue_url(url)
        // Of a standard queue the service does not like to be asked for the attributes of a FIFO queue.
        .attribute_names(QueueAttributeName::All)
        .customize()
        .config_override(overrides.clone())
        .interceptor(transmission.clone())
        .send();
    let found = match timeout_at(deadline, looking).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(about_a_queue(sdk_error(&error, &transmission))),
        Err(_) => return Err(late()),
    };
    let attributes = found.attributes.unwrap_or_default();
    is_as_named(queue, attributes.get(&QueueAttributeName::FifoQueue).is_some_and(|value| value == "true"))
}

/// The publisher goes by the name.
fn is_as_named(queue: &Queue, fifo: bool) -> Result<()> {
    match (fifo, queue.is_fifo()) {
        (true, false) => Err(Error::config("it is a FIFO queue, and its name does not end in .fifo")),
        (false, true) => Err(Error::config("its name ends in .fifo, and it is no FIFO queue")),
        _ => Ok(()),
    }
}

/// Whether the service answers us.
async fn knows_us(publisher: &SqsPublisher, deadline: Instant) -> Result<()> {
    let transmission = Transmission::new();
    let asking = publisher
        .client
        .list_queues()
        .max_results(1)
        .customize()
        .config_override(publisher.overrides.clone())
        .interceptor(transmission.clone())
        .send();
    let answer = timeout_at(deadline, asking).await.map_err(|_| late())?;
    outbox_aws::knows_us(answer, &transmission)
}

fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the service did not answer in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_what_its_name_says() {
        for (name, fifo, problem) in [
            ("orders", false, None),
            ("orders.fifo", true, None),
            ("orders", true, Some("does not end in .fifo")),
            ("orders.fifo", false, Some("it is no FIFO queue")),
        ] {
            let judged =
                is_as_named(&Queue::name(name), fifo).map_err(|error| (error.kind(), error.to_string()));
            match problem {
                None => assert_eq!(judged, Ok(())),
                Some(problem) => {
                    let (kind, text) = judged.unwrap_err();
                    assert_eq!(kind, ErrorKind::Config);
                    assert!(text.contains(problem), "{text}");
                }
            }
        }
    }
}
