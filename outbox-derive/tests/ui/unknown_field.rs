use outbox::OutboxMessage;
use serde::Serialize;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "order.paid", key = "order")]
struct OrderPaid {
    order_id: u64,
    r#type: u8,
}

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "tick", key = "at")]
struct Tick;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "pair", key = ("0", "2"))]
struct Pair(u8, u8);

fn main() {}
