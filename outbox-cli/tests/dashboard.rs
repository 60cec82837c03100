//! The dashboard in a real browser, served by a relay at work.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

#[path = "support/browser.rs"]
mod browser;
mod support;
#[path = "support/webdriver.rs"]
mod webdriver;

use browser::{Browser, screenshots};
use integration_tests::{Postgres, RabbitMq, Server, Subprocess, eventually};
use sqlx::PgPool;
use support::{DEADLINE, ON_SQLITE, Place, served_at};

const TOKEN: &str = "a-token-for-this-test";

struct Relay {
    process: Subprocess,
    address: String,
}

impl Relay {
    async fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.command(&[&["relay", "--set", "log.format=json"], arguments].concat());
        command.env("OUTBOX__HTTP__TOKEN", TOKEN);
        let process = Subprocess::start("outbox-relay", command);
        let address = eventually("the address", DEADLINE, || async { served_at(&process.log()) }).await;
        Self { process, address }
    }

    fn page(&self) -> String {
        format!("http://{}/", self.address.replace("0.0.0.0", "127.0.0.1"))
    }
}

async fn enqueue(pool: &PgPool, topic: &str, from: i64, to: i64) {
    sqlx::query(
        "INSERT INTO outbox_message (topic, key, payload, headers, content_type)
        SELECT $1, 'order-' || n, convert_to('{\"order\": ' || n || ', \"items\": [{\"sku\": \"A-17\", \"count\": 2}]}', 'UTF8'),
               '{\"tenant\": \"acme\"}', 'application/json'
        FROM generate_series($2, $3) n ORDER BY n",
    )
    .bind(topic)
    .bind(from)
    .bind(to)
    .execute(pool)
    .await
    .unwrap();
}

fn settings(database: &str, broker: &str) -> String {
    let interval = if screenshots().is_some() { "2s" } else { "500ms" };
    format!(
        "[http]
listen = \"127.0.0.1:0\"
payloads = true

[[route]]
name = \"orders\"
[route.store]
type = \"postgres\"
url = \"{database}\"
[route.publisher]
type = \"amqp\"
url = \"{broker}\"
[route.relay]
key_order = \"progress\"
stats_interval = \"{interval}\"
circuit_max_pause = \"1s\"
[route.relay.retry]
max_attempts = 1

[[route]]
name = \"audit\"
[route.store]
type = \"sqlite\"
path = \"audit.db\"
[route.publisher]
type = \"terminal\"
"
    )
}

const ROWS: &str = "return document.querySelectorAll('#letters-list tr[data-position]').length";

impl Browser {
    async fn rows(&self, expected: u64) {
        eventually(&format!("{expected} rows"), DEADLINE, || async {
            (self.run(ROWS).as_u64() == Some(expected)).then_some(())
        })
        .await;
    }

    async fn backlog(&self, right: impl Fn(u64) -> bool) -> u64 {
        let number = |text: &str| text.replace(',', "").parse().ok();
        let text = self.reads("#tile-backlog .value", |text| number(text).is_some_and(&right)).await;
        number(&text).unwrap()
    }
}

