//! What the fuzz targets reach of the private parts. It is no part of the interface.

use outbox_core::publishing::Routing;
use outbox_core::{Message, Result};

use crate::outgoing::Outgoing;
use crate::subject::MAX_BYTES;

/// Makes a message ready, and asks that the protocol can carry what comes of it. `subject` is that of the settings.
///
/// # Errors
/// Why the message is refused.
pub fn ready(message: &Message, subject: Option<&str>, max_bytes: usize) -> Result<()> {
    let routing = Routing { default: subject.map(str::to_owned), ..Routing::default() };
    let outgoing = Outgoing::new(0, message, &routing, None, max_bytes)?;
    assert!(outgoing.payload == *message.payload() && outgoing.payload.len() <= max_bytes);
    let subject = outgoing.subject;
    assert!((1..=MAX_BYTES).contains(&subject.len()) && !subject.contains([' ', '\t', '\r', '\n', '*', '>']));
    assert!(!subject.starts_with("$JS.") && !subject.starts_with("$SYS."));
    for (name, values) in outgoing.headers.iter() {
        assert!(!name.to_string().contains([':', ' ', '\r', '\n']));
        assert!(values.len() == 1 && !values.iter().any(|value| value.as_str().contains(['\r', '\n'])));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use outbox_core::{Options, Verdict};

    use super::*;

    #[test]
    fn strange_options_are_carried_or_refused_for_good() {
        for (options, fits) in [
            (r#"{"nats":{"subject":"$KV.b.k","stream":"S","ttl_seconds":4294967295}}"#, true),
            (r#"{"sqs":{"delay_seconds":1}}"#, true),
            (r#"{"nats":{"subject":"$JS.API.STREAM.DELETE.S"}}"#, false),
            (r#"{"nats":{"subject":""}}"#, false),
            (r#"{"nats":{"ttl_seconds":4294967296}}"#, false),
            (r#"{"nats":null}"#, false),
            (r#"{"nats":["orders"]}"#, false),
        ] {
            let json = serde_json::from_str(options).unwrap();
            let builder = Message::bytes("t", "x").header("h", "v").raw_options(Options::from_json(json));
            let ready = ready(&builder.build().unwrap(), Some("a.{topic}"), 10);
            assert_eq!(ready.is_ok(), fits, "{options}: {ready:?}");
            assert!(ready.err().is_none_or(|error| error.verdict() == Verdict::Permanent));
        }
    }
}
