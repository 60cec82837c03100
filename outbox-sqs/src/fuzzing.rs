//! What the fuzz targets reach of the private parts. It is no part of the interface.

use outbox_core::publishing::Routing;
use outbox_core::{Message, Result};

use crate::outgoing::Outgoing;
use crate::queue::Queue;
use crate::text::{is_attribute_name, is_text, is_token};

/// Makes a message ready, and asks that SQS takes what comes of it. `queue` is that of the settings.
///
/// # Errors
/// Why the message is refused.
pub fn ready(message: &Message, queue: Option<Queue>, max_bytes: usize) -> Result<()> {
    let routing = Routing { default: queue, ..Routing::default() };
    let outgoing = Outgoing::new(0, message, &routing, max_bytes)?;
    let entry = outgoing.at(7);
    assert!(entry.id() == "7" && is_text(entry.message_body()));
    let mut size = entry.message_body().len();
    let attributes = entry.message_attributes();
    assert!(attributes.is_some_and(|attributes| (1..=10).contains(&attributes.len())));
    for (name, value) in attributes.into_iter().flatten() {
        let text = value.string_value().unwrap_or_default();
        assert!(is_attribute_name(name) && is_text(text) && value.data_type() == "String");
        size += name.len() + value.data_type().len() + text.len();
    }
    assert!(size == outgoing.size && size <= max_bytes);
    let fifo = outgoing.queue.is_fifo();
    let (group, deduplication) = (entry.message_group_id(), entry.message_deduplication_id());
    assert!(group.is_none_or(is_token) && deduplication.is_none_or(is_token));
    // A FIFO queue wants both, and no other queue takes the second.
    assert!(!fifo || group.is_some());
    assert!(fifo == deduplication.is_some());
    assert!(entry.delay_seconds().is_none_or(|seconds| !fifo && (0..=900).contains(&seconds)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use outbox_core::{Options, Verdict};

    use super::*;

    #[test]
    fn strange_options_are_carried_or_refused_for_good() {
        for (options, standard, fifo) in [
            (r#"{"sqs":{"delay_seconds":0}}"#, true, false),
            (r#"{"sqs":{"message_deduplication_id":"d"}}"#, false, true),
            (r#"{"sqs":{"message_group_id":"g"}}"#, true, true),
            (r#"{"sqs":{"message_group_id":"g g"}}"#, false, false),
            (r#"{"sqs":{"delay_seconds":1.0}}"#, false, false),
            (r#"{"sqs":null}"#, false, false),
        ] {
            let json = serde_json::from_str(options).unwrap();
            let builder = Message::bytes("t", "").header("h", "").key("").content_type("\u{ffff}");
            let message = builder.raw_options(Options::from_json(json)).build().unwrap();
            for (queue, fits) in [("q", standard), ("q.fifo", fifo)] {
                let ready = ready(&message, Some(Queue::name(queue)), 1 << 20);
                assert_eq!(ready.is_ok(), fits, "{options}: {ready:?}");
                assert!(ready.err().is_none_or(|error| error.verdict() == Verdict::Permanent));
            }
        }
    }
}
