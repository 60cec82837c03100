use outbox::OutboxMessage;

#[derive(OutboxMessage)]
#[outbox(topic = "order.paid")]
struct OrderPaid {
    order_id: u64,
}

fn main() {}
