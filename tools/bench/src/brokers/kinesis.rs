//! An emulator of Amazon Kinesis, in threads of this process: full batches to a stream of four shards,
//! without quotas.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use integration_tests::Kinesis;
use outbox_core::Publisher;
use outbox_kinesis::{KinesisPublisher, Stream};
use serde_json::Value;

use super::{Broker, Place, shared_out};
use crate::load::{Load, number};

const SHARDS: i32 = 4;
/// The relay's default number of concurrent requests, and of records in each.
const REQUESTS: usize = 4;
const BATCH: usize = 500;

/// A server of this program.
#[derive(Debug)]
pub struct OnKinesis {
    server: Arc<Kinesis>,
}

impl OnKinesis {
    /// Starts a server.
    pub async fn start() -> Self {
        Self { server: Arc::new(Kinesis::start().await) }
    }
}

#[async_trait]
impl Broker for OnKinesis {
    fn name(&self) -> &'static str {
        "kinesis"
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(InStream { stream: self.server.stream(SHARDS).await, server: self.server.clone() }))
    }
}

struct InStream {
    stream: String,
    server: Arc<Kinesis>,
}

#[async_trait]
impl Place for InStream {
    fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let builder = KinesisPublisher::builder(self.server.client()).stream(Stream::name(&self.stream));
        Ok(Arc::new(builder.build()?))
    }

    async fn publish_alone(&self, load: &Load) -> Result<Duration> {
        let client = self.server.client();
        let shares = shared_out(load, REQUESTS);
        let started = Instant::now();
        let mut workers = Vec::new();
        for share in shares {
            let (client, stream, load) = (client.clone(), self.stream.clone(), load.clone());
            workers.push(tokio::spawn(async move {
                for chunk in share.chunks(BATCH) {
                    let entry = |payload: &Vec<u8>| {
                        let key = load.key(number(payload)?);
                        let entry = PutRecordsRequestEntry::builder().partition_key(key);
                        anyhow::Ok(entry.data(Blob::new(payload.clone())).build()?)
                    };
                    let records = chunk.iter().map(entry).collect::<Result<Vec<_>>>()?;
                    let answer =
                        client.put_records().stream_name(&stream).set_records(Some(records)).send().await?;
                    ensure!(answer.failed_record_count() == Some(0), "a record was not taken");
                }
                anyhow::Ok(())
            }));
        }
        for worker in workers {
            worker.await??;
        }
        Ok(started.elapsed())
    }

    async fn arrivals(&self, _: u64) -> Result<Vec<u64>> {
        self.server.records(&self.stream).await.iter().map(|record| read(&record.data)).collect()
    }
}

/// The relay's record is an envelope, the driver's own record is the payload alone.
fn read(data: &[u8]) -> Result<u64> {
    if data.first() != Some(&b'{') {
        return number(data);
    }
    let envelope: Value = serde_json::from_slice(data)?;
    number(envelope["payload"].as_str().context("an envelope without a payload")?.as_bytes())
}
