//! An emulator of Amazon SQS: a standard queue, full batches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use async_trait::async_trait;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use integration_tests::sqs::Queue as TestQueue;
use integration_tests::{Environment, Server, Sqs};
use outbox_core::Publisher;
use outbox_sqs::{Queue, SqsPublisher};

use super::{Broker, Place, shared_out};
use crate::load::{Load, number};

/// The relay's default number of concurrent requests: four calls of eight requests.
const REQUESTS: usize = 32;
/// Maximum number of messages in a request.
const BATCH: usize = 10;
/// A single response without messages proves little: this many in a row show that there are none.
const EMPTY_ANSWERS: u32 = 2;

/// A server of this program.
#[derive(Debug)]
pub struct OnSqs {
    server: Arc<Sqs>,
}

impl OnSqs {
    /// Starts a server.
    ///
    /// # Errors
    /// If no server can be started.
    pub async fn start(environment: Environment) -> Result<Self> {
        let server = Sqs::try_start(environment).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { server: Arc::new(server) })
    }
}

#[async_trait]
impl Broker for OnSqs {
    fn name(&self) -> &'static str {
        "sqs"
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(InQueue { queue: self.server.queue().await, server: self.server.clone() }))
    }
}

struct InQueue {
    queue: TestQueue,
    server: Arc<Sqs>,
}

#[async_trait]
impl Place for InQueue {
    fn is_ordered(&self) -> bool {
        false
    }

    fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let builder = SqsPublisher::builder(self.server.client()).queue(Queue::url(self.queue.url()));
        Ok(Arc::new(builder.build()?))
    }

    async fn publish_alone(&self, load: &Load) -> Result<Duration> {
        let client = self.server.client();
        let shares = shared_out(load, REQUESTS);
        let started = Instant::now();
        let mut workers = Vec::new();
        for share in shares {
            let (client, url) = (client.clone(), self.queue.url().to_owned());
            workers.push(tokio::spawn(async move {
                for chunk in share.chunks(BATCH) {
                    let entry = |(place, payload): (usize, &Vec<u8>)| {
                        let body = String::from_utf8_lossy(payload).into_owned();
                        SendMessageBatchRequestEntry::builder()
                            .id(place.to_string())
                            .message_body(body)
                            .build()
                    };
                    let entries = chunk.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
                    let answer =
                        client.send_message_batch().queue_url(&url).set_entries(Some(entries)).send().await?;
                    ensure!(answer.failed().is_empty(), "a message was not taken: {:?}", answer.failed());
                }
                anyhow::Ok(())
            }));
        }
        for worker in workers {
            worker.await??;
        }
        Ok(started.elapsed())
    }

    async fn arrivals(&self, expected: u64) -> Result<Vec<u64>> {
        let client = self.server.client();
        let (mut arrivals, mut empty) = (Vec::new(), 0);
        // After the last expected message only repeats can follow.
        while empty < EMPTY_ANSWERS {
            let messages = self.queue.receive(&client).await?;
            empty = if messages.is_empty() { empty + 1 } else { 0 };
            for message in messages {
                arrivals.push(number(message.body().unwrap_or_default().as_bytes())?);
            }
            if arrivals.len() as u64 > expected {
                bail!("no figure: more than {expected} messages arrived");
            }
        }
        Ok(arrivals)
    }
}
