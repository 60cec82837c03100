//! Amazon SQS.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use outbox_core::{Finding, Publisher, Result};
use outbox_sqs::aws_sdk_sqs::Client;
use outbox_sqs::{Queue, SqsPublisher};

use super::aws::{self, Account};
use super::{Broker, PublisherSettings, TIME};
use crate::config::Section;

#[derive(Clone, Debug)]
struct Sqs {
    account: Account,
    queue: Option<Queue>,
    topics: Vec<(String, Queue)>,
    queue_owner: Option<String>,
    requests_in_flight: Option<usize>,
    call_timeout: Option<Duration>,
    max_message_bytes: Option<usize>,
    max_request_bytes: Option<usize>,
    max_batch_messages: Option<usize>,
    max_batch_bytes: Option<usize>,
}

pub(super) fn read(section: &Section<'_>) -> Option<Arc<dyn PublisherSettings>> {
    let sqs = Sqs {
        account: Account::read(section),
        queue: section.any_text("queue").map(queue),
        topics: section.section("topics").named_texts(queue),
        queue_owner: section.any_text("queue_owner"),
        requests_in_flight: section.number("requests_in_flight", 1..=256),
        call_timeout: section.duration("call_timeout", TIME),
        max_message_bytes: section.bytes("max_message_bytes"),
        max_request_bytes: section.bytes("max_request_bytes"),
        max_batch_messages: section.number("max_batch_messages", 1..=i64::MAX),
        max_batch_bytes: section.bytes("max_batch_bytes"),
    };
    // The settings are looked into with any client, since that of the environment takes time to make.
    if let Err(error) = sqs.publisher(&aws::nobody()) {
        section.blame(&error);
        return None;
    }
    Some(Arc::new(sqs))
}

/// A queue is known by its name or by its URL.
fn queue(text: String) -> Queue {
    if text.contains("://") { Queue::url(text) } else { Queue::name(text) }
}

impl Sqs {
    fn publisher(&self, config: &SdkConfig) -> Result<SqsPublisher> {
        let Self { queue, queue_owner, requests_in_flight, call_timeout, .. } = self.clone();
        let Self {
            topics, max_message_bytes, max_request_bytes, max_batch_messages, max_batch_bytes, ..
        } = self.clone();
        let mut builder = SqsPublisher::builder(Client::new(config));
        set!(builder: queue queue_owner requests_in_flight call_timeout);
        set!(builder: max_message_bytes max_request_bytes max_batch_messages max_batch_bytes);
        topics.into_iter().fold(builder, |builder, (topic, queue)| builder.route(topic, queue)).build()
    }
}

#[async_trait]
impl PublisherSettings for Sqs {
    fn place(&self) -> String {
        self.account.place("sqs")
    }

    async fn open(&self) -> Result<Box<dyn Broker>> {
        Ok(Box::new(Open(Arc::new(self.publisher(&self.account.load().await)?))))
    }
}

struct Open(Arc<SqsPublisher>);

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
