//! Looking for what the settings name, before there is a message.

use aws_sdk_kinesis::types::{StreamDescriptionSummary, StreamStatus};
use outbox_aws::{Meaning, Transmission, sdk_error};
use outbox_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout_at};

use crate::publisher::KinesisPublisher;
use crate::stream::Stream;

/// Looks at each stream that the settings name; where they name none, whether the service answers us.
pub(crate) async fn run(publisher: &KinesisPublisher) -> Result<()> {
    let deadline = Instant::now() + publisher.call_timeout;
    let mut streams = publisher.routing.destinations().peekable();
    if streams.peek().is_none() {
        return knows_us(publisher, deadline).await;
    }
    for stream in streams {
        let summary = look(publisher, stream, deadline).await?;
        takes_records(summary.as_ref()).map_err(|error| error.with("stream", stream.as_str()))?;
    }
    Ok(())
}

/// What the service says of a stream.
pub(crate) async fn look(
    publisher: &KinesisPublisher,
    stream: &Stream,
    deadline: Instant,
) -> Result<Option<StreamDescriptionSummary>> {
    let (name, arn) = stream.name_and_arn();
    let transmission = Transmission::new();
    let looking = publisher
        .client
        .describe_stream_summary()
        .set_stream_name(name)
        .set_stream_arn(arn)
        .customize()
        .config_override(publisher.overrides.clone())
        .interceptor(transmission.clone())
        .send();
    let error = match timeout_at(deadline, looking).await {
        Ok(Ok(found)) => return Ok(found.stream_description_summary),
        Ok(Err(error)) => sdk_error(&error, &transmission),
        Err(_) => late(),
    };
    Err(error.with("stream", stream.as_str()))
}

/// A stream takes records while its shards are changed, and not while it is made or deleted.
fn takes_records(summary: Option<&StreamDescriptionSummary>) -> Result<()> {
    match summary.map(StreamDescriptionSummary::stream_status) {
        Some(StreamStatus::Active | StreamStatus::Updating) => Ok(()),
        Some(status) => Err(Error::new(
            ErrorKind::Rejected,
            "the stream takes no records in this state; wait until it is ACTIVE, or make it anew",
        )
        .with("status", status.as_str())),
        None => Err(Error::new(ErrorKind::Internal, "the service knows the stream, and says nothing of it")),
    }
}

/// Whether the service answers us.
async fn knows_us(publisher: &KinesisPublisher, deadline: Instant) -> Result<()> {
    let transmission = Transmission::new();
    let asking = publisher
        .client
        .list_streams()
        .limit(1)
        .customize()
        .config_override(publisher.overrides.clone())
        .interceptor(transmission.clone())
        .send();
    let answer = timeout_at(deadline, asking).await.map_err(|_| late())?;
    outbox_aws::knows_us(answer, &transmission)
}

fn late() -> Error {
    Meaning::Unavailable.error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_takes_records_while_its_shards_are_changed_and_not_while_it_comes_or_goes() {
        let refusal = |status| {
            let summary = StreamDescriptionSummary::builder()
                .stream_name("orders")
                .stream_arn("arn:aws:kinesis:eu-central-1:1:stream/orders")
                .stream_status(status)
                .retention_period_hours(24)
                .stream_creation_timestamp(aws_sdk_kinesis::primitives::DateTime::from_secs(0))
                .set_enhanced_monitoring(Some(Vec::new()))
                .open_shard_count(1)
                .build()
                .unwrap();
            takes_records(Some(&summary)).map_err(|error| (error.kind(), error.to_string())).err()
        };
        assert_eq!(refusal(StreamStatus::Active), None);
        assert_eq!(refusal(StreamStatus::Updating), None);
        for (status, name) in [(StreamStatus::Creating, "CREATING"), (StreamStatus::Deleting, "DELETING")] {
            let (kind, text) = refusal(status).unwrap();
            assert_eq!(kind, ErrorKind::Rejected);
            assert!(text.contains(name), "{text}");
        }
        assert_eq!(takes_records(None).unwrap_err().kind(), ErrorKind::Internal);
    }
}
