//! Amazon Kinesis Data Streams.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use outbox_core::{Finding, Publisher, Result};
use outbox_kinesis::aws_sdk_kinesis::Client;
use outbox_kinesis::{Format, KinesisPublisher, Stream};

use super::aws::{self, Account};
use super::{Broker, PublisherSettings, TIME};
use crate::config::Section;

#[derive(Clone, Debug)]
struct Kinesis {
    account: Account,
    stream: Option<Stream>,
    topics: Vec<(String, Stream)>,
    format: Option<Format>,
    requests_in_flight: Option<usize>,
    call_timeout: Option<Duration>,
    throttle_patience: Option<Duration>,
    max_record_bytes: Option<usize>,
    max_request_bytes: Option<usize>,
    max_batch_messages: Option<usize>,
    max_batch_bytes: Option<usize>,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    let kinesis = Kinesis {
        account: Account::read(section),
        stream: section.any_text("stream").map(stream),
        topics: section.section("topics").named_texts(stream),
        format: section.choice("format", &[("envelope", Format::Envelope), ("raw", Format::Raw)]),
        requests_in_flight: section.number("requests_in_flight", 1..=256),
        call_timeout: section.duration("call_timeout", TIME),
        throttle_patience: section.duration("throttle_patience", Duration::ZERO..=*TIME.end()),
        max_record_bytes: section.bytes("max_record_bytes"),
        max_request_bytes: section.bytes("max_request_bytes"),
        max_batch_messages: section.number("max_batch_messages", 1..=i64::MAX),
        max_batch_bytes: section.bytes("max_batch_bytes"),
    };
    // The settings are looked into with any client, since that of the environment takes time to make.
    if let Err(error) = kinesis.publisher(&aws::nobody()) {
        section.blame(&error);
        return None;
    }
    Some(Arc::new(kinesis))
}

/// A stream is known by its name or by its ARN.
fn stream(text: String) -> Stream {
    if text.starts_with("arn:") { Stream::arn(text) } else { Stream::name(text) }
}

impl Kinesis {
    fn publisher(&self, config: &SdkConfig) -> Result<KinesisPublisher> {
        let Self { stream, format, requests_in_flight, call_timeout, throttle_patience, .. } = self.clone();
        let Self { topics, max_record_bytes, max_request_bytes, max_batch_messages, max_batch_bytes, .. } =
            self.clone();
        let mut builder = KinesisPublisher::builder(Client::new(config));
        set!(builder: stream format requests_in_flight call_timeout throttle_patience);
        set!(builder: max_record_bytes max_request_bytes max_batch_messages max_batch_bytes);
        topics.into_iter().fold(builder, |builder, (topic, stream)| builder.route(topic, stream)).build()
    }
}

#[async_trait]
impl PublisherSettings for Kinesis {
    fn place(&self) -> String {
        self.account.place("kinesis")
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        Ok(Box::new(Open(Arc::new(self.publisher(&self.account.load().await)?))))
    }
}

struct Open(Arc<KinesisPublisher>);

#[async_trait]
impl Broker for Open {
    fn publisher(&self) -> Arc<dyn Publisher> {
        self.0.clone()
    }

    async fn check(&self) -> Result<Vec<Finding>> {
        self.0.check().await?;
        Ok(Vec::new())
    }
}
