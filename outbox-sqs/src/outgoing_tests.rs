use outbox_core::{Options, Scope, Verdict};

use super::*;

fn outgoing(message: &Message) -> Result<Outgoing> {
    Outgoing::new(0, message, &Routing::default(), 1 << 20)
}

#[test]
fn a_payload_that_is_text_is_the_body_and_any_other_is_encoded() {
    for (payload, expected, encoding) in [
        (&b"{\"order\":17}"[..], "{\"order\":17}", None),
        ("é 🚚\t\n".as_bytes(), "é 🚚\t\n", None),
        (b"", "-", Some("empty")),
        (b"-", "-", None),
        (b"a\0b", "YQBi", Some("base64")),
        (b"\xff\xfe", "//4=", Some("base64")),
        ("\u{ffff}".as_bytes(), "77+/", Some("base64")),
    ] {
        assert_eq!(body(payload), (expected.to_owned(), encoding), "{payload:?}");
    }
}

#[test]
fn a_fifo_queue_gets_a_group_and_a_deduplication_id() {
    let keyed = Message::bytes("orders.fifo", "x").key("customer-4").build().unwrap();
    let entry = outgoing(&keyed).unwrap().at(3);
    assert_eq!(entry.id(), "3");
    assert_eq!(entry.message_group_id(), Some("customer-4"));
    assert_eq!(entry.message_deduplication_id(), Some(keyed.id().to_string().as_str()));

    let bare = Message::bytes("orders.fifo", "x").build().unwrap();
    let entry = outgoing(&bare).unwrap().at(0);
    assert_eq!(entry.message_group_id(), Some(bare.id().to_string().as_str()));

    let options = SqsOptions::new().message_group_id("g").message_deduplication_id("d");
    let chosen = Message::bytes("orders.fifo", "x").key("k").options(&options).build().unwrap();
    let entry = outgoing(&chosen).unwrap().at(0);
    assert_eq!((entry.message_group_id(), entry.message_deduplication_id()), (Some("g"), Some("d")));
}

#[test]
fn a_standard_queue_gets_neither_unless_asked() {
    let message = Message::bytes("orders", "x").key("customer-4").build().unwrap();
    let entry = outgoing(&message).unwrap().at(0);
    assert_eq!((entry.message_group_id(), entry.message_deduplication_id()), (None, None));
    let options = SqsOptions::new().message_group_id("tenant").delay_seconds(7);
    let entry = outgoing(&Message::bytes("orders", "x").options(&options).build().unwrap()).unwrap().at(0);
    assert_eq!((entry.message_group_id(), entry.delay_seconds()), (Some("tenant"), Some(7)));
}

#[test]
fn what_sqs_would_refuse_is_not_sent() {
    let large = Message::bytes("orders", vec![b'x'; 1 << 20]).build().unwrap();
    let error = outgoing(&large).unwrap_err();
    assert_eq!((error.kind(), error.verdict()), (ErrorKind::TooLarge, Verdict::Permanent));

    let options = SqsOptions::new().delay_seconds(901);
    let error = outgoing(&Message::bytes("orders", "x").options(&options).build().unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.verdict()), (ErrorKind::Malformed, Verdict::Permanent));

    let json = serde_json::json!({ "sqs": { "delay": 1 } });
    let unknown = Options::from_json(json.as_object().cloned().unwrap());
    let error = outgoing(&Message::bytes("orders", "x").raw_options(unknown).build().unwrap()).unwrap_err();
    assert!(error.kind() == ErrorKind::Malformed && error.to_string().contains("`delay`"), "{error}");
}

#[test]
fn a_name_that_no_queue_can_have_is_not_the_end_of_the_message() {
    let error = outgoing(&Message::bytes("order.placed", "x").build().unwrap()).unwrap_err();
    assert_eq!(
        (error.kind(), error.verdict(), error.scope()),
        (ErrorKind::NotFound, Verdict::Retry, Scope::Message)
    );
}

#[test]
fn the_largest_message_fits_and_one_byte_more_does_not() {
    let message = |bytes| Message::bytes("orders", vec![b'x'; bytes]).build().unwrap();
    let overhead = outgoing(&message(1)).unwrap().size - 1;
    // Two attributes, of which the names, the types and the values count.
    let id = "outbox-id".len() + "String".len() + 36;
    assert_eq!(overhead, id + "outbox-topic".len() + "String".len() + "orders".len());
    outgoing(&message((1 << 20) - overhead)).unwrap();
    outgoing(&message((1 << 20) - overhead + 1)).unwrap_err();
}