#[tokio::test]
async fn an_outage_is_seen_and_dead_letters_are_put_right_by_clicking() {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::start().await) else {
        return;
    };
    let (database, vhost) = (postgres.database().await, rabbitmq.vhost().await);
    let pool = database.pool(3).await;
    vhost.declare_queue("order.placed").await;
    rabbitmq.sync_declarations().await;
    let place = Place::new(&settings(database.url(), vhost.uri()));
    place.run(&["migrate"]);
    let mut relay = Relay::start(&place, &[]).await;
    let Some(browser) = Browser::open(&relay.page()).await else { return };
    browser.reads("#connection", |text| text == "Live").await;
    browser.reads("#route-name", |text| text == "orders").await;
    browser.reads("#routes", |text| text.contains("orders") && text.contains("audit")).await;
    browser.reads("#tile-backlog .note", |text| !text.is_empty()).await;
    assert_eq!(browser.reads("#tile-circuit .value", |text| text != "–").await, "Closed");
    browser.reads("#relays", |text| text.contains("this process") && text.contains("16 partitions")).await;
    browser.reads("#letters-list", |text| text.contains("No dead letters")).await;
    browser.reads("#failures", |text| text.contains("Nothing has failed")).await;

    // No queue takes these.
    enqueue(&pool, "invoice.sent", 1, 5).await;
    // Enough to look at, where somebody wants images of it.
    let rounds = if screenshots().is_some() { 75 } else { 2 };
    for round in 0..rounds {
        enqueue(&pool, "order.placed", round * 400, round * 400 + 150 + (round * 7) % 19 + round % 40).await;
        let samples = "return fetch('/api/v1/routes/orders/history').then((answer) => answer.json()) \
             .then((told) => told.samples.length)";
        let before = browser.run(samples).as_u64();
        eventually("a sample", DEADLINE, || async { (browser.run(samples).as_u64() > before).then_some(()) })
            .await;
    }
    browser.backlog(|waiting| waiting == 0).await;
    browser.reads("#tile-dead .value", |text| text == "5").await;
    browser.rows(5).await;
    browser.reads("#letters-list", |text| text.contains("invoice.sent") && text.contains("order-5")).await;
    browser.reads("#failures", |text| text.contains("invoice.sent")).await;

    rabbitmq.kill().await;
    enqueue(&pool, "order.placed", 10_000, 10_299).await;
    browser.reads("#tile-circuit .value", |text| text == "Open").await;
    browser.reads("#banners", |text| text.contains("The broker is down")).await;
    let mut waiting = browser.backlog(|waiting| waiting >= 300).await;
    for round in 0..rounds / 2 {
        enqueue(&pool, "order.placed", 20_000 + round * 100, 20_000 + round * 100 + 60).await;
        let before = waiting;
        waiting = browser.backlog(|waiting| waiting > before).await;
    }
    browser.reads("#failures", |text| text.contains("broker")).await;
    browser.reads("#waiting", |text| text.contains("order.placed")).await;
    let drawn = browser.run("return document.querySelectorAll('.plot .line').length");
    assert_eq!(drawn, 3, "a line for each of backlog, lag and throughput");
    assert!(browser.run("return document.querySelectorAll('.plot .down').length").as_u64() >= Some(3));
    images(&browser).await;

    rabbitmq.restart().await;
    browser.reads("#tile-circuit .value", |text| text == "Closed").await;
    browser.backlog(|waiting| waiting == 0).await;
    browser.reads("#banners", str::is_empty).await;
    vhost.declare_queue("invoice.sent").await;
    redrive_and_discard(&browser).await;
    // Each of the others once.
    eventually("four redriven messages", DEADLINE, || async {
        (vhost.queue_depth("invoice.sent").await == 4).then_some(())
    })
    .await;
    let dead: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbox_dead_letter").fetch_one(&pool).await.unwrap();
    assert_eq!(dead, 0);
    let log = relay.process.log();
    assert_eq!(log.matches("dead letters discarded").count(), 1, "{log}");
    assert_eq!(log.matches("dead letters redriven").count(), 2, "{log}");
    assert!(!log.contains(TOKEN) && !log.contains("not-the-token"), "{log}");

    // The page says that the relay is gone, and finds it again.
    relay.process.kill();
    browser.reads("#connection", |text| text == "Relay gone").await;
    browser.reads("#banners", |text| text.contains("does not answer")).await;
    let _again = Relay::start(&place, &["--set", &format!("http.listen={}", relay.address)]).await;
    browser.reads("#connection", |text| text == "Live").await;
    browser.reads("#banners", |text| !text.contains("does not answer")).await;
}

