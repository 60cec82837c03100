use outbox::OutboxMessage;
use serde::Serialize;

#[derive(Serialize, OutboxMessage)]
#[outbox(key = "order_id")]
enum OrderEvent {
    #[outbox(topic = "order.placed")]
    Placed { order_id: u64 },
    Paid { order_id: u64 },
    #[outbox(topic = "orders.counted")]
    Counted { count: u64 },
    #[outbox(topic = "order.split", key = "part")]
    Split { order_id: u64 },
    #[outbox(topic = "order.closed", crate = "outbox")]
    Closed { order_id: u64 },
}

#[derive(Serialize, OutboxMessage)]
enum Never {}

fn main() {}
