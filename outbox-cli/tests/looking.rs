//! Looking at a full outbox is quick, and costs a relay that works on it nothing that could be noticed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "the functions next to the tests are test code; and figures are to be read"
)]

mod support;

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration_tests::{Postgres, Server, Subprocess, eventually};
use sqlx::{AssertSqlSafe, PgPool};
use support::{DEADLINE, Place, get, served_at};

/// Without a sink of its own the relay would wait for whoever reads its output.
fn settings(url: &str) -> String {
    format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[[route]]\n[route.store]\ntype = \"postgres\"\nurl = \"{url}\"\n\
         [route.publisher]\ntype = \"terminal\"\npayloads = false\n"
    )
}

async fn fill(pool: &PgPool, messages: u32, dead_letters: u32) {
    let fill = format!(
        "INSERT INTO outbox_message (topic, key, payload)
        SELECT 'orders', 'key-' || n % 1000, convert_to(repeat('x', 200), 'UTF8') FROM generate_series(1, {messages}) n;
        INSERT INTO outbox_dead_letter (position, partition, message_id, topic, key, payload, headers, options,
            attempts, blocks_key, enqueued_at, last_error)
        SELECT -n, 0, gen_random_uuid(), CASE n % 10 WHEN 0 THEN 'bills' ELSE 'orders' END, 'dead-' || n,
            convert_to('x', 'UTF8'), '{{}}', '{{}}', 8, false, now() - interval '1 day', 'unroutable: nobody takes ' || n
        FROM generate_series(1, {dead_letters}) n"
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(pool).await.unwrap();
}

/// What somebody on call types.
const LOOKS: &[&[&str]] = &[
    &["status", "--json"],
    &["peek", "--json"],
    &["dead-letters", "list", "--json"],
    &["dead-letters", "list", "--json", "--topic", "bills", "--older-than", "1h"],
    &["dead-letters", "list", "--json", "--error", "takes 17"],
    &["doctor", "--json"],
];

fn confirmed(address: &str) -> f64 {
    let metrics = get(address, "/metrics");
    let line = metrics.lines().find(|line| line.starts_with("outbox_confirmed_total{"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// Somebody who looks all the time, until told to stop.
fn watcher(place: &Arc<Place>, stop: &Arc<AtomicBool>) -> (Child, std::thread::JoinHandle<u32>) {
    let mut watch = place.command(&["status", "--watch", "--json", "--interval", "200ms"]);
    let watch = watch.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (place, stop) = (place.clone(), stop.clone());
    let rounds = std::thread::spawn(move || {
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            for look in LOOKS {
                place.run(look);
            }
            rounds += 1;
        }
        rounds
    });
    (watch, rounds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_is_looked_at_quickly_and_the_relay_goes_on() {
    let Some(postgres) = Postgres::shared().await else { return };
    let large = std::env::var("OUTBOX_TEST_LARGE").is_ok_and(|large| large == "1");
    // The large ones are a measurement on a quiet machine. The small ones show that every command ends.
    let (messages, dead_letters, limit) =
        if large { (1_000_000, 100_000, Duration::from_secs(1)) } else { (20_000, 2_000, DEADLINE) };
    let database = postgres.database().await;
    let pool = database.pool(3).await;
    let place = Arc::new(Place::new(&settings(database.url())));
    place.run(&["migrate"]);
    fill(&pool, messages, dead_letters).await;
    let look = |when: &str| {
        for arguments in LOOKS {
            let began = Instant::now();
            place.run(arguments);
            let took = began.elapsed();
            eprintln!("{when}: {:>7.3} s  outbox {}", took.as_secs_f64(), arguments.join(" "));
            assert!(took < limit, "{arguments:?} took {took:?} {when}");
        }
    };
    look("at rest");

    let mut command = place.command(&["relay"]);
    command.env("OUTBOX__RELAY__STATS_INTERVAL", "1s");
    let mut relay = Subprocess::start("outbox-relay", command);
    let address = eventually("the address", DEADLINE, || async { served_at(&relay.log()) }).await;
    eventually("the first message", DEADLINE, || async { (confirmed(&address) > 0.0).then_some(()) }).await;
    look("at work");
    if large {
        measure(&place, &address).await;
    } else {
        eventually("an empty outbox", DEADLINE, || async {
            (confirmed(&address) >= f64::from(messages)).then_some(())
        })
        .await;
    }
    relay.terminate();
    assert_eq!(
        relay.wait(DEADLINE).await.code(),
        Some(0),
        "{}",
        relay.log().lines().rev().take(3).collect::<String>()
    );
}

/// Of one relay on one backlog: how fast it is while nobody looks and while somebody does, by turns.
async fn measure(place: &Arc<Place>, address: &str) {
    const TURN: Duration = Duration::from_secs(2);
    let mut rates = [Vec::new(), Vec::new()];
    for turn in 0..8 {
        let watched = turn % 2 == 1;
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = watched.then(|| watcher(place, &stop));
        let (before, began) = (confirmed(address), Instant::now());
        // What is measured is a length of time.
        tokio::time::sleep(TURN).await;
        let rate = (confirmed(address) - before) / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let mut rounds = 0;
        if let Some((mut watch, looks)) = watcher {
            watch.kill().unwrap();
            watch.wait().unwrap();
            rounds = looks.join().unwrap();
        }
        eprintln!("turn {turn}: {rate:>8.0} messages/s, looked at {rounds} times");
        rates[usize::from(watched)].push(rate);
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        f64::midpoint(rates[1], rates[2])
    };
    let [mut alone, mut watched] = rates;
    let (alone, watched) = (median(&mut alone), median(&mut watched));
    eprintln!("medians: {alone:.0} messages/s alone, {watched:.0} messages/s while somebody looks");
    assert!(watched > 0.0, "there was too little to relay");
}