/// What somebody on call does with five dead letters whose queue is there now.
async fn redrive_and_discard(browser: &Browser) {
    // Without the token nothing happens, and with a wrong one neither.
    browser.click("#letters-list tr[data-position] [data-action=redrive]").await;
    browser.reads("dialog", |text| text.contains("Token needed")).await;
    browser.click("dialog [data-answer=cancel]").await;
    browser.reads("dialog", str::is_empty).await;
    browser.click("#letters-list tr[data-position] [data-action=redrive]").await;
    browser.write("#token-input", "not-the-token").await;
    browser.click("dialog [data-answer=confirm]").await;
    browser.reads("dialog", |text| text.contains("refused this token")).await;
    browser.rows(5).await;
    let path = "/api/v1/routes/orders/dead-letters/discard";
    let bare = format!(
        "return fetch('{path}', {{ method: 'POST', body: '{{\"all\": true}}', \
         headers: {{ 'Content-Type': 'application/json' }} }}).then((answer) => answer.status)"
    );
    assert_eq!(browser.run(&bare), 401);

    browser.write("#token-input", TOKEN).await;
    browser.click("dialog [data-answer=confirm]").await;
    browser.reads("dialog h2", |text| text == "Redrive 1 dead letter?").await;
    browser.shoot("dashboard-redrive");
    browser.click("dialog [data-answer=confirm]").await;
    browser.toast("1 dead letter redriven").await;
    browser.rows(4).await;

    // Now it knows the token.
    browser.click("#letters-list tr[data-position] [data-action=discard]").await;
    browser
        .reads("dialog", |text| text.contains("Discard 1 dead letter?") && text.contains("for good"))
        .await;
    browser.click("dialog [data-answer=cancel]").await;
    browser.reads("dialog", str::is_empty).await;
    browser.rows(4).await;
    browser.click("#letters-list tr[data-position] [data-action=discard]").await;
    browser.click("dialog [data-answer=confirm]").await;
    browser.toast("1 dead letter discarded").await;
    browser.rows(3).await;

    // And the rest at once, by a filter.
    browser.write("#filter-key", "order-999").await;
    browser.click("#filter-apply").await;
    browser.reads("#letters-list", |text| text.contains("No dead letter matches")).await;
    browser.run("document.querySelector('#filter-key').value = ''");
    browser.write("#filter-topic", "invoice.sent").await;
    browser.click("#filter-apply").await;
    browser.rows(3).await;
    browser.click("#letters-bar [data-action=redrive]").await;
    browser
        .reads("dialog", |text| text.contains("Redrive 3 dead letters?") && text.contains("invoice.sent"))
        .await;
    browser.click("dialog [data-answer=confirm]").await;
    browser.toast("3 dead letters redriven").await;
    browser.rows(0).await;
}

/// What the documentation shows: an outage, light and dark and on a phone.
async fn images(browser: &Browser) {
    if screenshots().is_none() {
        return;
    }
    browser.click("[data-span='300']").await;
    browser.click("#letters-list tr[data-position] [data-action=details]").await;
    browser.reads("#letters-list", |text| text.contains("\"sku\"")).await;
    for scheme in ["light", "dark"] {
        browser.prefers(scheme);
        browser.size(1280, 1440);
        browser.shoot(&format!("dashboard-{scheme}"));
        browser.size(390, 844);
        browser.shoot(&format!("dashboard-phone-{scheme}"));
    }
    browser.run("document.querySelector('#letters-title').scrollIntoView()");
    browser.prefers("light");
    browser.size(1280, 900);
    browser.click("#letters-list tr[data-position] [data-action=details]").await;
}

const HOSTILE: &str = "<img src=x onerror=\"document.title=1\"><script>document.title=1</script>";

