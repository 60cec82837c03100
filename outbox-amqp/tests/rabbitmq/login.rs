//! Getting in, and not getting in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use integration_tests::{Mode, RabbitMq, Server, with_growing_limit};
use lapin::{Connection, ConnectionProperties};
use outbox_amqp::{AmqpPublisher, Queue};
use outbox_core::{Error, ErrorKind, Publisher, Scope, Verdict};
use tokio::time::Instant;

use crate::support::{SOON, assert_error, builder, message, publish_eventually, publish_one, vhost};

/// What a relay and `connect` say about a URI.
async fn refusal(uri: &str) -> Error {
    let publisher = builder(uri).build().unwrap();
    let asked = publisher.connect().await.unwrap_err();
    let error = publish_one(&publisher, message("t", "x")).await.unwrap_err();
    assert_eq!(asked.report(), error.report());
    assert_eq!((error.verdict(), error.scope()), (Verdict::Retry, Scope::Endpoint));
    assert!(!format!("{error:?} {publisher:?}").contains("s3cret"), "{error:?}");
    error
}

#[tokio::test]
async fn refusals_are_told_apart_and_hide_the_password() {
    let Some(vhost) = vhost().await else { return };
    let rabbitmq = RabbitMq::shared().await.unwrap();
    let address = rabbitmq.address();
    let user = vhost.name();
    let json = r#"{"password":"s3cret","tags":""}"#;
    rabbitmq.management("PUT", &format!("/api/users/{user}"), Some(json)).await;

    let wrong_password = refusal(&format!("amqp://{user}:s3cret-not@{address}/{user}")).await;
    assert_eq!(wrong_password.kind(), ErrorKind::Permission);
    let not_allowed = refusal(&format!("amqp://{user}:s3cret@{address}/{user}")).await;
    assert_eq!(not_allowed.kind(), ErrorKind::Permission);
    let missing = refusal(&format!("amqp://guest:guest@{address}/no-such-vhost")).await;
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    for error in [&wrong_password, &not_allowed, &missing] {
        assert!(error.to_string().contains(&format!("broker: amqp://{address}, vhost: ")), "{error}");
    }
    rabbitmq.management("DELETE", &format!("/api/users/{user}"), None).await;
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_reported_at_once() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let started = Instant::now();
    let error = refusal(&format!("amqp://guest:s3cret@{closed}")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // No timeout was waited for.
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());

    let error = refusal("amqp://guest:s3cret@no-such-host.invalid").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

/// The client library can miss a connection that is refused before it has begun to wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_refused_connection_is_missed() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let attempts = (0..300).map(|_| async {
        let publisher = builder(&format!("amqp://guest:guest@{closed}")).build().unwrap();
        let report = publisher.connect().await.unwrap_err().report();
        assert!(report.contains("refused"), "{report}");
    });
    join_all(attempts).await;
}

#[tokio::test]
async fn something_that_is_no_broker_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    assert_eq!(refusal(&format!("amqp://guest:s3cret@{address}")).await.kind(), ErrorKind::Unavailable);
    server.abort();
}

#[tokio::test]
async fn calls_at_the_same_time_share_one_attempt() {
    let Some(vhost) = vhost().await else { return };
    let proxy = RabbitMq::shared().await.unwrap().proxy().await;
    vhost.declare_queue("t").await;
    with_growing_limit(async |limit| {
        proxy.set(Mode::Blackhole).await;
        let publisher = builder(&vhost.uri_through(&proxy)).channels(16).connect_timeout(limit);
        let publisher = publisher.build().unwrap();
        let started = Instant::now();
        let outcomes = join_all((0..16).map(|_| publish_one(&publisher, message("t", "x")))).await;
        let took = started.elapsed();
        proxy.set(Mode::Pass).await;
        for outcome in &outcomes {
            let error = assert_error(outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
            assert!(error.to_string().contains(&format!("connect_timeout: {limit:?}")), "{error}");
        }
        publish_eventually(&publisher, &message("t", "x")).await;
        // One attempt after the other would take sixteen times the limit.
        if took < limit * 2 { Ok(()) } else { Err(format!("the calls took {took:?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_connector_of_the_user_s_own_is_asked_again_after_a_loss() {
    let Some(vhost) = vhost().await else { return };
    let proxy = RabbitMq::shared().await.unwrap().proxy().await;
    let dials = Arc::new(AtomicUsize::new(0));
    let connector = {
        let (uri, dials) = (vhost.uri_through(&proxy), Arc::clone(&dials));
        move |properties: ConnectionProperties| {
            dials.fetch_add(1, Ordering::Relaxed);
            let uri = uri.clone();
            async move { Connection::connect(&uri, properties).await }
        }
    };
    let publisher =
        AmqpPublisher::with_connector(connector).declare_queue(Queue::classic("t")).build().unwrap();
    publish_one(&publisher, message("t", "1")).await.unwrap();
    publish_one(&publisher, message("t", "2")).await.unwrap();
    assert_eq!(dials.load(Ordering::Relaxed), 1);

    proxy.set(Mode::Reset).await;
    publish_one(&publisher, message("t", "3")).await.unwrap_err();
    proxy.set(Mode::Pass).await;
    publish_eventually(&publisher, &message("t", "4")).await;
    assert!(dials.load(Ordering::Relaxed) >= 2);
    publisher.close().await;
    publish_one(&publisher, message("t", "5")).await.unwrap();
}

#[tokio::test]
async fn the_connection_bears_its_name_and_closes_with_the_publisher() {
    let Some(vhost) = vhost().await else { return };
    let rabbitmq = RabbitMq::shared().await.unwrap();
    vhost.declare_queue("t").await;
    let name = format!("relay of {}", vhost.name());
    let connected = || async {
        let list = rabbitmq.management("GET", "/api/connections?columns=client_properties", None).await;
        list.contains(&name)
    };
    let publisher = builder(vhost.uri()).connection_name(name.as_str()).build().unwrap();
    for close in [true, false] {
        publish_one(&publisher, message("t", "x")).await.unwrap();
        let connected = &connected;
        integration_tests::eventually("the connection to be listed", SOON, || async move {
            connected().await.then_some(())
        })
        .await;
        if close {
            publisher.close().await;
            integration_tests::eventually("the connection to end", SOON, || async move {
                (!connected().await).then_some(())
            })
            .await;
        }
    }
    drop(publisher);
    integration_tests::eventually("the connection to end", SOON, || async {
        (!connected().await).then_some(())
    })
    .await;
}
