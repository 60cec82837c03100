use outbox::OutboxMessage;
use serde::Serialize;

#[derive(Serialize, OutboxMessage)]
struct Without;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "")]
struct Empty;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "a\0b")]
struct Nul;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "a", topic = "b")]
struct Twice;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = 17)]
struct Number;

fn main() {}
