use outbox::OutboxMessage;
use serde::Serialize;

#[derive(Serialize, OutboxMessage)]
#[outbox(topic = "order.paid", key = "lines")]
struct OrderPaid {
    lines: Vec<u8>,
}

fn main() {}
