//! What a receiver sees, and what the publisher makes of its answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use integration_tests::webhook::{Authority, Fault};
use integration_tests::{Mode, Receiver, eventually, with_growing_limit};
use outbox_core::{Error, ErrorKind, Message, MessageBuilder, Publisher, Scope, Verdict};
use outbox_webhook::{
    Endpoint, MessageUrls, Resolve, WebhookOptions, WebhookPublisher, WebhookPublisherBuilder,
};

use support::{SECRET, builder};

const DEADLINE: Duration = Duration::from_secs(120);
const OTHER_SECRET: &str = "whsec_YW5vdGhlciBzZWNyZXQgb2YgdGhlc2UgdGVzdHM=";

fn endpoint(receiver: &Receiver) -> Endpoint {
    Endpoint::new(receiver.url("/hooks"))
}

fn to(receiver: &Receiver) -> WebhookPublisher {
    builder().default_endpoint(endpoint(receiver)).build().unwrap()
}

fn message(payload: &str) -> MessageBuilder {
    Message::bytes("order.placed", payload.to_owned())
}

async fn publish(publisher: &WebhookPublisher, message: MessageBuilder) -> Result<(), Error> {
    publisher.publish(&[message.build().unwrap()]).await.remove(0)
}

async fn failure(publisher: &WebhookPublisher) -> Error {
    publish(publisher, message("x")).await.unwrap_err()
}

fn judged(error: &Error) -> (ErrorKind, Verdict, Scope) {
    (error.kind(), error.verdict(), error.scope())
}

#[tokio::test]
async fn a_request_is_a_post_to_the_url_with_the_headers_of_the_specification() {
    let receiver = Receiver::start().await;
    let endpoint = Endpoint::new(receiver.url("/hooks?from=shop")).secret(SECRET).header("x-api-key", "17");
    let publisher = builder().default_endpoint(endpoint).build().unwrap();
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = seconds();
    let sent = message("{\"order\":17}").key("customer-4").content_type("application/json").build().unwrap();
    publisher.publish(std::slice::from_ref(&sent)).await.remove(0).unwrap();
    let delivery = receiver.deliveries().remove(0);
    assert_eq!((&*delivery.method, &*delivery.path), ("POST", "/hooks?from=shop"));
    assert_eq!(&*delivery.body, b"{\"order\":17}");
    assert_eq!(delivery.header("webhook-id"), Some(&*sent.id().to_string()));
    let timestamp: u64 = delivery.header("webhook-timestamp").unwrap().parse().unwrap();
    assert!((before..=seconds()).contains(&timestamp), "{timestamp}");
    assert!(delivery.is_signed_by(SECRET) && !delivery.is_signed_by(OTHER_SECRET));
    let names: Vec<_> = delivery.headers.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "content-length",
            "content-type",
            "host",
            "outbox-key",
            "outbox-topic",
            "user-agent",
            "webhook-id",
            "webhook-signature",
            "webhook-timestamp",
            "x-api-key"
        ]
    );
}

#[tokio::test]
async fn during_a_rotation_receivers_with_either_secret_accept_the_request() {
    let receiver = Receiver::start().await;
    let endpoint = endpoint(&receiver).secret(OTHER_SECRET).secret(SECRET);
    let publisher = builder().default_endpoint(endpoint).build().unwrap();
    publish(&publisher, message("x")).await.unwrap();
    let delivery = receiver.deliveries().remove(0);
    assert!(delivery.is_signed_by(SECRET) && delivery.is_signed_by(OTHER_SECRET), "{delivery:?}");
}

#[tokio::test]
async fn without_a_secret_there_is_an_id_and_no_signature() {
    let receiver = Receiver::start().await;
    publish(&to(&receiver), message("x")).await.unwrap();
    let delivery = receiver.deliveries().remove(0);
    assert!(delivery.header("webhook-id").is_some() && delivery.header("webhook-signature").is_none());
}

