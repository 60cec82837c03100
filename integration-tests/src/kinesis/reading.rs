//! A consumer.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{ShardIteratorType, StreamStatus};

/// A record as a consumer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The shard it is in.
    pub shard: String,
    /// Its partition key.
    pub partition_key: String,
    /// Its data.
    pub data: Vec<u8>,
}

pub(super) async fn wait_until_active(client: &Client, stream: &str) {
    crate::eventually("the stream to be active", Duration::from_secs(30), async || {
        let described = client.describe_stream_summary().stream_name(stream).send().await.ok()?;
        let status = described.stream_description_summary()?.stream_status().clone();
        (status == StreamStatus::Active).then_some(())
    })
    .await;
}

pub(super) async fn records(client: &Client, stream: &str) -> Vec<Record> {
    let shards = client.list_shards().stream_name(stream).send().await.expect("the shards are listed");
    let mut records = Vec::new();
    for shard in shards.shards() {
        let shard = shard.shard_id();
        let iterator = client
            .get_shard_iterator()
            .stream_name(stream)
            .shard_id(shard)
            .shard_iterator_type(ShardIteratorType::TrimHorizon)
            .send()
            .await
            .expect("the shard can be read");
        let mut next = iterator.shard_iterator;
        while let Some(iterator) = next {
            let batch =
                client.get_records().shard_iterator(iterator).send().await.expect("the shard is read");
            let came = batch.records();
            records.extend(came.iter().map(|record| Record {
                shard: shard.to_owned(),
                partition_key: record.partition_key().unwrap_or_default().to_owned(),
                data: record.data().as_ref().to_vec(),
            }));
            let at_end = came.is_empty() && batch.millis_behind_latest().unwrap_or(0) == 0;
            next = batch.next_shard_iterator.filter(|_| !at_end);
        }
    }
    records
}
