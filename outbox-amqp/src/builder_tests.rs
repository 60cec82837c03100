use outbox_core::{ErrorKind, Publisher};

use super::*;

const URI: &str = "amqp://user:s3cret@broker.example:5673/orders";

#[test]
fn the_defaults_fit_a_relay() {
    let publisher = AmqpPublisher::builder(URI).build().unwrap();
    assert_eq!(publisher.name(), "amqp");
    let capabilities = publisher.capabilities();
    assert!(!capabilities.ordered_batches);
    assert_eq!(capabilities.max_message_bytes, Some(16 << 20));
    assert_eq!(capabilities.max_batch_messages, 500);
}

#[test]
fn the_password_is_shown_nowhere() {
    let builder = AmqpPublisher::builder(URI);
    assert!(!format!("{builder:?}").contains("s3cret"));
    let publisher = builder.build().unwrap();
    let shown = format!("{publisher:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(shown.contains("broker.example:5673") && shown.contains("orders"), "{shown}");

    for wrong in ["http://user:s3cret@host", "s3cret", "amqp:s3cret", "amqp://user:s3cret@host:70000"] {
        let error = AmqpPublisher::builder(wrong).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!format!("{error:?} {}", error.report()).contains("s3cret"), "{error:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let long = "x".repeat(256);
    let builder = || AmqpPublisher::builder(URI);
    for builder in [
        builder().channels(0),
        builder().channels(257),
        builder().connect_timeout(Duration::ZERO),
        builder().confirm_timeout(Duration::ZERO),
        builder().confirm_timeout(Duration::MAX),
        builder().max_message_bytes(0),
        builder().max_batch_messages(0),
        builder().max_batch_bytes(0),
        builder().heartbeat(Duration::ZERO),
        builder().heartbeat(Duration::from_millis(1_500)),
        builder().heartbeat(Duration::from_secs(65_536)),
        builder().exchange(long.as_str()),
        builder().exchange("a\nb"),
        builder().not_mandatory("a\rb"),
        builder().node("http://host"),
        builder().tls(OwnedTLSConfig::default()),
        AmqpPublisher::builder("amqps://host").node(URI).tls(OwnedTLSConfig::default()),
        builder().route("t", Route::new("a\nb", "")),
        builder().route("t", Route::new(long.as_str(), "")),
        builder().route("t", Route::new("", long.as_str())),
        builder().declare_exchange(Exchange::new("", "topic")),
        builder().declare_queue(Queue::quorum("")),
        builder().bind_queue(Binding::new("", "q", "")),
        AmqpPublisher::with_connector(|_| async { Err(lapin::ErrorKind::ChannelsLimitReached.into()) })
            .heartbeat(Duration::from_secs(1)),
        AmqpPublisher::with_connector(|_| async { Err(lapin::ErrorKind::ChannelsLimitReached.into()) })
            .node(URI),
    ] {
        let shown = format!("{builder:?}");
        assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Config, "{shown}");
    }
}

#[test]
fn an_ipv6_host_is_not_mistaken_for_localhost() {
    for (uri, host) in [
        ("amqp://[::1]:5672/%2f", "::1"),
        ("amqp://user:p%40ss@[2001:db8::1]/vhost", "2001:db8::1"),
        ("amqp://127.0.0.1:5672/", "127.0.0.1"),
        ("amqp://host/[::1]", "host"),
    ] {
        assert_eq!(parse(uri).unwrap().authority.host, host, "{uri}");
    }
}
