//! Looking after outboxes on real servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use integration_tests::postgres::Database;
use integration_tests::{Postgres, Server, Subprocess, eventually};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};
use support::{DEADLINE, Place};

struct Setup {
    database: Database,
    pool: PgPool,
    place: Place,
}

fn settings(url: &str) -> String {
    format!(
        "[[route]]\n[route.store]\ntype = \"postgres\"\nurl = \"{url}\"\n[route.publisher]\ntype = \"terminal\"\n\
         refuse = [\"lost\"]\n[route.relay]\nkey_order = \"progress\"\n[route.relay.retry]\nmax_attempts = 1\n"
    )
}

impl Setup {
    async fn new() -> Option<Self> {
        let database = Postgres::shared().await?.database().await;
        let pool = database.pool(5).await;
        let place = Place::new(&settings(database.url()));
        place.run(&["migrate"]);
        Some(Self { database, pool, place })
    }

    async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let lines = self.place.run(arguments);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the doctor says about one thing, and how the program ends.
    fn doctor(&self, place: &Place, check: &str) -> (Value, Option<i32>) {
        let output = place.command(&["doctor", "--json"]).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let found = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found: Vec<_> = found.filter(|finding| finding["check"] == check).collect();
        assert_eq!(found.len(), 1, "{check} in {lines}");
        (found[0].clone(), output.status.code())
    }
}

