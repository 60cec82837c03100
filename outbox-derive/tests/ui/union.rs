use outbox::OutboxMessage;

#[derive(OutboxMessage)]
#[outbox(topic = "order.paid")]
union OrderPaid {
    order_id: u64,
}

fn main() {}