#[tokio::test]
async fn hostile_texts_are_only_texts_and_every_window_and_scheme_can_be_read() {
    let store =
        ON_SQLITE.replace("terminal\"", "terminal\"\nrefuse = ['REFUSED']").replace("REFUSED", HOSTILE);
    let place = Place::new(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\npayloads = true\n{store}[route.relay]\nkey_order = \"progress\"\n\
         stats_interval = \"500ms\"\n[route.relay.retry]\nmax_attempts = 1\n"
    ));
    place.run(&["migrate"]);
    let payload = format!("{{\"id\":12345678901234567890,\"html\":\"{}\"}}", HOSTILE.replace('"', "\\\""));
    place.run(&["enqueue", HOSTILE, &payload, "--key", HOSTILE, "--header", &format!("x={HOSTILE}")]);
    place.run(&["enqueue", HOSTILE, &format!("{HOSTILE}{}", "W".repeat(3_000)), "--key", &"M".repeat(200)]);
    let mut lines = serde_json::json!({ "topic": HOSTILE, "payload_base64": "AP8+eA==" }).to_string();
    for number in 0..22 {
        lines.push_str(&format!(
            "\n{}",
            serde_json::json!({ "topic": HOSTILE, "payload": number.to_string() })
        ));
    }
    assert_cmd::Command::from_std(place.command(&["enqueue"])).write_stdin(lines).assert().success();
    let relay = Relay::start(&place, &[]).await;
    let Some(browser) = Browser::open(&relay.page()).await else { return };
    browser.reads("#tile-dead .value", |text| text == "25").await;
    browser.rows(20).await;
    browser.reads("#letters-list", |text| text.contains(HOSTILE)).await;
    browser.reads("#failures", |text| text.contains(HOSTILE)).await;
    browser.click("#letters-list tr[data-position]:first-child [data-action=details]").await;
    // Indented, and with every digit of its number.
    browser.reads("#letters-list .detail", |text| text.contains("\"id\": 12345678901234567890,\n")).await;
    browser.reads("#letters-list .detail", |text| text.contains("document.title=1")).await;
    // Each that is open has a row of its own.
    browser.click("#letters-list tr[data-position]:nth-child(3) [data-action=details]").await;
    browser.reads("#letters-list tr:nth-child(4) .detail", |text| text.contains("WWWW")).await;
    browser.click("#letters-list tr[data-position]:nth-child(5) [data-action=details]").await;
    let bytes = "000000  00 ff 3e 78";
    browser
        .reads("#letters-list tr:nth-child(6) .detail", |text| text.contains(bytes) && text.contains("..>x"))
        .await;
    assert_eq!(browser.run("return document.title"), "default · outbox");
    let made = browser.run("return document.querySelectorAll('main img, main script, main iframe').length");
    assert_eq!(made, 0);
    // Not even this page itself can make HTML of a text.
    let sink =
        "try { document.body.innerHTML = '<b>x</b>'; return 'made' } catch (error) { return error.name }";
    assert_eq!(browser.run(sink), "TypeError");

    for (width, height) in [(390, 844), (320, 640), (768, 1024), (1280, 900)] {
        browser.size(width, height);
        let wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        let beyond = browser.run(wide);
        assert_eq!(beyond, 0, "{width} pixels are too few by {beyond}");
    }
    let ground = "return getComputedStyle(document.body).backgroundColor";
    browser.prefers("light");
    let light = browser.run(ground);
    browser.prefers("dark");
    let dark = browser.run(ground);
    assert_ne!(light, dark);
    // The switch overrules the system: light, then dark, then as the system again.
    for (text, expected) in [("Theme: light", &light), ("Theme: dark", &dark), ("Theme: system", &dark)] {
        browser.click("#theme").await;
        browser.reads("#theme", |shown| shown == text).await;
        assert_eq!(browser.run(ground), *expected, "{text}");
    }
    // The other page, and what is on it.
    browser.click("[data-focus='letters-Next']").await;
    browser.rows(5).await;
    browser.click("[data-focus=all]").await;
    browser
        .reads("#letters-bar", |text| text.contains("5 selected") && text.contains("Redrive 5 selected"))
        .await;
    browser.click("[data-focus='letters-Previous']").await;
    browser.rows(20).await;
    browser.reads("#letters-bar", |text| text.contains("All dead letters")).await;
    let complaints = browser.complaints();
    let unexpected: Vec<_> = complaints.iter().filter(|line| !line.contains("TrustedHTML")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

#[tokio::test]
async fn where_reading_needs_the_token_the_page_asks_for_it() {
    let place = Place::new(&format!("[http]\nlisten = \"0.0.0.0:0\"\n{ON_SQLITE}"));
    place.run(&["migrate"]);
    let relay = Relay::start(&place, &[]).await;
    let Some(browser) = Browser::open(&relay.page()).await else { return };
    browser.reads("dialog", |text| text.contains("shows nothing without its token")).await;
    browser.write("#token-input", "not-the-token").await;
    browser.click("dialog [data-answer=confirm]").await;
    browser.reads("dialog", |text| text.contains("refused this token")).await;
    assert_eq!(browser.text("#connection"), "Locked");
    browser.write("#token-input", TOKEN).await;
    browser.click("dialog [data-answer=confirm]").await;
    browser.reads("#connection", |text| text == "Live").await;
    browser.reads("#tile-backlog .value", |text| text == "0").await;
    // Nowhere but in this tab.
    assert_eq!(browser.run("return localStorage.length + document.cookie.length"), 0);
    browser.click("#token").await;
    browser.reads("#connection", |text| text == "Locked").await;
}
