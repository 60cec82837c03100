//! A message with anything in its options, and in what becomes of it at a broker, is a message that the broker's limits
//! allow, or refused with a reason. The input is a byte that chooses the limit, and then options, topic, key, content type,
//! headers, the destination of the settings and the payload, each ended by a byte that is in no UTF-8.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox_core::{Error, ErrorKind, Message, Options, PublisherOptions, Verdict};
use outbox_kinesis::{Format, Stream};
use outbox_pubsub::Topic;
use outbox_sqs::Queue;

const END: u8 = 0xfe;

fuzz_target!(|data: &[u8]| {
    let Some((limit, rest)) = data.split_first() else { return };
    // From nothing to more than fits.
    let max_bytes = usize::from(*limit) * 256;
    let mut parts = rest.splitn(7, |byte| *byte == END);
    let mut next = || parts.next().unwrap_or_default();
    let options = serde_json::from_slice(next()).map(Options::from_json).unwrap_or_default();
    let [topic, key, content_type] = [next(), next(), next()].map(String::from_utf8_lossy);
    let headers: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(next()).unwrap_or_default();
    let destination = String::from_utf8_lossy(next()).into_owned();
    let mut builder = Message::bytes(topic, next().to_vec()).headers(headers).raw_options(options);
    if !key.is_empty() {
        builder = builder.key(key);
    }
    if !content_type.is_empty() {
        builder = builder.content_type(content_type);
    }
    let Ok(message) = builder.build() else { return };

    let set = Some(&destination).filter(|name| !name.is_empty());
    // As the program distinguishes them.
    let stream =
        set.map(|name| if name.starts_with("arn:") { Stream::arn(name) } else { Stream::name(name) });
    let queue = set.map(|name| if name.contains("://") { Queue::url(name) } else { Queue::name(name) });
    let topic =
        set.map(|name| if name.starts_with("projects/") { Topic::full(name) } else { Topic::id(name) });
    let amqp = outbox_amqp::fuzzing::ready(&message, set.map(String::as_str), max_bytes);
    judge::<outbox_amqp::AmqpOptions>(&message, amqp);
    judge::<outbox_sqs::SqsOptions>(&message, outbox_sqs::fuzzing::ready(&message, queue, max_bytes));
    let nats = outbox_nats::fuzzing::ready(&message, set.map(String::as_str), max_bytes);
    judge::<outbox_nats::NatsOptions>(&message, nats);
    for format in [Format::Envelope, Format::Raw] {
        let ready = outbox_kinesis::fuzzing::ready(&message, stream.clone(), format, max_bytes);
        judge::<outbox_kinesis::KinesisOptions>(&message, ready);
    }
    for ordering_keys in [true, false] {
        let ready = outbox_pubsub::fuzzing::ready(&message, topic.clone(), ordering_keys, max_bytes);
        judge::<outbox_pubsub::PubSubOptions>(&message, ready);
    }
});

/// Accepted options do not change when they are stored again. A refusal has a reason, and is permanent unless
/// other settings may help.
fn judge<O: PublisherOptions>(message: &Message, ready: Result<(), Error>) {
    match ready {
        Ok(()) => {
            let stored = message.options().as_json().get(O::PUBLISHER);
            assert!(stored.is_none_or(serde_json::Value::is_object));
            if let Some(options) = message.options().get::<O>().unwrap() {
                let mut again = Options::new();
                again.set(&options).unwrap();
                let again = again.get::<O>().unwrap().unwrap();
                assert!(serde_json::to_value(again).unwrap() == serde_json::to_value(options).unwrap());
            }
        }
        Err(error) => {
            let expected = match error.kind() {
                ErrorKind::NotFound => Verdict::Retry,
                ErrorKind::Malformed | ErrorKind::TooLarge => Verdict::Permanent,
                kind => panic!("{kind}: {}", error.report()),
            };
            assert!(error.verdict() == expected, "{}", error.report());
            assert!(error.report().len() > error.kind().as_str().len() + ": ".len());
        }
    }
}
