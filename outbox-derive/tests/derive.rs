//! Messages of types that derive `OutboxMessage`.

#![allow(clippy::unwrap_used)]

use std::fmt;

use outbox::{ErrorKind, Message, OutboxMessage};
use serde::Serialize;

fn topic_and_key(event: &impl OutboxMessage) -> (String, Option<String>) {
    let message = event.to_message().unwrap();
    (message.topic().to_owned(), message.key().map(str::to_owned))
}

fn of(topic: &str, key: Option<&str>) -> (String, Option<String>) {
    (topic.to_owned(), key.map(str::to_owned))
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "order.paid", key = "order_id")]
struct OrderPaid {
    order_id: u64,
    #[serde(rename = "amount")]
    cents: u64,
}

#[test]
fn the_payload_is_what_serde_makes_of_the_value() {
    let message: Message = OrderPaid { order_id: 17, cents: 4999 }.to_message().unwrap();
    assert_eq!(&message.payload()[..], br#"{"order_id":17,"amount":4999}"#);
    assert_eq!(message.content_type(), Some("application/json"));
    assert_eq!((message.topic(), message.key()), ("order.paid", Some("17")));
    assert!(message.headers().is_empty() && message.options().is_empty());
    let again = OrderPaid { order_id: 17, cents: 4999 }.to_message().unwrap();
    assert_ne!(message.id(), again.id());
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "tick")]
struct Tick;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "number")]
#[outbox(key = "1")]
struct Numbered(&'static str, u8);

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "maybe", key = "customer")]
struct Maybe {
    customer: Option<String>,
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "several", key = ("tenant", "customer", "number"))]
struct Several {
    tenant: String,
    customer: std::option::Option<&'static str>,
    number: u8,
}

#[test]
fn the_key_is_a_field_or_several_or_none() {
    assert_eq!(topic_and_key(&Tick), of("tick", None));
    assert_eq!(topic_and_key(&Numbered("a", 2)), of("number", Some("2")));
    assert_eq!(topic_and_key(&Maybe { customer: Some("c".to_owned()) }), of("maybe", Some("c")));
    assert_eq!(topic_and_key(&Maybe { customer: None }), of("maybe", None));
    let several = |customer| Several { tenant: "acme".to_owned(), customer, number: 4 };
    assert_eq!(topic_and_key(&several(Some("c"))), of("several", Some("acme/c/4")));
    assert_eq!(topic_and_key(&several(None)), of("several", None));
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "order", key = "order_id")]
#[serde(tag = "type")]
enum OrderEvent {
    Placed {
        order_id: u64,
        lines: Vec<String>,
    },
    #[outbox(topic = "order.paid")]
    Paid {
        order_id: u64,
    },
    #[outbox(topic = "order.split", key = ("order_id", "part"))]
    Split {
        part: u8,
        order_id: u64,
    },
    #[outbox(topic = "orders.counted", key = none)]
    Counted {
        count: u64,
    },
    #[outbox(key = none)]
    Closed,
}

#[test]
fn a_variant_has_its_topic_and_key_or_those_of_the_enum() {
    let placed = OrderEvent::Placed { order_id: 1, lines: vec!["x".to_owned()] };
    assert_eq!(topic_and_key(&placed), of("order", Some("1")));
    let payload = placed.to_message().unwrap().payload().clone();
    assert_eq!(&payload[..], br#"{"type":"Placed","order_id":1,"lines":["x"]}"#);
    assert_eq!(topic_and_key(&OrderEvent::Paid { order_id: 2 }), of("order.paid", Some("2")));
    assert_eq!(topic_and_key(&OrderEvent::Split { part: 3, order_id: 2 }), of("order.split", Some("2/3")));
    assert_eq!(topic_and_key(&OrderEvent::Counted { count: 9 }), of("orders.counted", None));
    assert_eq!(topic_and_key(&OrderEvent::Closed), of("order", None));
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "tuple", key = "0")]
enum Tuples {
    One(u8),
    Two(u8, u8),
}

/// Names that the generated code might use, too, and words that Rust reserves.
#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "names", key = ("key", "topic", "type"))]
struct Names {
    key: u8,
    topic: u8,
    r#type: u8,
    builder: u8,
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "generic", key = "id")]
struct Generic<'a, T, U = u8>
where
    T: Clone,
{
    id: &'a T,
    rest: Option<U>,
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "core", crate = "outbox_core")]
struct WithoutTheFacade;

#[test]
fn all_kinds_of_types_are_understood() {
    assert_eq!(topic_and_key(&Tuples::One(1)), of("tuple", Some("1")));
    assert_eq!(topic_and_key(&Tuples::Two(2, 3)), of("tuple", Some("2")));
    assert_eq!(topic_and_key(&Names { key: 1, topic: 2, r#type: 3, builder: 4 }), of("names", Some("1/2/3")));
    assert_eq!(topic_and_key(&Generic { id: &5_u8, rest: Some(1_u8) }), of("generic", Some("5")));
    assert_eq!(topic_and_key(&WithoutTheFacade), of("core", None));
}

/// Its `Display` is what becomes the key.
#[derive(Serialize)]
struct Customer(u32);

impl fmt::Display for Customer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "customer-{}", self.0)
    }
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "greeting", key = "customer")]
struct Greeting {
    customer: Customer,
    text: Text,
}

struct Text(&'static str);

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            "" => Err(serde::ser::Error::custom("there is nothing to say")),
            text => serializer.serialize_str(text),
        }
    }
}

#[test]
fn an_event_that_cannot_be_a_message_is_refused_with_the_reason() {
    let greeting = |text| Greeting { customer: Customer(4), text: Text(text) };
    assert_eq!(topic_and_key(&greeting("hello")), of("greeting", Some("customer-4")));
    let error = greeting("").to_message().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.report().contains("there is nothing to say"), "{}", error.report());
    let error = Maybe { customer: Some("a\0b".to_owned()) }.to_message().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[test]
fn mistakes_are_explained_by_the_compiler() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
