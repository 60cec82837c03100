use outbox::OutboxMessage;
use serde::Serialize;

#[derive(Serialize, OutboxMessage)]
#[outbox(topik = "a")]
struct Misspelt;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "a", key = id)]
struct WithoutQuotes {
    id: u8,
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "a", key = none)]
struct NoneOnAType;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "a", key = ())]
struct NoFields;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "a", crate = "not a path")]
struct NotAPath;

fn main() {}
