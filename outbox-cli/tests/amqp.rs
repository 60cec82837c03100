//! What the program does with RabbitMQ beyond relaying: what it logs of messages that fail, and TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::path::Path;

use integration_tests::{Environment, Mode, RabbitMq, Server, Subprocess, eventually};
use support::{DEADLINE, Place};

fn settings(publisher: &str) -> String {
    format!(
        "\
[[route]]

[route.store]
type = \"sqlite\"
path = \"shop.db\"

[route.publisher]
type = \"amqp\"
{publisher}

[route.relay.retry]
max_attempts = 3
initial = \"10ms\"
"
    )
}

/// Enqueues a message for each line of JSON.
fn enqueue(place: &Place, lines: &str) {
    let mut command = assert_cmd::Command::from_std(place.command(&["enqueue"]));
    command.write_stdin(lines).timeout(DEADLINE).assert().success();
}

/// Every way in which a message can fail, and the connection with it.
#[tokio::test]
async fn payloads_headers_and_passwords_are_in_no_log_while_everything_fails() {
    const MARKER: &str = "m4rker";
    let Some(rabbitmq) = RabbitMq::shared().await else { return };
    let vhost = rabbitmq.vhost().await;
    let user = vhost.name();
    let password = r#"{"password":"m4rker-of-the-password","tags":""}"#;
    rabbitmq.management("PUT", &format!("/api/users/{user}"), Some(password)).await;
    let rights = r#"{"configure":"","write":"^amq\\.(default|topic)$","read":""}"#;
    rabbitmq.management("PUT", &format!("/api/permissions/{user}/{user}"), Some(rights)).await;
    vhost.declare_queue("good").await;
    let proxy = rabbitmq.proxy().await;
    let url = vhost.uri_through(&proxy).replace("guest:guest", &format!("{user}:m4rker-of-the-password"));
    let place = Place::new(&settings(&format!("url = \"{url}\"\nmax_message_bytes = 2000")));
    place.run(&["migrate"]);

    let line = |topic: &str, options: &str, padding: usize| {
        let payload = format!("m4rker-of-the-payload{}", "x".repeat(padding));
        format!(
            "{{\"topic\":\"{topic}\",\"payload\":\"{payload}\",\"headers\":{{\"secret\":\"m4rker-of-a-header\"}},\
             \"options\":{{\"amqp\":{{{options}}}}}}}\n"
        )
    };
    let mut lines = String::new();
    for _ in 0..20 {
        lines.push_str(&line("nowhere", "", 0));
        lines.push_str(&line("t", "\"exchange\":\"missing\"", 0));
        lines.push_str(&line("t", "\"exchange\":\"amq.fanout\"", 0));
        lines.push_str(&line("t", "\"exchange\":\"own\",\"exchange_type\":\"topic\"", 0));
        lines.push_str(&line("t", "\"exchange\":\"amq.topic\",\"routing_key\":\"unbound\"", 0));
        lines.push_str(&line("t", "\"reply_to\":\"amq.rabbitmq.reply-to\"", 0));
        lines.push_str(&line("t", "", 3_000));
        lines.push_str(&line("good", "", 0));
    }
    enqueue(&place, &lines);
    let relay = Subprocess::start("outbox-relay", place.command(&["relay"]));
    let settled = || async {
        let status: serde_json::Value = serde_json::from_str(&place.run(&["status", "--json"])).unwrap();
        status.to_string().contains("\"dead_letters\":{\"at_least\":false,\"count\":140}").then_some(())
    };
    eventually("the dead letters", DEADLINE, settled).await;
    // The ones that were unconfirmed when another message closed their channel may have a second copy.
    let delivered = vhost.queue_depth("good").await;
    assert!((20..=40).contains(&delivered), "{delivered} copies of 20 messages");
    // And the connection breaks.
    for mode in [Mode::Reset, Mode::CutAnswersAfter(0), Mode::Refuse] {
        proxy.set(mode).await;
        enqueue(&place, &line("good", "", 0));
        eventually("the relay's notice", DEADLINE, || async {
            relay.log().contains("the broker fails").then_some(())
        })
        .await;
        proxy.set(Mode::Pass).await;
    }
    eventually("the last messages", DEADLINE, || async {
        (vhost.queue_depth("good").await >= delivered + 3).then_some(())
    })
    .await;
    rabbitmq.management("DELETE", &format!("/api/users/{user}"), None).await;

    let log = relay.log();
    assert!(!log.contains(MARKER), "{log}");
    // A line for each failing destination, not for each message or attempt.
    let destinations = log.lines().filter(|line| line.contains("messages are not delivered")).count();
    assert!((6..=12).contains(&destinations), "{destinations} lines in\n{log}");
    for part in ["exchange=\"missing\"", "exchange=\"amq.fanout\"", "queue=\"nowhere\"", "unroutable"] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
}

#[tokio::test]
async fn a_client_certificate_opens_the_broker() {
    // The certificates go into the running server, so its own ports must be ours.
    let environment = Environment::of_process().with("OUTBOX_TEST_MODE", "process");
    let Some(rabbitmq) = RabbitMq::start_in(environment).await else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let der = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        format!("base64:decode(\"{lines}\")")
    };
    let listen = format!(
        "rabbit_networking:start_ssl_listener({{\"127.0.0.1\", {port}}}, [{{cert, {}}}, \
         {{key, {{'PrivateKeyInfo', {}}}}}, {{cacerts, [{}]}}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, true}}], 1).",
        der("server.pem"),
        der("server.key"),
        der("authority.pem"),
    );
    assert_eq!(rabbitmq.ctl(&["eval", &listen]).await.trim(), "ok");

    let file = |name: &str| folder.join(name).display().to_string();
    let url = format!("url = \"amqps://guest:guest@localhost:{port}\"");
    let ca = format!("ca_file = {:?}", file("authority.pem"));
    let own = format!(
        "client_certificate_file = {:?}\nclient_key_file = {:?}",
        file("client.pem"),
        file("client.key")
    );
    for (lines, opens) in [
        (format!("{url}\n{ca}\n{own}"), true),
        // The broker wants a certificate, and we want its authority to be known.
        (format!("{url}\n{ca}"), false),
        (format!("{url}\n{own}"), false),
    ] {
        let place = Place::new(&settings(&lines));
        place.run(&["migrate"]);
        place.run(&["config", "check"]);
        let output =
            assert_cmd::Command::from_std(place.command(&["doctor"])).timeout(DEADLINE).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.success(),
            opens,
            "{lines}\n{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