#[tokio::test]
async fn each_status_has_its_outcome_and_is_asked_once() {
    use ErrorKind as K;
    use Scope::{Endpoint, Message};
    use Verdict::{Permanent, Retry, Unknown};
    let receiver = Receiver::start().await;
    let publisher = to(&receiver);
    for (requests, (status, outcome)) in [
        (400, (K::Malformed, Permanent, Message)),
        (401, (K::Permission, Retry, Endpoint)),
        (404, (K::NotFound, Retry, Endpoint)),
        (408, (K::Throttled, Retry, Endpoint)),
        (409, (K::Conflict, Retry, Message)),
        (410, (K::NotFound, Retry, Endpoint)),
        (413, (K::TooLarge, Permanent, Message)),
        (418, (K::Rejected, Retry, Message)),
        (429, (K::Throttled, Retry, Endpoint)),
        (500, (K::Rejected, Unknown, Message)),
        (502, (K::Unavailable, Unknown, Endpoint)),
        (503, (K::Throttled, Retry, Endpoint)),
    ]
    .into_iter()
    .enumerate()
    {
        receiver.set(Fault::StatusWith(status, "120", "because of rule 7"));
        let error = failure(&publisher).await;
        assert_eq!(judged(&error), outcome, "{status}: {}", error.report());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(120)), "{status}");
        let text = error.report();
        assert!(text.contains(&format!("status: {status}")) && text.contains("because of rule 7"), "{text}");
        assert!(text.contains("endpoint: default"), "{text}");
        // Ready-made clients repeat some of them by themselves.
        assert_eq!(receiver.requests(), requests + 1, "{status}");
    }
    for status in [200, 201, 202, 204, 299] {
        receiver.set(Fault::Status(status));
        publish(&publisher, message("x")).await.unwrap();
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (receiver, elsewhere) = (Receiver::start().await, Receiver::start().await);
    let publisher = to(&receiver);
    for status in [301, 302, 303, 307, 308] {
        receiver.set(Fault::Redirect(status, elsewhere.url("/hooks")));
        let error = failure(&publisher).await;
        assert_eq!(judged(&error), (ErrorKind::NotFound, Verdict::Retry, Scope::Endpoint), "{status}");
    }
    assert_eq!((receiver.requests(), elsewhere.connections()), (5, 0));
}

#[tokio::test]
async fn with_several_endpoints_a_failing_one_concerns_its_messages_only() {
    let receiver = Receiver::start().await;
    let at = |path: &str| Endpoint::new(receiver.url(path));
    let away = Receiver::start().await;
    away.kill().await;
    let publisher = builder()
        .endpoint("fine", at("/fine"))
        .endpoint("gone", at("/status/410"))
        .endpoint("busy", at("/status/429"))
        .endpoint("away", Endpoint::new(away.url("/")))
        .build()
        .unwrap();
    let batch: Vec<_> = ["gone", "fine", "busy", "fine", "away", "fine", "nowhere"]
        .into_iter()
        .map(|topic| Message::bytes(topic, topic).build().unwrap())
        .collect();
    let outcomes = publisher.publish(&batch).await;
    let kinds: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().err().map(Error::kind)).collect();
    assert_eq!(
        kinds,
        [
            Some(ErrorKind::NotFound),
            None,
            Some(ErrorKind::Throttled),
            None,
            Some(ErrorKind::Unavailable),
            None,
            Some(ErrorKind::NotFound)
        ]
    );
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!((error.scope(), error.verdict()), (Scope::Message, Verdict::Retry), "{}", error.report());
    }
    assert_eq!(receiver.deliveries().len(), 3);
}

#[tokio::test]
async fn once_the_only_destination_has_failed_no_further_request_of_the_call_begins() {
    let receiver = Receiver::start().await;
    receiver.set(Fault::Status(503));
    let publisher = builder().default_endpoint(endpoint(&receiver)).requests_in_flight(1).build().unwrap();
    let batch: Vec<_> = (0..20).map(|i| message(&i.to_string()).build().unwrap()).collect();
    for outcome in publisher.publish(&batch).await {
        let error = outcome.unwrap_err();
        assert_eq!(judged(&error), (ErrorKind::Throttled, Verdict::Retry, Scope::Endpoint));
    }
    assert_eq!(receiver.requests(), 1);
}

