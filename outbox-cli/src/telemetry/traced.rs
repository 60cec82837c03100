//! Spans around the calls of a publisher.
//!
//! A message that was enqueued within a trace carries it in its headers, and keeps it: the consumer's spans and ours
//! have the same parent. A span of the whole call links to all of its messages. The reasons are in
//! `docs/adr/0013-the-trace-of-a-message.md`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span};
use outbox_core::message::Headers;
use outbox_core::{Message, Outcome, Publisher, PublisherCapabilities};

/// A publisher whose calls are told to a tracer.
pub(super) struct Traced {
    publisher: Arc<dyn Publisher>,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    /// What every span says: the kind of broker, and the route.
    common: Vec<KeyValue>,
}

impl Traced {
    pub(super) fn new(publisher: Arc<dyn Publisher>, tracer: SdkTracer, route: &str) -> Self {
        let common = vec![
            KeyValue::new("messaging.system", system(publisher.name())),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("outbox.route", route.to_owned()),
        ];
        Self { publisher, tracer, propagator: TraceContextPropagator::new(), common }
    }

    /// Opens the spans of a call: one of its own, and one of each message.
    fn begin(&self, batch: &[Message]) -> Call {
        let parents: Vec<Context> =
            batch.iter().map(|message| self.propagator.extract(&Carrier(message.headers()))).collect();
        let links = parents
            .iter()
            .map(|parent| parent.span().span_context().clone())
            .filter(SpanContext::is_valid)
            .map(Link::with_context)
            .collect();
        let mut attributes = self.common.clone();
        attributes.push(KeyValue::new("messaging.operation.name", "publish"));
        attributes.push(KeyValue::new("messaging.batch.message_count", count(batch.len())));
        let mut name = "publish".to_owned();
        if let Some(topic) = only_topic(batch) {
            name.push(' ');
            name.push_str(topic);
            attributes.push(KeyValue::new("messaging.destination.name", topic.to_owned()));
        }
        let whole = self.tracer.span_builder(name).with_kind(SpanKind::Client).with_attributes(attributes);
        let whole = self.tracer.build_with_context(whole.with_links(links), &Context::new());
        let now = SystemTime::now();
        let messages = batch
            .iter()
            .zip(&parents)
            .map(|(message, parent)| {
                let mut attributes = self.common.clone();
                attributes.extend([
                    KeyValue::new("messaging.operation.name", "send"),
                    KeyValue::new("messaging.destination.name", message.topic().to_owned()),
                    KeyValue::new("messaging.message.id", message.id().to_string()),
                    KeyValue::new("messaging.message.body.size", count(message.payload().len())),
                ]);
                if let Some(age) = age(message, now) {
                    attributes.push(KeyValue::new("outbox.message.age_seconds", age.as_secs_f64()));
                }
                let span = self
                    .tracer
                    .span_builder(format!("send {}", message.topic()))
                    .with_kind(SpanKind::Producer)
                    .with_start_time(now)
                    .with_attributes(attributes)
                    .with_links(vec![Link::with_context(whole.span_context().clone())]);
                self.tracer.build_with_context(span, parent)
            })
            .collect();
        Call { whole, messages, answered: false }
    }
}

#[async_trait]
impl Publisher for Traced {
    fn name(&self) -> &'static str {
        self.publisher.name()
    }

    fn capabilities(&self) -> PublisherCapabilities {
        self.publisher.capabilities()
    }

    async fn publish(&self, batch: &[Message]) -> Vec<Outcome> {
        let call = self.begin(batch);
        let outcomes = self.publisher.publish(batch).await;
        call.end(&outcomes);
        outcomes
    }

    async fn close(&self) {
        self.publisher.close().await;
    }
}

/// The spans of a call on its way.
struct Call {
    whole: Span,
    messages: Vec<Span>,
    answered: bool,
}

impl Call {
    fn end(mut self, outcomes: &[Outcome]) {
        self.answered = true;
        let mut failed = 0;
        for (span, outcome) in self.messages.iter_mut().zip(outcomes) {
            if let Err(error) = outcome {
                failed += 1;
                span.set_attribute(KeyValue::new("error.type", error.kind().to_string()));
                span.set_status(Status::error(error.report()));
            }
            span.end();
        }
        if failed > 0 {
            self.whole.set_attribute(KeyValue::new("outbox.failed_count", count(failed)));
            self.whole.set_status(Status::error(format!("{failed} of {} messages failed", outcomes.len())));
        }
        self.whole.end();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            // The relay gave it up. Spans end when they are dropped.
            for span in self.messages.iter_mut().chain([&mut self.whole]) {
                span.set_attribute(KeyValue::new("error.type", "timeout"));
                span.set_status(Status::error("the broker did not answer in time; the outcome is unknown"));
            }
        }
    }
}

/// A message's headers, to read a trace from.
struct Carrier<'a>(&'a Headers);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// The trace of a message as headers once more, for tests; `None` if the message carries none that is valid.
#[cfg(any(fuzzing, test))]
pub(crate) fn written_again(headers: &Headers) -> Option<Headers> {
    let propagator = TraceContextPropagator::new();
    let context = propagator.extract(&Carrier(headers));
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut again = std::collections::HashMap::new();
    propagator.inject_context(&context, &mut again);
    Some(again.into_iter().collect())
}

/// The name that the conventions for messaging have for a broker.
fn system(publisher: &'static str) -> &'static str {
    match publisher {
        "amqp" => "rabbitmq",
        "kinesis" => "aws_kinesis",
        "pubsub" => "gcp_pubsub",
        "sqs" => "aws_sqs",
        other => other,
    }
}

fn only_topic(batch: &[Message]) -> Option<&str> {
    let (first, others) = batch.split_first()?;
    others.iter().all(|other| other.topic() == first.topic()).then_some(first.topic())
}

/// How long ago a message was made, if its id tells.
fn age(message: &Message, now: SystemTime) -> Option<Duration> {
    let (seconds, nanos) = message.id().as_uuid().get_timestamp()?.to_unix();
    now.duration_since(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)).ok()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use outbox_core::{TRACEPARENT, TRACESTATE};

    use super::*;

    #[test]
    fn what_is_read_of_a_trace_can_be_written_and_read_again() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let headers = |parent: &str, state: &str| {
            Headers::from([
                (TRACEPARENT.to_owned(), parent.to_owned()),
                (TRACESTATE.to_owned(), state.to_owned()),
            ])
        };
        let given = headers(parent, "vendor=x,other=y");
        assert_eq!(written_again(&given), Some(given));
        // Who cannot read the vendors' data still goes on with the trace.
        assert_eq!(written_again(&headers(parent, "\u{1}")), Some(headers(parent, "")));
        for wrong in ["", "00", "00-0-0-01", &parent.replace("4bf9", "4Bf9"), &format!("{parent}-x")] {
            assert_eq!(written_again(&headers(wrong, "")), None, "{wrong}");
        }
    }
}
