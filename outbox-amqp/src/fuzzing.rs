//! What the fuzz targets reach of the private parts. It is no part of the interface.

use std::io::Cursor;

use lapin::protocol::basic::gen_properties;
use outbox_core::{Message, Result};

use crate::outgoing::Outgoing;
use crate::routing::{Route, Routing};

/// The frame around the properties, whose flags are written with them.
const AROUND: usize = 20;

/// Makes a message ready, and asks that AMQP can carry what comes of it. `exchange` is that of the settings.
///
/// # Errors
/// Why the message is refused.
pub fn ready(message: &Message, exchange: Option<&str>, max_bytes: usize) -> Result<()> {
    let mut routing = Routing::default();
    routing.routes.default = exchange.map(|name| Route::new(name, message.topic()));
    let outgoing = Outgoing::new(0, message, &routing, max_bytes)?;
    assert!(outgoing.payload == message.payload() && outgoing.payload.len() <= max_bytes);
    assert!(outgoing.exchange.name.len() <= 255 && outgoing.routing_key.len() <= 255);
    if let Some(declaration) = &outgoing.exchange.declaration {
        assert!((1..=255).contains(&declaration.kind.len()) && !outgoing.exchange.name.is_empty());
    }
    let mut buffer = vec![0; outgoing.header_frame];
    let written = gen_properties(&outgoing.properties)(Cursor::new(&mut buffer[..]).into());
    let written = written.map(|context| context.position);
    assert!(
        written.is_ok_and(|bytes| usize::try_from(bytes).is_ok_and(|n| n + AROUND == outgoing.header_frame))
    );
    assert!(
        outgoing.fits(outgoing.header_frame).is_ok() && outgoing.fits(outgoing.header_frame - 1).is_err()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use outbox_core::{Options, Verdict};

    use super::*;

    #[test]
    fn strange_options_are_carried_or_refused_for_good() {
        for (options, fits) in [
            (r#"{"amqp":{"priority":255,"timestamp":18446744073709551615,"type":""}}"#, true),
            (r#"{"amqp":{"exchange":"","routing_key":"","expiration":4294967295}}"#, true),
            (r#"{"sqs":{"delay_seconds":1}}"#, true),
            (r#"{"amqp":{"priority":256}}"#, false),
            (r#"{"amqp":{"expiration":1e3}}"#, false),
            (r#"{"amqp":null}"#, false),
            (r#"{"amqp":["orders"]}"#, false),
        ] {
            let json = serde_json::from_str(options).unwrap();
            let builder = Message::bytes("t", "x").header("h", "v").raw_options(Options::from_json(json));
            let ready = ready(&builder.build().unwrap(), Some("e"), 10);
            assert_eq!(ready.is_ok(), fits, "{options}: {ready:?}");
            assert!(ready.err().is_none_or(|error| error.verdict() == Verdict::Permanent));
        }
    }
}