#[tokio::test]
async fn the_status_knows_relays_and_their_partitions() {
    let Some(setup) = Setup::new().await else { return };
    let status = &setup.json(&["status", "--json"])[0];
    assert_eq!(
        (&status["relays"], &status["partitions"], &status["free_partitions"]),
        (&Value::Array(vec![]), &16.into(), &16.into())
    );

    let start = || Subprocess::start("outbox-relay", setup.place.command(&["relay"]));
    let (mut first, second) = (start(), start());
    let shares = || {
        let status = &setup.json(&["status", "--json"])[0];
        status["relays"]
            .as_array()
            .unwrap()
            .iter()
            .map(|relay| relay["partitions"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    eventually("two relays with half each", DEADLINE, || async { (shares() == [8, 8]).then_some(()) }).await;
    first.terminate();
    assert_eq!(first.wait(DEADLINE).await.code(), Some(0));
    eventually("one relay with all", DEADLINE, || async { (shares() == [16]).then_some(()) }).await;
    drop(second);
}

#[tokio::test]
async fn waiting_messages_are_shown_with_what_they_wait_for() {
    let Some(setup) = Setup::new().await else { return };
    setup
        .sql(
            "INSERT INTO outbox_message (topic, key, payload, available_at, blocks_key, attempts, last_error) VALUES
            ('t', 'k', 'ready', NULL, false, 0, NULL),
            ('t', 'k', 'scheduled', now() + interval '1 hour', false, 0, NULL),
            ('t', 'k', 'retrying', now() + interval '1 hour', true, 2, 'no queue'),
            ('t', 'k', 'held', 'infinity', true, 0, NULL),
            ('t', NULL, 'due', now() - interval '1 hour', false, 1, 'x')",
        )
        .await;
    setup.sql("INSERT INTO outbox_message (topic, payload) VALUES ('', 'malformed')").await;
    let found = setup.json(&["peek", "--json", "--payload"]);
    assert_eq!(found.len(), 6);
    for row in &found[..5] {
        assert_eq!(row["state"], row["payload"], "{row}");
    }
    assert_eq!((&found[2]["attempts"], &found[2]["error"]), (&2.into(), &"no queue".into()));
    assert!(found[5]["error"].as_str().unwrap().contains("topic"), "{}", found[5]);
    let part = setup.json(&["peek", "--json", "-n", "2", "--after", &found[1]["position"].to_string()]);
    assert_eq!(
        part.iter().map(|row| &row["position"]).collect::<Vec<_>>(),
        [&found[2]["position"], &found[3]["position"]]
    );
    assert!(part[0]["payload"].is_null(), "payloads are hidden unless they are asked for");
}

#[tokio::test]
async fn dead_letters_are_found_by_each_condition() {
    let Some(setup) = Setup::new().await else { return };
    setup
        .sql(
            "INSERT INTO outbox_message (topic, key, payload) VALUES ('lost', 'a', '1'), ('lost', 'b', '2');
            INSERT INTO outbox_message (topic, payload) VALUES ('', '3')",
        )
        .await;
    setup.place.run(&["relay", "--until-empty"]);
    setup.sql("UPDATE outbox_dead_letter SET died_at = now() - interval '2 hours' WHERE key = 'b'").await;
    let all = setup.json(&["dead-letters", "list", "--json"]);
    assert_eq!(all.len(), 3);
    let id = all[0]["id"].as_str().unwrap();
    let position = all[1]["position"].to_string();
    for (condition, keys) in [
        (&["--topic", "lost"][..], &["a", "b"][..]),
        (&["--key", "a"], &["a"]),
        (&["--error", "no consumer takes"], &["a", "b"]),
        (&["--older-than", "1h"], &["b"]),
        (&["--id", id], &["a"]),
        (&["--position", &position, "--position", "999999"], &["b"]),
        (&["--topic", "lost", "--key", "a", "--older-than", "1h"], &[]),
    ] {
        let found = setup.json(&[&["dead-letters", "list", "--json"], condition].concat());
        let found: Vec<_> = found.iter().map(|letter| letter["key"].as_str().unwrap()).collect();
        assert_eq!(found, keys, "{condition:?}");
        let counted = setup.place.run(&[&["dead-letters", "redrive", "--dry-run"], condition].concat());
        assert_eq!(counted, format!("{}\n", keys.len()), "{condition:?}");
    }
    // What an unset variable of a shell leaves behind.
    for condition in [["--error", ""], ["--topic", ""], ["--key", ""], ["--older-than", "0s"]] {
        for command in ["list", "redrive", "discard"] {
            let mut program = setup.place.command(&[&["dead-letters", command][..], &condition].concat());
            let output = program.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {condition:?}: {said}");
            assert!(said.contains("omit the condition"), "{command} {condition:?}: {said}");
        }
    }
    assert_eq!(setup.json(&["dead-letters", "list", "--json"]).len(), 3);
    assert_eq!(setup.place.run(&["dead-letters", "discard", "--key", "a"]), "1\n");
    assert_eq!(setup.place.run(&["dead-letters", "redrive", "--all"]), "2\n");
    assert_eq!(setup.json(&["peek", "--json"]).len(), 2);
}

#[tokio::test]
async fn the_doctor_finds_what_somebody_has_broken() {
    let Some(setup) = Setup::new().await else { return };
    let (healthy, code) = setup.doctor(&setup.place, "indexes");
    assert_eq!((healthy["health"].as_str(), code), (Some("good"), Some(0)));
    for check in [
        "database",
        "clock",
        "server",
        "isolation level",
        "autovacuum",
        "rights",
        "wake-ups",
        "transactions",
        "vacuum",
        "pooler",
        "broker",
    ] {
        let (found, _) = setup.doctor(&setup.place, check);
        assert!(["good", "unknown"].contains(&found["health"].as_str().unwrap()), "{found}");
        assert!(!found["seen"].as_str().unwrap().is_empty());
    }

    setup.sql("DROP INDEX outbox_message_due").await;
    let (found, code) = setup.doctor(&setup.place, "indexes");
    assert_eq!((found["health"].as_str(), code), (Some("problem"), Some(4)), "{found}");
    assert!(found["seen"].as_str().unwrap().contains("has 3 of 4"), "{found}");

    setup.sql("ALTER TABLE outbox_message DISABLE TRIGGER USER").await;
    assert_eq!(setup.doctor(&setup.place, "wake-ups").0["health"], "warning");

    setup.sql("ALTER TABLE outbox_message RESET (autovacuum_vacuum_threshold)").await;
    assert_eq!(setup.doctor(&setup.place, "vacuum").0["health"], "warning");

    let name = setup.database.name();
    setup.sql(&format!("ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'serializable'")).await;
    let (found, _) = setup.doctor(&setup.place, "isolation level");
    assert_eq!(found["health"], "warning", "{found}");
}

#[tokio::test]
async fn the_doctor_names_the_rights_that_a_role_lacks() {
    let Some(setup) = Setup::new().await else { return };
    let role = setup.database.name().to_owned() + "_poor";
    setup
        .sql(&format!(
            "CREATE ROLE \"{role}\" LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{role}\""
        ))
        .await;
    let poor = Place::new(&settings(setup.database.url()));
    let flags = ["doctor", "--json", "--set", &format!("store.url={}", as_role(setup.database.url(), &role))];
    let output = poor.command(&flags).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    setup.sql(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("this role lacks INSERT on") && said.contains("outbox_lease"), "{said}");
}

/// The same database as another role.
fn as_role(url: &str, role: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(role).unwrap();
    url.set_password(Some("x")).unwrap();
    url.to_string()
}