#[tokio::test]
async fn a_key_is_sent_in_order_and_stops_at_its_failure() {
    let receiver = Receiver::start().await;
    let publisher = builder()
        .endpoint("fine", Endpoint::new(receiver.url("/fine")))
        .endpoint("bad", Endpoint::new(receiver.url("/status/422")))
        .build()
        .unwrap();
    let one =
        |topic: &str, key: &str, payload: String| Message::bytes(topic, payload).key(key).build().unwrap();
    let mut batch: Vec<_> =
        (0..30).map(|i| one("fine", &format!("k{}", i % 3), format!("k{}:{i}", i % 3))).collect();
    batch.insert(15, one("bad", "k0", "bad".to_owned()));
    batch.insert(21, one("nowhere", "k1", "nowhere".to_owned()));
    let outcomes = publisher.publish(&batch).await;
    let mut failed = std::collections::HashSet::new();
    let mut expected = std::collections::BTreeMap::<&str, Vec<&[u8]>>::new();
    for (message, outcome) in batch.iter().zip(&outcomes) {
        let key = message.key().unwrap();
        let bad = message.topic() != "fine";
        assert_eq!(outcome.is_ok(), !bad && !failed.contains(key), "{message:?}: {outcome:?}");
        if let (Err(error), false) = (outcome, bad) {
            assert_eq!(judged(error), (ErrorKind::Rejected, Verdict::Retry, Scope::Message));
        }
        if bad {
            failed.insert(key);
        } else if outcome.is_ok() {
            expected.entry(key).or_default().push(message.payload());
        }
    }
    let deliveries = receiver.deliveries();
    for (key, payloads) in expected {
        let arrived = deliveries.iter().filter(|delivery| delivery.header("outbox-key") == Some(key));
        assert_eq!(arrived.map(|delivery| &*delivery.body).collect::<Vec<_>>(), payloads, "{key}");
    }
}

#[tokio::test]
async fn only_so_many_requests_of_a_call_are_in_flight() {
    let receiver = Receiver::start().await;
    let publisher = builder().default_endpoint(endpoint(&receiver)).requests_in_flight(3).build().unwrap();
    let batch: Vec<_> = (0..60).map(|i| message(&i.to_string()).build().unwrap()).collect();
    for outcome in publisher.publish(&batch).await {
        outcome.unwrap();
    }
    assert!((1..=3).contains(&receiver.most_at_once()), "{}", receiver.most_at_once());
    // A request may open a connection while another one is about to become free.
    assert!(receiver.connections() < 60, "no connection was used again");
}

#[tokio::test]
async fn an_endless_answer_neither_delays_the_outcome_nor_fills_the_memory() {
    let receiver = Receiver::start().await;
    let publisher = to(&receiver);
    receiver.set(Fault::EndlessBody(200));
    publish(&publisher, message("x")).await.unwrap();
    receiver.set(Fault::EndlessBody(500));
    let error = failure(&publisher).await;
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.report().len() < 2_000, "{}", error.report().len());
}

