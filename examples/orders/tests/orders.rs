//! The service ships every order once, stops cleanly, and survives an outage of the broker. The tests run the program
//! as a user does.

// Helpers fail as loudly as the tests that call them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use integration_tests::postgres::Database;
use integration_tests::rabbitmq::Vhost;
use integration_tests::{Postgres, RabbitMq, Server, Subprocess, eventually};
use outbox::amqp::lapin::BasicProperties;
use outbox::amqp::lapin::options::BasicPublishOptions;
use outbox::postgres::sqlx;
use rustix::process::{Pid, Signal, kill_process};

/// For what takes a second or two on an idle machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// The built program, without the variables that it reads.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
    for variable in ["DATABASE_URL", "AMQP_URL", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn orders_says_which_setting_is_missing() {
    for (arguments, missing) in
        [(&[][..], "DATABASE_URL"), (&["--postgres", "postgres://nobody@127.0.0.1:1/none"], "AMQP_URL")]
    {
        let output = program().args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(missing), "{missing} is missing in: {text}");
    }
}

/// The URLs go by the arguments, or by the environment.
fn orders(database: &Database, vhost: &Vhost, arguments: &[&str]) -> Subprocess {
    let mut command = program();
    if arguments.is_empty() {
        command.env("DATABASE_URL", database.url()).env("AMQP_URL", vhost.uri());
    } else {
        command.args(["--postgres", database.url(), "--amqp", vhost.uri()]).args(arguments);
    }
    Subprocess::start("orders", command)
}

async fn count(database: &Database, table_and_condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table_and_condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&database.pool(1).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_ships_every_order_once_and_stops_by_itself() {
    let Some(postgres) = Postgres::shared().await else { return };
    let Some(rabbitmq) = RabbitMq::shared().await else { return };
    let (database, vhost) = (postgres.database().await, rabbitmq.vhost().await);

    let mut first = orders(&database, &vhost, &["--orders", "20", "--pause", "5"]);
    let status = first.wait(DEADLINE).await;
    let log = first.log();
    assert!(status.success(), "{status}\n{log}");
    assert!(
        log.contains("20 orders placed; 20 shipped, 0 duplicates dropped, 0 deliveries refused"),
        "{log}"
    );
    for order in 1..=20 {
        let line = format!("warehouse: order {order} is shipped");
        assert_eq!(log.lines().filter(|other| **other == line).count(), 1, "{line}:\n{log}");
    }
    assert_eq!(count(&database, "warehouse_order WHERE shipped_at IS NOT NULL").await, 20);
    assert_eq!(count(&database, "processed_message").await, 40);
    assert_eq!(count(&database, "outbox_message").await, 0);
    assert_eq!(vhost.queue_depth("warehouse").await, 0);

    // What a relay does that died before it could record the broker's confirm, and one message of a stranger.
    let duplicate: sqlx::types::Uuid = sqlx::query_scalar("SELECT message_id FROM processed_message LIMIT 1")
        .fetch_one(&database.pool(1).await)
        .await
        .unwrap();
    publish(&vhost, &BasicProperties::default().with_message_id(duplicate.to_string().into())).await;
    publish(&vhost, &BasicProperties::default()).await;

    let mut second = orders(&database, &vhost, &["--orders", "3", "--pause", "5"]);
    let status = second.wait(DEADLINE).await;
    let log = second.log();
    assert!(status.success(), "{status}\n{log}");
    assert!(log.contains("3 orders placed; 3 shipped, 1 duplicates dropped, 1 deliveries refused"), "{log}");
    assert_eq!(count(&database, "warehouse_order").await, 23);
    eventually("the refused delivery", DEADLINE, || async {
        (vhost.queue_depth("warehouse-refused").await == 1).then_some(())
    })
    .await;
}

async fn publish(vhost: &Vhost, properties: &BasicProperties) {
    let options = BasicPublishOptions::default();
    let channel = vhost.channel().await;
    let sent =
        channel.basic_publish("shop".into(), "order.placed".into(), options, b"?", properties.clone()).await;
    sent.unwrap();
    // One answer from the server says that it has read what was sent before.
    channel.close(200, "sent".into()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_stops_in_good_order_on_ctrl_c_and_on_a_request_to_terminate() {
    let Some(postgres) = Postgres::shared().await else { return };
    let Some(rabbitmq) = RabbitMq::shared().await else { return };
    let (database, vhost) = (postgres.database().await, rabbitmq.vhost().await);

    for signal in [Signal::INT, Signal::TERM] {
        let mut endless = orders(&database, &vhost, &[]);
        eventually("a shipped order", DEADLINE, || async {
            assert!(endless.log().lines().all(|line| !line.starts_with("error")), "{}", endless.log());
            endless.log().contains("is shipped").then_some(())
        })
        .await;
        let pid = Pid::from_raw(i32::try_from(endless.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let status = endless.wait(DEADLINE).await;
        let log = endless.log();
        assert!(status.success(), "{signal:?}: {status}\n{log}");
        assert!(log.contains("orders placed; "), "{log}");
        // Leases that were not given back would keep the next relay waiting.
        assert_eq!(count(&database, "outbox_relay").await, 0, "{log}");
    }

    // What the stops have left over is not lost.
    let left_over: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM shop_order")
        .fetch_one(&database.pool(1).await)
        .await
        .unwrap();
    let unshipped = format!(
        "shop_order WHERE id <= {} AND id NOT IN
             (SELECT order_id FROM warehouse_order WHERE shipped_at IS NOT NULL)",
        left_over.unwrap()
    );
    let mut last = orders(&database, &vhost, &[]);
    eventually("all orders to be shipped", DEADLINE, || async {
        // Nothing may be left over; but what has shipped an order is surely listening for signals.
        (last.log().contains("is shipped") && count(&database, &unshipped).await == 0).then_some(())
    })
    .await;
    last.terminate();
    let status = last.wait(DEADLINE).await;
    assert!(status.success(), "{status}\n{}", last.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_goes_on_through_an_outage_of_the_broker_and_loses_nothing() {
    let Some(postgres) = Postgres::shared().await else { return };
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    let (database, vhost) = (postgres.database().await, rabbitmq.vhost().await);
    let mut endless = orders(&database, &vhost, &[]);
    let says = async |text: &str| {
        eventually(text, DEADLINE, || async { endless.log().contains(text).then_some(()) }).await;
    };
    says("is shipped").await;
    rabbitmq.sync_declarations().await;
    rabbitmq.kill().await;
    says("relay: the broker is down").await;
    // The shop sells all the same.
    let before = count(&database, "shop_order").await;
    eventually("five more orders", DEADLINE, || async {
        (count(&database, "shop_order").await >= before + 5).then_some(())
    })
    .await;
    rabbitmq.restart().await;
    says("relay: the broker is back").await;

    let during = format!(
        "shop_order WHERE id <= {before} + 5 AND id NOT IN
             (SELECT order_id FROM warehouse_order WHERE shipped_at IS NOT NULL)"
    );
    eventually("the orders of the outage to be shipped", DEADLINE, || async {
        (count(&database, &during).await == 0).then_some(())
    })
    .await;
    endless.terminate();
    let status = endless.wait(DEADLINE).await;
    let log = endless.log();
    assert!(status.success(), "{status}\n{log}");
    assert!(log.contains(" 0 deliveries refused"), "{log}");
    assert_eq!(count(&database, "outbox_dead_letter").await, 0, "{log}");
}
