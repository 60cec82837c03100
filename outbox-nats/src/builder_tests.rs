use outbox_core::{ErrorKind, Publisher as _};

use super::*;

fn builder() -> NatsPublisherBuilder {
    NatsPublisher::builder("nats://me:s3cret@localhost:4222")
}

#[test]
fn settings_that_cannot_work_are_refused_and_named() {
    for (builder, named) in [
        (NatsPublisher::builder("localhost:4222"), "nats://host:4222"),
        (builder().server("http://x"), "nats://host:4222"),
        (builder().connections(0), "connections"),
        (builder().connections(65), "connections"),
        (builder().max_message_bytes((64 << 20) + 1), "max_message_bytes"),
        (builder().max_batch_messages(0), "max_batch_messages"),
        (builder().max_batch_bytes(0), "max_batch_bytes"),
        (builder().connect_timeout(Duration::ZERO), "connect_timeout"),
        (builder().ack_timeout(Duration::MAX), "ack_timeout"),
        (builder().subject("shop.>"), "shop.>"),
        (builder().route("t", "a b"), "a b"),
        (builder().expect_stream("a.b"), "a.b"),
        (builder().inbox_prefix("_INBOX.>"), "inbox_prefix"),
        (builder().credentials("s3cret"), "credentials"),
        (builder().tls(Tls::new().authorities("s3cret")), "authorities"),
        (builder().tls(Tls::new().identity("s3cret", "s3cret")), "identity"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.report();
        assert!(text.contains(named) && !text.contains("s3cret"), "{text}");
    }
}

#[test]
fn the_capabilities_follow_the_settings() {
    let publisher = builder().max_message_bytes(7).max_batch_messages(8).max_batch_bytes(9).build().unwrap();
    let capabilities = publisher.capabilities();
    assert_eq!(capabilities.max_message_bytes, Some(7));
    assert_eq!((capabilities.max_batch_messages, capabilities.max_batch_bytes), (8, 9));
    assert!(!capabilities.ordered_batches);
    assert_eq!(publisher.name(), "nats");
}

#[test]
fn no_secret_is_in_the_debug_form() {
    let builder =
        builder().token("s3cret").nkey("s3cret").server("nats://s3cret@other").route_with(|_| String::new());
    let text = format!("{builder:?}");
    assert!(text.contains("routing") && !text.contains("s3cret"), "{text}");
    let text = format!("{:?}", builder.build().unwrap());
    assert!(text.contains("localhost:4222, other:4222") && !text.contains("s3cret"), "{text}");
}
