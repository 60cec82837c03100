use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::{Extensions, HeaderMap, HeaderValue};
use outbox_core::{ErrorKind, Publisher as _};

use super::*;

#[derive(Debug)]
struct Secret;

impl CredentialsProvider for Secret {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let data =
            HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer s3cret"))]);
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

fn builder() -> PubSubPublisherBuilder {
    PubSubPublisher::builder(Credentials::from(Secret)).project("shop")
}

#[test]
fn settings_that_cannot_work_are_refused_and_named() {
    for (builder, named) in [
        (builder().requests_in_flight(0), "requests_in_flight"),
        (builder().requests_in_flight(1001), "requests_in_flight"),
        (builder().max_request_messages(1001), "max_request_messages"),
        (builder().max_request_bytes(10_000_001), "max_request_bytes"),
        (builder().max_batch_messages(0), "max_batch_messages"),
        (builder().max_batch_bytes(0), "max_batch_bytes"),
        (builder().call_timeout(Duration::ZERO), "call_timeout"),
        (builder().connect_timeout(Duration::MAX), "connect_timeout"),
        (builder().project("a/b"), "a/b"),
        (builder().route("t", Topic::id("1")), "leads nowhere"),
        (builder().route("t", Topic::full("projects/p/orders")), "leads nowhere"),
        (builder().endpoint("http://pubsub.googleapis.com"), "https"),
        (builder().endpoint("pubsub.googleapis.com"), "endpoint"),
        (builder().endpoint("https://a b"), "endpoint"),
        (PubSubPublisher::emulator_builder("a b"), "emulator"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(named), "{error}");
    }
    let error =
        PubSubPublisher::builder(Credentials::from(Secret)).route("t", Topic::id("abc")).build().unwrap_err();
    assert!(error.report().contains("set the publisher's project"), "{}", error.report());
}

#[tokio::test]
async fn settings_that_can_work_are_taken() {
    for builder in [
        builder(),
        builder().endpoint("https://europe-west1-pubsub.googleapis.com:443"),
        builder().transport(Endpoint::from_static("http://localhost:1")),
        PubSubPublisher::emulator_builder("localhost:8085"),
        PubSubPublisher::emulator_builder("http://localhost:8085/"),
        PubSubPublisher::emulator_builder("[::1]:8085"),
    ] {
        builder.build().unwrap();
    }
}

#[test]
fn the_capabilities_follow_the_settings() {
    let publisher = builder().max_request_bytes(1000).build().unwrap();
    let capabilities = publisher.capabilities();
    assert_eq!(capabilities.max_message_bytes, Some(1000));
    assert!(capabilities.ordered_batches);
    assert!(!builder().ordering_keys(false).build().unwrap().capabilities().ordered_batches);
    assert_eq!(publisher.name(), "pubsub");
}

#[test]
fn no_credentials_are_in_the_debug_form() {
    let builder = builder().route_with(|_| Topic::id("orders"));
    let text = format!("{builder:?}");
    assert!(text.contains("routing") && !text.to_lowercase().contains("secret"), "{text}");
    let text = format!("{:?}", builder.build().unwrap());
    assert!(text.contains("routing") && !text.to_lowercase().contains("secret"), "{text}");
}
