use outbox_core::{Options, Verdict};

use super::*;

fn ready(message: &Message) -> Result<Outgoing> {
    Outgoing::new(0, message, &Routing::default(), None, 100)
}

fn headers(outgoing: &Outgoing) -> Vec<String> {
    let one = |(name, values): (&HeaderName, &Vec<HeaderValue>)| format!("{name}: {}", values[0]);
    let mut all: Vec<String> = outgoing.headers.iter().map(one).collect();
    all.sort();
    all
}

#[test]
fn everything_but_the_payload_is_in_headers() {
    let options = NatsOptions::new().subject("orders.eu").stream("ORDERS").ttl_seconds(60);
    let message = Message::bytes("order.placed", "x")
        .key("customer 4")
        .content_type("text/plain")
        .header("tenant", "äcme")
        .options(&options)
        .build()
        .unwrap();
    let outgoing = ready(&message).unwrap();
    assert_eq!(outgoing.subject, "orders.eu");
    assert!(outgoing.has_ttl);
    let id = format!("Nats-Msg-Id: {}", message.id());
    let expected = [
        "Nats-Expected-Stream: ORDERS",
        &id,
        "Nats-TTL: 60",
        "content-type: text/plain",
        "outbox-key: customer 4",
        "outbox-topic: order.placed",
        "tenant: äcme",
    ];
    assert_eq!(headers(&outgoing), expected);

    let bare = Message::bytes("order.placed", "").build().unwrap();
    let outgoing = Outgoing::new(0, &bare, &Routing::default(), Some("ALL"), 100).unwrap();
    assert_eq!(outgoing.subject, "order.placed");
    assert!(!outgoing.has_ttl);
    let id = format!("Nats-Msg-Id: {}", bare.id());
    assert_eq!(headers(&outgoing), ["Nats-Expected-Stream: ALL", &id, "outbox-topic: order.placed"]);
}

fn more_of(builder: outbox_core::MessageBuilder) -> (Vec<String>, serde_json::Value) {
    let outgoing = ready(&builder.build().unwrap()).unwrap();
    let json = outgoing.headers.get(MORE).map_or("null", |value| value.as_str()).to_owned();
    let names = outgoing.headers.iter().map(|(name, _)| name.to_string());
    let mut names: Vec<String> = names.filter(|name| name != ID && name != MORE).collect();
    names.sort();
    (names, serde_json::from_str(&json).unwrap())
}

#[test]
fn headers_that_would_command_the_server_travel_as_json() {
    for name in ["Nats-Rollup", "nats-expected-last-sequence", "NATS-TTL", "outbox-key", "Content-Type"] {
        let builder = Message::bytes("t", "x").header(name, "all").header("tenant", "acme");
        let (names, more) = more_of(builder);
        // Either all headers of the message are headers, or none.
        assert_eq!(names, ["outbox-topic"]);
        assert_eq!(more, serde_json::json!({ "headers": { name: "all", "tenant": "acme" } }));
    }
}

#[test]
fn text_that_the_protocol_cannot_carry_travels_as_json() {
    let builder = || Message::bytes("t", "x");
    for (name, value) in [("a:b", "x"), ("a b", "x"), ("ü", "x"), ("a", "x\r\nNats-Rollup: all"), ("a", " x")]
    {
        let (names, more) = more_of(builder().header(name, value));
        assert_eq!(names, ["outbox-topic"]);
        assert_eq!(more, serde_json::json!({ "headers": { name: value } }));
    }
    for (builder, more) in [
        (builder().key("k\n"), serde_json::json!({ "key": "k\n" })),
        (builder().key(" k"), serde_json::json!({ "key": " k" })),
        (builder().content_type("text\nplain"), serde_json::json!({ "content_type": "text\nplain" })),
    ] {
        assert_eq!(more_of(builder), (vec!["outbox-topic".to_owned()], more));
    }
    let topic = Message::bytes("a\nb", "x").options(&NatsOptions::new().subject("s"));
    assert_eq!(more_of(topic), (Vec::new(), serde_json::json!({ "topic": "a\nb" })));
    assert_eq!(more_of(builder().header("a", "").key("ü")).1, serde_json::Value::Null);
}

#[test]
fn the_largest_payload_fits_and_one_byte_more_does_not() {
    ready(&Message::bytes("t", vec![0; 100]).build().unwrap()).unwrap();
    let error = ready(&Message::bytes("t", vec![0; 101]).build().unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.verdict()), (ErrorKind::TooLarge, Verdict::Permanent));
}

#[test]
fn options_that_are_not_understood_are_refused() {
    for json in
        [r#"{"nats":{"subject":"a.*"}}"#, r#"{"nats":{"ttl_seconds":0}}"#, r#"{"nats":{"headers":{}}}"#]
    {
        let options = Options::from_json(serde_json::from_str(json).unwrap());
        let error = ready(&Message::bytes("t", "x").raw_options(options).build().unwrap()).unwrap_err();
        assert_eq!((error.kind(), error.verdict()), (ErrorKind::Malformed, Verdict::Permanent), "{json}");
    }
}
