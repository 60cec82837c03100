//! What a running relay serves by HTTP, and to whom.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use integration_tests::{Subprocess, eventually};
use serde_json::{Value, json};
use support::{DEADLINE, ON_SQLITE, Place, served_at};

const TOKEN: &str = "a-token-for-this-test";

struct Relay {
    process: Subprocess,
    address: String,
    place: Place,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.body))
    }
}

impl Relay {
    /// With three dead letters, unless something else is wanted of it.
    async fn start(settings: &str) -> Self {
        let store = ON_SQLITE.replace("terminal\"", "terminal\"\nrefuse = [\"lost\"]");
        let place = Place::new(&format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n{settings}\n{store}[route.relay]\nkey_order = \"progress\"\n\
             stats_interval = \"100ms\"\n[route.relay.retry]\nmax_attempts = 1\n"
        ));
        place.run(&["migrate"]);
        let mut command = place.command(&["relay", "--set", "log.format=json"]);
        command.env("OUTBOX__HTTP__TOKEN", TOKEN);
        if settings.contains("no token") {
            command.env_remove("OUTBOX__HTTP__TOKEN");
        }
        let process = Subprocess::start("outbox-relay", command);
        let address = eventually("the address", DEADLINE, || async { served_at(&process.log()) }).await;
        let relay = Self { process, address, place };
        eventually("readiness", DEADLINE, || async { (relay.get("/readyz").status == 200).then_some(()) })
            .await;
        relay
    }

    async fn with_dead_letters(settings: &str) -> Self {
        let relay = Self::start(settings).await;
        for payload in ["1", "2", "3"] {
            relay.place.run(&["enqueue", "lost", payload, "--key", payload]);
        }
        eventually("three dead letters", DEADLINE, || async {
            (relay.get("/api/v1/status").json()["routes"][0]["dead_letters"]["count"] == 3).then_some(())
        })
        .await;
        relay
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.ask("POST", path, headers, &body.to_string())
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "Host") {
            request.push_str(&format!("Host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }
}

const JSON: (&str, &str) = ("Content-Type", "application/json");
const BEARER: (&str, &str) = ("Authorization", "Bearer a-token-for-this-test");
const REDRIVE: &str = "/api/v1/routes/default/dead-letters/redrive";
const DISCARD: &str = "/api/v1/routes/default/dead-letters/discard";

#[tokio::test]
async fn metrics_and_health_tell_what_the_relay_does() {
    let mut relay = Relay::with_dead_letters("").await;
    assert_eq!((relay.get("/healthz").status, relay.get("/healthz").body.as_str()), (200, "ok\n"));
    let ready = relay.get("/readyz").json();
    assert_eq!(ready["routes"], json!([{ "route": "default", "joined": true, "circuit_open": false }]));
    relay.place.run(&["enqueue", "order.placed", "x"]);
    let metrics = eventually("a confirmed message", DEADLINE, || async {
        let metrics = relay.get("/metrics").body;
        metrics
            .contains("outbox_confirmed_total{store=\"sqlite\",publisher=\"terminal\",route=\"default\"} 1")
            .then_some(metrics)
    })
    .await;
    for line in [
        "outbox_partitions{store=\"sqlite\",publisher=\"terminal\",route=\"default\"} 16",
        "outbox_dead_total{store=\"sqlite\",publisher=\"terminal\",route=\"default\"} 3",
        "outbox_commit_to_confirm_seconds_bucket{store=\"sqlite\",publisher=\"terminal\",route=\"default\",le=\"60\"} 1",
        "outbox_publish_batch_messages_count",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    relay.process.terminate();
    assert_eq!(relay.process.wait(DEADLINE).await.code(), Some(0));
}

#[tokio::test]
async fn the_metrics_of_several_routes_are_told_apart() {
    let route = |name: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\n[route.store]\ntype = \"sqlite\"\npath = \"{name}.db\"\n\
             [route.publisher]\ntype = \"terminal\"\n"
        )
    };
    let place =
        Place::new(&format!("[http]\nlisten = \"127.0.0.1:0\"\n{}{}", route("orders"), route("bills")));
    place.run(&["migrate"]);
    place.run(&["enqueue", "--route", "orders", "t", "1"]);
    let relay = Subprocess::start("outbox-relay", place.command(&["relay"]));
    let address = eventually("the address", DEADLINE, || async { served_at(&relay.log()) }).await;
    eventually("a confirmed message of one route and none of the other", DEADLINE, || async {
        let metrics = support::get(&address, "/metrics");
        let confirmed = |route: &str| {
            let name = "outbox_confirmed_total{";
            let of_route =
                |line: &&str| line.starts_with(name) && line.contains(&format!("route=\"{route}\""));
            metrics.lines().find(of_route).map(|line| line.ends_with(" 1"))
        };
        (confirmed("orders") == Some(true) && confirmed("bills") != Some(true)).then_some(())
    })
    .await;
    let metrics = support::get(&address, "/metrics");
    assert!(metrics.contains("outbox_circuit_open{") || metrics.contains("outbox_leases{"), "{metrics}");
    for line in metrics.lines().filter(|line| line.starts_with("outbox_")) {
        assert!(line.contains("route=\""), "{line}");
    }
}

#[tokio::test]
async fn dead_letters_are_shown_and_changed_by_who_has_the_token() {
    let relay = Relay::with_dead_letters("").await;
    let list = relay.get("/api/v1/routes/default/dead-letters?topic=lost&limit=2").json();
    let letters = list["dead_letters"].as_array().unwrap();
    assert_eq!(letters.len(), 2);
    assert!(letters[0]["payload"].is_null() && letters[0]["payload_bytes"] == 1, "{list}");
    let position = letters[1]["position"].as_i64().unwrap();
    assert_eq!(relay.get(&format!("/api/v1/routes/default/dead-letters/{position}")).json()["key"], "2");
    assert_eq!(relay.get("/api/v1/routes/default/dead-letters/99999").status, 404);
    assert_eq!(relay.get("/api/v1/routes/other/dead-letters").status, 404);
    assert_eq!(relay.get("/api/v1/routes/default/dead-letters?topik=x").status, 400);
    assert_eq!(relay.get("/api/v1/routes/default/dead-letters?older_than=soon").status, 400);
    // Waiting messages have no such conditions.
    for condition in ["older_than=1h", "topic=lost", "error=x"] {
        assert_eq!(relay.get(&format!("/api/v1/routes/default/messages?{condition}")).status, 400);
    }
    let hidden = relay.get("/api/v1/routes/default/dead-letters?payload=true");
    assert!(hidden.status == 403 && hidden.body.contains("http.payloads"), "{}", hidden.body);
    assert_eq!(relay.get("/api/v1/routes/default/messages").json(), json!({ "messages": [] }));

    let post = |path, body: Value| relay.post(path, &[JSON, BEARER], &body);
    assert_eq!(post(DISCARD, json!({ "key": "1", "dry_run": true })).json()["would_be"]["count"], 1);
    assert_eq!(post(DISCARD, json!({})).status, 400);
    assert_eq!(post(DISCARD, json!({ "all": true, "key": "1" })).status, 400);
    assert_eq!(post(DISCARD, json!({ "kay": "1" })).status, 422);
    for empty in
        [json!({ "error": "" }), json!({ "topic": "" }), json!({ "key": "" }), json!({ "older_than": "0s" })]
    {
        let refused = post(DISCARD, empty.clone());
        assert_eq!(refused.status, 400, "{empty}: {}", refused.body);
        assert!(refused.body.contains("omit the condition"), "{empty}: {}", refused.body);
    }
    assert_eq!(post(DISCARD, json!({ "key": "1" })).json(), json!({ "changed": 1 }));
    assert_eq!(post(DISCARD, json!({ "positions": [position] })).json(), json!({ "changed": 1 }));
    assert_eq!(post(REDRIVE, json!({ "all": true })).json(), json!({ "changed": 1 }));
    // It dies again, because nothing has become better.
    eventually("the dead letter", DEADLINE, || async {
        let list = relay.get("/api/v1/routes/default/dead-letters").json();
        (list["dead_letters"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    let log = relay.process.log();
    assert_eq!(log.matches("dead letters discarded").count(), 2, "{log}");
    assert_eq!(log.matches("dead letters redriven").count(), 1, "{log}");
    assert!(!log.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn changes_without_the_token_or_from_other_sites_are_refused_and_logged() {
    let relay = Relay::with_dead_letters("").await;
    let all = json!({ "all": true });
    for (headers, status) in [
        (&[JSON][..], 401),
        (&[JSON, ("Authorization", "Bearer wrong")], 401),
        (&[BEARER], 415),
        (&[BEARER, ("Content-Type", "text/plain")], 415),
        (&[JSON, BEARER, ("Origin", "http://evil.example")], 403),
        (&[JSON, BEARER, ("Sec-Fetch-Site", "cross-site")], 403),
    ] {
        for path in [REDRIVE, DISCARD] {
            assert_eq!(relay.post(path, headers, &all).status, status, "{headers:?}");
        }
    }
    // A name that leads to the loopback address is no reason to answer its pages.
    let rebound = [("Host", "evil.example")];
    assert_eq!(relay.ask("GET", "/api/v1/status", &rebound, "").status, 403);
    assert_eq!(relay.ask("GET", "/api/v1/status", &[rebound[0], BEARER], "").status, 200);
    assert_eq!(
        relay.get("/api/v1/status").json()["routes"][0]["dead_letters"]["count"],
        3,
        "nothing was changed"
    );
    assert!(relay.process.log().matches("refused a request").count() >= 12);
    let head = relay.get("/api/v1/status").head;
    for header in ["cache-control: no-store", "x-content-type-options: nosniff", "x-frame-options: deny"] {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    assert!(!head.contains("access-control"), "{head}");
}

#[tokio::test]
async fn without_a_token_nobody_changes_anything_and_payloads_are_shown_if_they_may_be() {
    let relay = Relay::with_dead_letters("payloads = true # no token").await;
    let refused = relay.post(DISCARD, &[JSON, BEARER], &json!({ "all": true }));
    assert!(refused.status == 403 && refused.body.contains("http.token_file"), "{}", refused.body);
    let shown = relay.get("/api/v1/routes/default/dead-letters?payload=true&key=2").json();
    assert_eq!(shown["dead_letters"][0]["payload"], "2");
}

#[tokio::test]
async fn beyond_the_loopback_address_reading_needs_the_token_too() {
    let relay = Relay::start("").await;
    let mut command =
        relay.place.command(&["relay", "--set", "http.listen=0.0.0.0:0", "--set", "log.format=json"]);
    command.env("OUTBOX__HTTP__TOKEN", TOKEN);
    let process = Subprocess::start("outbox-relay", command);
    let address = eventually("the address", DEADLINE, || async { served_at(&process.log()) }).await;
    let open = Relay { process, address: address.replace("0.0.0.0", "127.0.0.1"), place: Place::new("") };
    assert_eq!(open.get("/api/v1/status").status, 401);
    assert_eq!(open.ask("GET", "/api/v1/status", &[BEARER], "").status, 200);
    assert_eq!((open.get("/healthz").status, open.get("/metrics").status), (200, 200));
    // The page has nothing to hide, and what it would show it has to ask for.
    assert_eq!((open.get("/").status, open.get("/dashboard/app.js").status), (200, 200));
    for path in ["", "/default/history", "/default/failures", "/default/relays", "/default/dead-letters"] {
        assert_eq!(open.get(&format!("/api/v1/routes{path}")).status, 401, "{path}");
    }
}

#[tokio::test]
async fn the_dashboard_is_served_with_a_policy_that_lets_nothing_else_in() {
    let relay = Relay::start("").await;
    let page = relay.get("/");
    assert!(page.status == 200 && page.head.contains("content-type: text/html"), "{}", page.head);
    // Everything it names is there, and nothing is elsewhere or within the page.
    let parts: Vec<_> = page.body.split('"').filter(|text| text.starts_with("/dashboard/")).collect();
    assert!(parts.len() >= 4, "{parts:?}");
    let mut seen = Vec::new();
    let mut left: Vec<String> = parts.into_iter().map(str::to_owned).collect();
    while let Some(path) = left.pop() {
        let part = relay.get(&path);
        assert_eq!(part.status, 200, "{path}");
        let kind = match path.rsplit_once('.').unwrap().1 {
            "js" => "text/javascript",
            "css" => "text/css",
            _ => "image/svg+xml",
        };
        assert!(part.head.contains(&format!("content-type: {kind}")), "{path}: {}", part.head);
        for name in part.body.split("from './").skip(1).filter_map(|rest| rest.split('\'').next()) {
            let imported = format!("/dashboard/{name}");
            if !seen.contains(&imported) && !left.contains(&imported) {
                left.push(imported);
            }
        }
        for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"] {
            assert!(!part.body.contains(sink), "{path} has {sink}");
        }
        seen.push(path);
    }
    assert!(seen.len() >= 14, "{seen:?}");
    assert!(
        !page.body.contains("<style") && !page.body.contains(" style=") && !page.body.contains("onclick")
    );
    for head in [page.head, relay.get("/dashboard/app.js").head] {
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "cache-control: no-store",
        ] {
            assert!(head.contains(part), "{part} is not in {head}");
        }
        assert!(!head.contains("unsafe") && !head.contains("access-control"), "{head}");
    }
    assert_eq!(relay.get("/dashboard/nothing.js").status, 404);
    assert_eq!(relay.get("/dashboard/..%2f..%2fCargo.toml").status, 404);
    assert!(!relay.get("/api/v1/status").head.contains("script-src"));
}

#[tokio::test]
async fn who_looks_only_now_sees_what_happened_before() {
    let relay = Relay::with_dead_letters("").await;
    let routes = relay.get("/api/v1/routes").json();
    let expected = json!([{ "route": "default", "store": "sqlite in shop.db, table outbox_message", "publisher": "the standard output" }]);
    assert_eq!(routes, json!({ "routes": expected, "payloads": false, "changes": true }));

    let history = "/api/v1/routes/default/history";
    let told = eventually("a sample with the dead letters", DEADLINE, || async {
        let told = relay.get(history).json();
        let last = told["samples"].as_array()?.last()?.clone();
        (last["dead_letters"]["count"] == 3).then_some(told)
    })
    .await;
    let samples = told["samples"].as_array().unwrap();
    let died: u64 = samples.iter().map(|sample| sample["died"].as_u64().unwrap()).sum();
    assert_eq!(died, 3, "{told}");
    assert_eq!(told["relay"], json!({ "relays": 1, "circuit_open": false }));
    let times: Vec<_> = samples.iter().map(|sample| sample["at"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let later = relay.get(&format!("{history}?after={}", times[0])).json();
    assert!(later["samples"][0]["at"].as_u64().unwrap() > times[0], "{later}");
    assert_eq!(relay.get(&format!("{history}?after=soon")).status, 400);

    let failures = relay.get("/api/v1/routes/default/failures").json();
    let failures = failures["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 3, "{failures:?}");
    assert_eq!((&failures[0]["kind"], &failures[0]["topic"]), (&json!("dead_letter"), &json!("lost")));
    assert!(failures[0]["error"].as_str().unwrap().contains("no consumer takes this topic"), "{failures:?}");

    let relays = relay.get("/api/v1/routes/default/relays").json();
    assert_eq!((&relays["partitions"], &relays["free"]), (&json!(16), &json!([])));
    assert_eq!(relays["relays"][0]["this"], true);
    assert_eq!(relays["relays"][0]["partitions"].as_array().unwrap().len(), 16);

    for rest in ["history", "failures", "relays"] {
        let unknown = relay.get(&format!("/api/v1/routes/other/{rest}"));
        assert!(unknown.status == 404 && unknown.body.contains("unknown route"), "{}", unknown.body);
        let rebound = [("Host", "evil.example")];
        assert_eq!(relay.ask("GET", &format!("/api/v1/routes/default/{rest}"), &rebound, "").status, 403);
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_at_the_start() {
    let relay = Relay::start("").await;
    let listen = format!("http.listen={}", relay.address);
    let output = relay.place.command(&["relay", "--set", &listen]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot listen at") && said.contains(&relay.address), "{said}");
}
