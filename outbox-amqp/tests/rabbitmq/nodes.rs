//! Several nodes of one cluster.

use std::time::Duration;

use integration_tests::{Mode, RabbitMq, Server};
use outbox_core::{ErrorKind, Publisher, Scope, Verdict};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::{SOON, assert_error, builder, message, publish_eventually, publish_one, vhost};

/// A node that accepts connections and says nothing.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("amqp://guest:s3cret@{}/v", listener.local_addr().unwrap());
    (listener, uri)
}

fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("amqp://guest:s3cret@{}/v", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_silent_node_leaves_time_for_the_others() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("t").await;
    let (_listener, silent) = silent().await;
    let limit = Duration::from_secs(6);
    // Whichever is the first: by chance.
    for _ in 0..4 {
        let publisher =
            builder(&silent).node(&refusing()).node(vhost.uri()).connect_timeout(limit).build().unwrap();
        let started = Instant::now();
        publisher.connect().await.unwrap();
        assert!(started.elapsed() < limit, "{:?}", started.elapsed());
        publish_one(&publisher, message("t", "x")).await.unwrap();
    }
}

#[tokio::test]
async fn after_a_break_the_latest_node_comes_first_and_then_the_others() {
    let Some(vhost) = vhost().await else { return };
    vhost.declare_queue("t").await;
    let rabbitmq = RabbitMq::shared().await.unwrap();
    let proxies = [rabbitmq.proxy().await, rabbitmq.proxy().await, rabbitmq.proxy().await];
    let uris = proxies.each_ref().map(|proxy| vhost.uri_through(proxy));
    let publisher = builder(&uris[0]).node(&uris[1]).node(&uris[2]).connect_timeout(SOON).build().unwrap();
    // Only one node is up at first.
    proxies[0].set(Mode::Refuse).await;
    proxies[2].set(Mode::Refuse).await;
    publish_one(&publisher, message("t", "1")).await.unwrap();
    proxies[0].set(Mode::Pass).await;
    proxies[2].set(Mode::Pass).await;
    for _ in 0..5 {
        publisher.close().await;
        publish_one(&publisher, message("t", "2")).await.unwrap();
        // The others are up, and still this one is used: without it there is nothing to break.
        proxies[1].set(Mode::Reset).await;
        let outcome = publish_one(&publisher, message("t", "3")).await;
        assert!(outcome.is_err(), "another node was used");
        proxies[1].set(Mode::Pass).await;
        publish_eventually(&publisher, &message("t", "4")).await;
        // It may have gone to another one; back to the second.
        proxies[0].set(Mode::Refuse).await;
        proxies[2].set(Mode::Refuse).await;
        publisher.close().await;
        publish_eventually(&publisher, &message("t", "5")).await;
        proxies[0].set(Mode::Pass).await;
        proxies[2].set(Mode::Pass).await;
    }
    // It is gone for good: another one takes over.
    proxies[1].set(Mode::Refuse).await;
    publish_eventually(&publisher, &message("t", "6")).await;
}

#[tokio::test]
async fn the_error_names_every_address_that_was_tried() {
    let (_listener, silent) = silent().await;
    let (first, second) = (refusing(), refusing());
    // The order is random: in some rounds the silent one is the last, so that the time ends before the next attempt.
    for round in 0..5 {
        let publisher = builder(&first)
            .node(&second)
            .node(&silent)
            .connect_timeout(Duration::from_secs(2))
            .build()
            .unwrap();
        let outcome = publish_one(&publisher, message("t", "x")).await;
        let error = assert_error(&outcome, ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
        let report = error.report();
        for uri in [&first, &second, &silent] {
            let address = uri.split(['@', '/']).nth(3).unwrap();
            assert!(report.contains(&format!("{address}: ")), "round {round}: {address} is not in {report}");
        }
        assert!(
            report.contains("no answer in time") && !report.contains("s3cret"),
            "round {round}: {report}"
        );
    }
}
