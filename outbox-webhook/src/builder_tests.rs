use outbox_core::{ErrorKind, Publisher as _};

use super::*;

fn endpoint() -> Endpoint {
    Endpoint::new("http://example.com/s3cret?key=s3cret").header("authorization", "s3cret")
}

fn builder() -> WebhookPublisherBuilder {
    WebhookPublisher::builder().default_endpoint(endpoint())
}

fn refusal(builder: WebhookPublisherBuilder) -> String {
    let error = builder.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(!error.report().contains("s3cret"), "{}", error.report());
    error.report()
}

#[test]
fn every_setting_is_checked_and_named() {
    let second = Duration::from_secs(1);
    for (builder, named) in [
        (WebhookPublisher::builder(), "there is no endpoint"),
        (builder().requests_in_flight(0), "requests_in_flight"),
        (builder().requests_in_flight(257), "requests_in_flight"),
        (builder().max_message_bytes(0), "max_message_bytes"),
        (builder().max_batch_messages(0), "max_batch_messages"),
        (builder().max_batch_bytes(0), "max_batch_bytes"),
        (builder().connect_timeout(Duration::ZERO), "connect_timeout"),
        (builder().call_timeout(second * 86_401), "call_timeout"),
        (builder().idle_timeout(Duration::ZERO), "idle_timeout"),
        (builder().default_endpoint(endpoint()), "the same name"),
        (builder().route("order.placed", "billing"), "endpoint: billing"),
        (builder().endpoint("x", Endpoint::new("s3cret")), "endpoint: x"),
        (builder().message_urls(MessageUrls::new().secret("s3cret")), "message_urls"),
        (builder().authorities("s3cret"), "authorities"),
        (builder().client_certificate("s3cret", "s3cret"), "client_certificate"),
    ] {
        let text = refusal(builder);
        assert!(text.contains(named), "{text}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let builder = builder().client_certificate("s3cret", "s3cret").authorities("s3cret");
    assert!(!format!("{builder:?}").contains("s3cret"), "{builder:?}");
    let publisher = self::builder().build().unwrap();
    assert!(!format!("{publisher:?}").contains("s3cret"), "{publisher:?}");
}

#[test]
fn a_call_has_as_many_messages_as_requests_in_flight_unless_told_otherwise() {
    let of = |builder: WebhookPublisherBuilder| builder.build().unwrap().capabilities();
    let default = of(builder());
    assert_eq!((default.max_batch_messages, default.ordered_batches), (16, false));
    assert_eq!(default.max_message_bytes, Some(1 << 20));
    assert_eq!(of(builder().requests_in_flight(5)).max_batch_messages, 5);
    assert_eq!(of(builder().max_batch_messages(7)).max_batch_messages, 7);
}