#[tokio::test]
async fn a_receiver_that_does_not_answer_leaves_the_outcome_unknown_and_its_connection_unused() {
    with_growing_limit(async |limit| {
        let receiver = Receiver::start().await;
        let publisher = builder().default_endpoint(endpoint(&receiver)).call_timeout(limit).build().unwrap();
        publish(&publisher, message("x")).await.map_err(|error| error.report())?;
        receiver.set(Fault::Silent);
        let error = failure(&publisher).await;
        if judged(&error) != (ErrorKind::Timeout, Verdict::Unknown, Scope::Endpoint) {
            return Err(error.report());
        }
        receiver.set(Fault::None);
        publish(&publisher, message("x")).await.map_err(|error| error.report())?;
        assert_eq!((receiver.requests(), receiver.connections()), (3, 2));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_dropped_call_frees_its_connections_and_sends_nothing_later() {
    let receiver = Receiver::start().await;
    let publisher = builder().default_endpoint(endpoint(&receiver)).requests_in_flight(2).build().unwrap();
    receiver.set(Fault::Silent);
    let batch: Vec<_> = (0..10).map(|i| message(&i.to_string()).build().unwrap()).collect();
    let arrived = eventually("two requests", DEADLINE, || async { (receiver.requests() == 2).then_some(()) });
    tokio::select! {
        _ = publisher.publish(&batch) => panic!("nobody has answered"),
        () = arrived => {}
    }
    receiver.set(Fault::None);
    publish(&publisher, message("after")).await.unwrap();
    let bodies: Vec<_> = receiver.deliveries().into_iter().map(|delivery| delivery.body).collect();
    assert_eq!(bodies, ["after"]);
    assert_eq!(receiver.requests(), 3);
}

#[tokio::test]
async fn several_endpoints_at_one_host_fail_together_if_the_host_does() {
    let receiver = Receiver::start().await;
    let at = |path: &str| Endpoint::new(receiver.url(path));
    let publisher =
        builder().endpoint("one", at("/one")).endpoint("gone", at("/status/410")).build().unwrap();
    let outcomes = async || {
        let batch = ["one", "gone"].map(|topic| Message::bytes(topic, "x").build().unwrap());
        let outcomes = publisher.publish(&batch).await;
        outcomes
            .into_iter()
            .map(|outcome| outcome.err().map(|error| (error.kind(), error.scope())))
            .collect::<Vec<_>>()
    };
    assert_eq!(outcomes().await, [None, Some((ErrorKind::NotFound, Scope::Message))]);
    receiver.kill().await;
    let down = outcomes().await;
    // Interrupted if the client has not noticed yet that its idle connection has ended.
    let is_down = |outcome: &Option<_>| {
        matches!(outcome, Some((ErrorKind::Unavailable | ErrorKind::Interrupted, Scope::Endpoint)))
    };
    assert!(down.iter().all(is_down), "{down:?}");
    receiver.restart().await;
    assert_eq!(outcomes().await[0], None);
}

#[tokio::test]
async fn a_url_in_a_message_is_used_only_where_that_is_allowed() {
    let (receiver, customer) = (Receiver::start().await, Receiver::start().await);
    let to_customer = || message("x").options(&WebhookOptions::new().url(customer.url("/own/s3cret")));
    let endpoint = || endpoint(&receiver).secret(SECRET).header("x-api-key", "17");
    let strict = builder().default_endpoint(endpoint()).build().unwrap();
    let https_only = builder().default_endpoint(endpoint()).message_urls(MessageUrls::new()).build().unwrap();
    for publisher in [strict, https_only] {
        let error = publish(&publisher, to_customer()).await.unwrap_err();
        assert_eq!(judged(&error), (ErrorKind::Malformed, Verdict::Permanent, Scope::Message));
        assert!(!error.report().contains("s3cret"), "{}", error.report());
    }
    assert_eq!(customer.connections(), 0);

    let urls = MessageUrls::new().plaintext(true).secret(OTHER_SECRET);
    let open = builder().default_endpoint(endpoint()).message_urls(urls).build().unwrap();
    publish(&open, to_customer()).await.unwrap();
    publish(&open, message("y")).await.unwrap();
    let delivery = customer.deliveries().remove(0);
    assert_eq!(delivery.path, "/own/s3cret");
    // What belongs to the endpoint stays with the endpoint.
    assert!(delivery.is_signed_by(OTHER_SECRET) && !delivery.is_signed_by(SECRET));
    assert_eq!(delivery.header("x-api-key"), None);
    assert!(receiver.deliveries().remove(0).is_signed_by(SECRET));
    // Its failures show the host and nothing else of the URL.
    customer.set(Fault::Status(404));
    let error = publish(&open, to_customer()).await.unwrap_err();
    assert!(
        error.report().contains("endpoint: 127.0.0.1") && !error.report().contains("s3cret"),
        "{}",
        error.report()
    );
}

/// Resolves every name to some addresses, and remembers what was asked.
struct Names(Vec<IpAddr>, Mutex<Vec<String>>);

impl Names {
    fn new(addresses: &[&str]) -> Self {
        Self(addresses.iter().map(|address| address.parse().unwrap()).collect(), Mutex::default())
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        self.1.lock().unwrap().push(host.to_owned());
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_gets_no_request() {
    let receiver = Receiver::start().await;
    let url = format!("http://customer.example:{}/hooks", receiver.address().port());
    let with = |builder: WebhookPublisherBuilder, addresses: &[&str]| {
        builder.default_endpoint(Endpoint::new(url.clone())).resolver(Names::new(addresses)).build().unwrap()
    };
    let guarded = with(WebhookPublisher::builder(), &["127.0.0.1", "::1", "169.254.169.254"]);
    for error in [failure(&guarded).await, guarded.check().await.unwrap_err()] {
        assert_eq!(judged(&error), (ErrorKind::Permission, Verdict::Retry, Scope::Endpoint));
        let text = error.report();
        assert!(text.contains("allowed_networks") && text.contains("127.0.0.1"), "{text}");
    }
    assert_eq!(receiver.connections(), 0);
    let allowed = with(builder(), &["10.0.0.1", "127.0.0.1"]);
    publish(&allowed, message("x")).await.unwrap();
    assert_eq!(
        receiver.deliveries()[0].header("host"),
        Some(&*format!("customer.example:{}", receiver.address().port()))
    );
}

#[tokio::test]
async fn tls_trusts_the_given_authority_shows_a_certificate_and_uses_one_connection_for_all() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let receiver = Receiver::start_with_tls(&authority.issue("receiver.example"), Some(&clients)).await;
    let ours = clients.issue("relay.example");
    let base = |host: &str| {
        let url = format!("https://{host}:{}/hooks", receiver.address().port());
        builder().resolver(Names::new(&["127.0.0.1"])).default_endpoint(Endpoint::new(url).secret(SECRET))
    };
    let good =
        base("receiver.example").authorities(authority.pem()).client_certificate(&*ours.pem, &*ours.key);
    let good = good.build().unwrap();
    good.check().await.unwrap();
    publish(&good, message("first")).await.unwrap();
    let connections = receiver.connections();
    let batch: Vec<_> = (0..16).map(|i| message(&i.to_string()).build().unwrap()).collect();
    for outcome in good.publish(&batch).await {
        outcome.unwrap();
    }
    let deliveries = receiver.deliveries();
    assert!(
        deliveries.iter().all(|delivery| delivery.version == "HTTP/2.0" && delivery.is_signed_by(SECRET))
    );
    assert_eq!((deliveries.len(), receiver.connections()), (17, connections));

    let taken = receiver.taken();
    let other = base("other.example").authorities(authority.pem()).client_certificate(&*ours.pem, &*ours.key);
    let untrusting = base("receiver.example")
        .authorities(Authority::new().pem())
        .client_certificate(&*ours.pem, &*ours.key);
    for (what, publisher) in [("another name", other), ("an unknown authority", untrusting)] {
        let publisher = publisher.build().unwrap();
        let error = failure(&publisher).await;
        assert_eq!(judged(&error), (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint), "{what}");
        assert!(error.report().contains("certificate"), "{what}: {}", error.report());
        assert_eq!(publisher.check().await.unwrap_err().kind(), ErrorKind::Unavailable, "{what}");
    }
    // With TLS 1.3 the server says that it misses a certificate when the client believes to be connected.
    let anonymous = base("receiver.example").authorities(authority.pem()).build().unwrap();
    let error = failure(&anonymous).await;
    assert_eq!(error.scope(), Scope::Endpoint, "{}", error.report());
    assert_eq!(receiver.taken(), taken);
}

#[tokio::test]
async fn a_silent_http2_connection_is_not_used_again() {
    let authority = Authority::new();
    let certificate = authority.issue("receiver.example");
    with_growing_limit(async |limit| {
        let receiver = Receiver::start_with_tls(&certificate, None).await;
        let proxy = receiver.proxy().await;
        let endpoint = Endpoint::new(format!("https://receiver.example:{}/hooks", proxy.port()));
        let publisher = builder()
            .resolver(Names::new(&["127.0.0.1"]))
            .authorities(authority.pem())
            .default_endpoint(endpoint)
            .call_timeout(limit)
            .build()
            .unwrap();
        publish(&publisher, message("first")).await.map_err(|error| error.report())?;
        proxy.set(Mode::Vanish).await;
        // Pings find out before the time of the call is over.
        let error = failure(&publisher).await;
        if judged(&error) != (ErrorKind::Interrupted, Verdict::Unknown, Scope::Endpoint) {
            return Err(error.report());
        }
        proxy.set(Mode::Pass).await;
        publish(&publisher, message("last")).await.map_err(|error| error.report())
    })
    .await;
}

#[tokio::test]
async fn check_finds_an_endpoint_that_cannot_be_reached() {
    let (receiver, away) = (Receiver::start().await, Receiver::start().await);
    let publisher = builder()
        .endpoint("a", Endpoint::new(receiver.url("/s3cret")))
        .endpoint("b", Endpoint::new(away.url("/s3cret")))
        .build()
        .unwrap();
    publisher.check().await.unwrap();
    away.kill().await;
    let error = publisher.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.report();
    assert!(text.contains("endpoint: b") && text.contains(&away.address().to_string()), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    assert_eq!(receiver.requests(), 0);
}
