//! The harness itself, on a real RabbitMQ: a test that relies on a failure must be able to rely on the
//! harness.

#![allow(clippy::unwrap_used, reason = "the functions next to the tests are test code")]

use std::time::Duration;

use integration_tests::rabbitmq::Vhost;
use integration_tests::{Mode, RabbitMq, Server, eventually};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const DEADLINE: Duration = Duration::from_secs(120);
/// For an event that must not happen. Long compared with a round trip on one machine.
const IN_VAIN: Duration = Duration::from_millis(300);

async fn confirming(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    channel
}

/// Publishes a persistent message, and waits for the broker to confirm it.
async fn publish(channel: &Channel, queue: &str, payload: &str) -> Result<(), lapin::Error> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let confirm =
        channel.basic_publish("".into(), queue.into(), options, payload.as_bytes(), properties).await?;
    assert!(confirm.await?.is_ack());
    Ok(())
}

async fn connect(uri: &str) -> Result<Connection, lapin::Error> {
    Connection::connect(uri, ConnectionProperties::default()).await
}

async fn payloads(vhost: &Vhost, queue: &str, count: usize) -> Vec<String> {
    let deliveries = vhost.consume(queue, count, DEADLINE).await;
    deliveries.into_iter().map(|delivery| String::from_utf8(delivery.data).unwrap()).collect()
}

#[tokio::test]
async fn virtual_hosts_of_two_tests_do_not_see_each_other() {
    let Some(rabbitmq) = RabbitMq::shared().await else { return };
    let (one, other) = (rabbitmq.vhost().await, rabbitmq.vhost().await);
    one.declare_queue("orders").await;
    other.declare_queue("orders").await;
    let connection = one.connect().await;
    let channel = confirming(&connection).await;
    for payload in ["a", "b", "c"] {
        publish(&channel, "orders", payload).await.unwrap();
    }
    assert_eq!(one.queue_depth("orders").await, 3);
    assert_eq!(other.queue_depth("orders").await, 0);
    assert_eq!(payloads(&one, "orders", 3).await, ["a", "b", "c"]);
    assert_eq!(one.queue_depth("orders").await, 0);
}

#[tokio::test]
async fn a_virtual_host_goes_with_its_value() {
    let Some(rabbitmq) = RabbitMq::shared().await else { return };
    let vhost = rabbitmq.vhost().await;
    let uri = vhost.uri().to_owned();
    connect(&uri).await.unwrap().close(200, "done".into()).await.unwrap();
    drop(vhost);
    eventually("the virtual host to be deleted", DEADLINE, || async { connect(&uri).await.err().map(drop) })
        .await;
}

#[tokio::test]
async fn what_was_confirmed_outlives_a_kill() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("orders").await;
    let connection = vhost.connect().await;
    let channel = confirming(&connection).await;
    publish(&channel, "orders", "kept").await.unwrap();

    rabbitmq.sync_declarations().await;
    rabbitmq.kill().await;
    publish(&channel, "orders", "lost").await.unwrap_err();
    connect(vhost.uri()).await.unwrap_err();

    rabbitmq.restart().await;
    assert_eq!(payloads(&vhost, "orders", 1).await, ["kept"]);
    assert_eq!(vhost.queue_depth("orders").await, 0);

    // The broker does not answer while it is stopped, and answers everything afterwards.
    let connection = vhost.connect().await;
    let channel = confirming(&connection).await;
    rabbitmq.stop().await;
    {
        let confirmed = publish(&channel, "orders", "late");
        tokio::pin!(confirmed);
        assert!(
            tokio::time::timeout(IN_VAIN, &mut confirmed).await.is_err(),
            "confirmed by a stopped server"
        );
        assert!(
            tokio::time::timeout(IN_VAIN, connect(vhost.uri())).await.is_err(),
            "greeted by a stopped server"
        );
        rabbitmq.cont().await;
        tokio::time::timeout(DEADLINE, confirmed).await.unwrap().unwrap();
    }
    assert_eq!(vhost.queue_depth("orders").await, 1);

    rabbitmq.set_memory_alarm(true).await;
    let publisher = vhost.connect().await;
    let channel = confirming(&publisher).await;
    {
        let confirmed = publish(&channel, "orders", "blocked");
        tokio::pin!(confirmed);
        assert!(
            tokio::time::timeout(IN_VAIN, &mut confirmed).await.is_err(),
            "confirmed under a memory alarm"
        );
        rabbitmq.set_memory_alarm(false).await;
        tokio::time::timeout(DEADLINE, confirmed).await.unwrap().unwrap();
    }
    assert_eq!(payloads(&vhost, "orders", 2).await, ["late", "blocked"]);
}

#[tokio::test]
async fn the_proxy_stands_between_client_and_server() {
    let Some(rabbitmq) = RabbitMq::shared().await else { return };
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("orders").await;
    let proxy = rabbitmq.proxy().await;
    let uri = vhost.uri_through(&proxy);
    let connection = connect(&uri).await.unwrap();
    let channel = confirming(&connection).await;
    publish(&channel, "orders", "passed").await.unwrap();

    // The broker has the message, and the publisher does not learn of it.
    proxy.set(Mode::CutAnswersAfter(0)).await;
    publish(&channel, "orders", "unknown").await.unwrap_err();
    assert_eq!(payloads(&vhost, "orders", 2).await, ["passed", "unknown"]);

    proxy.set(Mode::Pass).await;
    let connection = connect(&uri).await.unwrap();
    let channel = confirming(&connection).await;
    proxy.set(Mode::Blackhole).await;
    {
        let confirmed = publish(&channel, "orders", "late");
        tokio::pin!(confirmed);
        assert!(
            tokio::time::timeout(IN_VAIN, &mut confirmed).await.is_err(),
            "confirmed through a black hole"
        );
        assert_eq!(vhost.queue_depth("orders").await, 0);
        proxy.set(Mode::Pass).await;
        tokio::time::timeout(DEADLINE, confirmed).await.unwrap().unwrap();
    }
    assert_eq!(payloads(&vhost, "orders", 1).await, ["late"]);
}
