//! What the fuzz targets reach of the private parts. It is no part of the interface.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use outbox_core::publishing::Routing;
use outbox_core::{Message, Result};
use serde_json::Value;

use crate::format::Format;
use crate::outgoing::Outgoing;
use crate::stream::Stream;
use crate::text::{is_hash_key, is_partition_key, is_sequence_number};

/// Makes a message ready, and asks that Kinesis takes what comes of it. `stream` is that of the settings.
///
/// # Errors
/// Why the message is refused.
pub fn ready(message: &Message, stream: Option<Stream>, format: Format, max_bytes: usize) -> Result<()> {
    let routing = Routing { default: stream, ..Routing::default() };
    let outgoing = Outgoing::new(0, message, &routing, format, max_bytes)?;
    let data = outgoing.data.as_ref();
    assert!(outgoing.size == data.len() + outgoing.partition_key.len() && outgoing.size <= max_bytes);
    assert!(outgoing.stream.is_possible() && is_partition_key(&outgoing.partition_key));
    assert!(outgoing.explicit_hash_key.as_deref().is_none_or(is_hash_key));
    assert!(outgoing.sequence_number.as_deref().is_none_or(is_sequence_number));
    assert!(outgoing.entry().is_ok());
    match format {
        Format::Raw => assert!(data == message.payload()),
        Format::Envelope => assert!(is_envelope_of(data, message)),
    }
    Ok(())
}

/// Whether a consumer finds all of the message in the data.
fn is_envelope_of(data: &[u8], message: &Message) -> bool {
    let Ok(read) = serde_json::from_slice::<Value>(data) else { return false };
    let text = |field: &str| read.get(field).and_then(Value::as_str);
    let payload = match (text("payload"), text("payload_base64")) {
        (Some(text), None) => Some(text.as_bytes().to_vec()),
        (None, Some(text)) => BASE64_STANDARD.decode(text).ok(),
        _ => None,
    };
    let headers = match read.get("headers") {
        Some(headers) => serde_json::from_value(headers.clone()).ok(),
        None => Some(Default::default()),
    };
    payload.as_deref() == Some(message.payload().as_ref())
        && headers.as_ref() == Some(message.headers())
        && text("id") == Some(&*message.id().to_string())
        && text("topic") == Some(message.topic())
        && text("key") == message.key()
        && text("content_type") == message.content_type()
}

#[cfg(test)]
mod tests {
    use outbox_core::{Options, Verdict};

    use super::*;

    #[test]
    fn strange_options_are_carried_or_refused_for_good() {
        for (options, fits) in [
            (r#"{"kinesis":{"explicit_hash_key":"340282366920938463463374607431768211455"}}"#, true),
            (r#"{"kinesis":{"partition_key":"\u0001","sequence_number_for_ordering":"0"}}"#, true),
            (r#"{"kinesis":{"explicit_hash_key":"٣"}}"#, false),
            (r#"{"kinesis":{"explicit_hash_key":3}}"#, false),
            (r#"{"kinesis":null}"#, false),
        ] {
            let json = serde_json::from_str(options).unwrap();
            let builder = Message::bytes("t", vec![0xff, b'"']).header("\u{7f}", "\u{2028}").key("");
            let message = builder.raw_options(Options::from_json(json)).build().unwrap();
            for format in [Format::Envelope, Format::Raw] {
                let ready = ready(&message, Some(Stream::name("s")), format, 1 << 20);
                assert_eq!(ready.is_ok(), fits, "{options}: {ready:?}");
                assert!(ready.err().is_none_or(|error| error.verdict() == Verdict::Permanent));
            }
        }
    }
}
