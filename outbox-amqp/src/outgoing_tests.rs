use std::time::Duration;

use lapin::protocol::basic::gen_properties;
use outbox_core::{MessageBuilder, Options, Verdict};

use super::*;

fn build(builder: MessageBuilder) -> Message {
    builder.build().unwrap()
}

fn outgoing(message: &Message) -> Result<Outgoing<'_>> {
    Outgoing::new(0, message, &Routing::default(), 16)
}

fn kind(builder: MessageBuilder) -> ErrorKind {
    let message = build(builder);
    let error = outgoing(&message).unwrap_err();
    assert_eq!(error.verdict(), Verdict::Permanent, "{error}");
    error.kind()
}

fn full_options() -> AmqpOptions {
    AmqpOptions::new()
        .exchange("events")
        .exchange_type("topic")
        .exchange_durable(false)
        .exchange_auto_delete(true)
        .exchange_no_wait(true)
        .routing_key("k")
        .persistent(false)
        .priority(7)
        .expiration(Duration::from_millis(1_500))
        .correlation_id("c")
        .reply_to("r")
        .message_type("t")
        .app_id("a")
        .content_encoding("gzip")
        .timestamp(1_700_000_000)
}

#[test]
fn every_option_arrives() {
    let message = build(
        Message::bytes("topic", "x").content_type("text/plain").header("h", "v").options(&full_options()),
    );
    let outgoing = outgoing(&message).unwrap();
    let declaration =
        Declaration { kind: "topic".to_owned(), durable: false, auto_delete: true, no_wait: true };
    assert_eq!(outgoing.exchange, ExchangeSpec { name: "events".to_owned(), declaration: Some(declaration) });
    assert_eq!(outgoing.routing_key, "k");
    let properties = &outgoing.properties;
    assert_eq!(*properties.delivery_mode(), Some(1));
    assert_eq!(*properties.priority(), Some(7));
    assert_eq!(*properties.timestamp(), Some(1_700_000_000));
    for (field, expected) in [
        (properties.message_id(), message.id().to_string().as_str()),
        (properties.content_type(), "text/plain"),
        (properties.content_encoding(), "gzip"),
        (properties.expiration(), "1500"),
        (properties.correlation_id(), "c"),
        (properties.reply_to(), "r"),
        (properties.kind(), "t"),
        (properties.app_id(), "a"),
    ] {
        assert_eq!(field.as_ref().map(ShortString::as_str), Some(expected));
    }
}

#[test]
fn without_options_a_message_is_persistent_and_goes_to_the_queue_of_its_topic() {
    let message = build(Message::bytes("orders", "x"));
    let outgoing = outgoing(&message).unwrap();
    assert_eq!(outgoing.exchange, ExchangeSpec { name: String::new(), declaration: None });
    assert_eq!(outgoing.routing_key, "orders");
    assert_eq!(*outgoing.properties.delivery_mode(), Some(2));
}

#[test]
fn options_round_trip_through_json() {
    let options = full_options().exchange_internal(false);
    let json = serde_json::to_value(&options).unwrap();
    assert_eq!(serde_json::from_value::<AmqpOptions>(json).unwrap(), options);
}

#[test]
fn what_amqp_cannot_carry_is_a_permanent_failure() {
    let long = "x".repeat(256);
    let options = AmqpOptions::new;
    let with = |options: AmqpOptions| Message::bytes("t", "x").options(&options);
    for builder in [
        Message::bytes(long.as_str(), "x"),
        Message::bytes("t", "x").content_type(long.as_str()),
        Message::bytes("t", "x").header(long.as_str(), "v"),
        with(options().exchange(long.as_str())),
        with(options().routing_key(long.as_str())),
        with(options().correlation_id(long.as_str())),
        with(options().reply_to(long.as_str())),
        with(options().message_type(long.as_str())),
        with(options().app_id(long.as_str())),
        with(options().content_encoding(long.as_str())),
        with(options().expiration(Duration::from_millis(1 << 32))),
        with(options().exchange_type("topic")),
        with(options().exchange("").exchange_type("topic")),
        with(options().exchange("e").exchange_type("")),
        with(options().exchange("e\n").exchange_type("topic")),
        with(options().exchange("e").exchange_type(long.as_str())),
        with(options().exchange("e").exchange_type("topic").exchange_internal(true)),
        with(options().exchange("e").exchange_durable(true)),
        with(options().exchange("e").exchange_no_wait(false)),
    ] {
        assert_eq!(kind(builder), ErrorKind::Malformed);
    }
    assert_eq!(kind(Message::bytes("t", vec![0; 17])), ErrorKind::TooLarge);
}

#[test]
fn an_unknown_option_is_named() {
    let json = serde_json::json!({ "amqp": { "exchanges": "orders" } });
    let serde_json::Value::Object(json) = json else { unreachable!() };
    let message = build(Message::bytes("t", "x").raw_options(Options::from_json(json)));
    let error = outgoing(&message).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("exchanges"), "{error}");
}

#[test]
fn the_size_of_the_header_frame_is_exact() {
    for builder in [
        Message::bytes("t", "x"),
        Message::bytes("t", "x").content_type("text/plain").header("a", "").header("longer", "ünïcödé"),
        Message::bytes("t", "x").header("h", "v".repeat(200_000)).options(&full_options()),
    ] {
        let message = build(builder);
        let outgoing = outgoing(&message).unwrap();
        let mut buffer = vec![0_u8; 400_000];
        let wire = std::io::Cursor::new(&mut buffer[..]);
        let wire = gen_properties(&outgoing.properties)(wire.into()).unwrap();
        // The flags come with the properties, and are counted with the frame around them.
        let written = usize::try_from(wire.position).unwrap();
        assert_eq!(outgoing.header_frame, HEADER_FRAME - 2 + written);
        assert!(outgoing.fits(outgoing.header_frame).is_ok());
        assert_eq!(outgoing.fits(outgoing.header_frame - 1).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}
