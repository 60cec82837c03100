//! What the program says, word for word: help, data, errors, and on which of the two outputs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use support::{DEADLINE, ON_SQLITE, Place};

/// Everything that a run shows, with what changes from run to run taken out.
fn shown(place: &Place, arguments: &[&str], input: &str) -> String {
    let mut command = assert_cmd::Command::from_std(place.command(arguments));
    let output = command.write_stdin(input).timeout(DEADLINE).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().expect("no signal ended it");
    format!("exit code {code}\n--- stdout\n{}--- stderr\n{}", text(output.stdout), text(output.stderr))
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[id]");
    settings.add_filter(r"\d+(\.\d+)?(ns|µs|ms)( \d+(ns|us|µs|ms))*", "[time]");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "[timestamp]");
    settings.add_filter(r#""lag_seconds":[0-9.e-]+"#, r#""lag_seconds":[seconds]"#);
    settings.add_filter(r"[+-]\d+\.\d s from ours", "[seconds] from ours");
    settings
}

fn check(name: &str, place: &Place, arguments: &[&str], input: &str) {
    let text = shown(place, arguments, input);
    settings().bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn every_command_has_its_help() {
    let place = Place::new("");
    check("help", &place, &["--help"], "");
    for command in ["relay", "migrate", "status", "enqueue", "doctor", "peek", "purge", "completions", "man"]
    {
        check(&format!("help-{command}"), &place, &[command, "--help"], "");
    }
    for command in ["list", "show", "redrive", "discard"] {
        check(&format!("help-dead-letters-{command}"), &place, &["dead-letters", command, "--help"], "");
    }
    check("help-config-check", &place, &["config", "check", "--help"], "");
}

#[test]
fn settings_are_explained() {
    let place = Place::new(ON_SQLITE);
    check("config-check", &place, &["config", "check", "--set", "relay.retry.max_attempts=3"], "");
}

#[test]
fn wrong_settings_are_told_all_at_once_and_end_with_their_code() {
    let place = Place::new(
        "[log]\nformat = \"xml\"\n[[route]]\n[route.store]\ntype = \"sqlite\"\n[route.publisher]\n",
    );
    check("wrong-settings", &place, &["relay"], "");
    check("no-such-file", &place, &["--config", "other.toml", "relay"], "");
    check("no-such-command", &place, &["relai"], "");
    check("no-such-route", &Place::new(ON_SQLITE), &["relay", "--route", "other"], "");
    check("nothing-at-all", &Place::new(""), &["status"], "");
}

#[test]
fn a_day_of_an_outbox_in_a_file() {
    let place = Place::new(ON_SQLITE);
    check("status-without-tables", &place, &["status"], "");
    check("doctor-without-tables", &place, &["doctor"], "");
    check("migrate", &place, &["migrate"], "");
    check("migrate-again", &place, &["migrate"], "");
    check("enqueue", &place, &["enqueue", "order.placed", "{}", "--key", "a", "--header", "tenant=acme"], "");
    check(
        "enqueue-lines",
        &place,
        &["enqueue"],
        "{\"topic\":\"order.paid\",\"key\":\"a\"}\n\n{\"topic\":\"x\",\"payload\":1}\n",
    );
    check("enqueue-wrong-line", &place, &["enqueue"], "{\"topic\":\"y\"}\n{\"topik\":\"x\"}\n");
    check("status", &place, &["status"], "");
    check("status-json", &place, &["status", "--json"], "");
    check("doctor", &place, &["doctor"], "");
    check("doctor-json", &place, &["doctor", "--json"], "");
    let relayed = place.run(&["relay", "--until-empty", "--set", "log.filter=off"]);
    assert_eq!(relayed.lines().count(), 4, "{relayed}");
    check("status-when-empty", &place, &["status"], "");
}

/// Three messages that nobody takes.
fn with_dead_letters() -> Place {
    let place = Place::new(&format!(
        "{}[route.relay]\nkey_order = \"progress\"\n[route.relay.retry]\nmax_attempts = 1\n",
        ON_SQLITE.replace("terminal\"", "terminal\"\nrefuse = [\"order.lost\"]")
    ));
    place.run(&["migrate"]);
    for (key, payload) in [("a", "1"), ("b", "2"), ("a", "3\u{1b}[2J")] {
        place.run(&["enqueue", "order.lost", payload, "--key", key, "--header", "tenant=acme"]);
    }
    place.run(&["enqueue", "order.placed", "4"]);
    place.run(&["relay", "--until-empty", "--set", "log.filter=off"]);
    place
}

#[test]
fn dead_letters_are_listed_shown_redriven_and_discarded() {
    let place = with_dead_letters();
    check("dead-letters-list", &place, &["dead-letters", "list"], "");
    check(
        "dead-letters-list-json",
        &place,
        &["dead-letters", "list", "--key", "b", "--json", "--payload"],
        "",
    );
    check(
        "dead-letters-list-part",
        &place,
        &["dead-letters", "list", "-n", "1", "--after", "1", "--payload"],
        "",
    );
    check("dead-letters-none", &place, &["dead-letters", "list", "--error", "other"], "");
    check("dead-letters-show", &place, &["dead-letters", "show", "1"], "");
    check("dead-letters-show-payload", &place, &["dead-letters", "show", "3", "--payload"], "");
    check("dead-letters-show-nonsense", &place, &["dead-letters", "show", "x"], "");
    check("dead-letters-show-missing", &place, &["dead-letters", "show", "7"], "");
    check(
        "dead-letters-dry-run",
        &place,
        &["dead-letters", "redrive", "--topic", "order.lost", "--dry-run"],
        "",
    );
    check("dead-letters-no-filter", &place, &["dead-letters", "discard"], "");
    check("dead-letters-all-and-filter", &place, &["dead-letters", "discard", "--all", "--key", "a"], "");
    check("dead-letters-redrive", &place, &["dead-letters", "redrive", "--key", "a"], "");
    check("peek", &place, &["peek"], "");
    check("peek-json", &place, &["peek", "--json", "--payload", "-n", "1"], "");
    check("dead-letters-discard", &place, &["dead-letters", "discard", "--all"], "");
    check("dead-letters-empty", &place, &["dead-letters", "list"], "");
}

#[test]
fn until_empty_ends_when_the_messages_left_wait_behind_dead_letters() {
    let refusing = ON_SQLITE.replace("terminal\"", "terminal\"\nrefuse = [\"order.lost\"]");
    let place = Place::new(&format!("{refusing}[route.relay]\n[route.relay.retry]\nmax_attempts = 1\n"));
    place.run(&["migrate"]);
    for (topic, key) in [("order.lost", "a"), ("order.placed", "a"), ("order.paid", "a"), ("order.sent", "b")]
    {
        place.run(&["enqueue", topic, "{}", "--key", key]);
    }
    let relayed = shown(&place, &["relay", "--until-empty"], "");
    assert!(relayed.starts_with("exit code 0\n"), "{relayed}");
    assert!(relayed.contains("order.sent") && relayed.contains("wait behind dead letters"), "{relayed}");
    let status = place.run(&["status", "--json"]);
    assert!(status.contains("\"backlog\":{\"at_least\":false,\"count\":2}"), "{status}");
}

#[test]
fn bulk_work_goes_through_many() {
    let place = with_dead_letters();
    let lines: String =
        (0..1_200).map(|n| format!("{{\"topic\":\"order.lost\",\"key\":\"{n}\"}}\n")).collect();
    let enqueued = shown(&place, &["enqueue"], &lines);
    assert!(enqueued.contains("enqueued 1200 messages"), "{enqueued}");
    place.run(&["relay", "--until-empty", "--set", "log.filter=off"]);
    assert_eq!(place.run(&["dead-letters", "redrive", "--topic", "order.lost"]), "1203\n");
    place.run(&["relay", "--until-empty", "--set", "log.filter=off"]);
    assert_eq!(place.run(&["dead-letters", "discard", "--all", "--dry-run"]), "1203\n");
    assert_eq!(place.run(&["dead-letters", "discard", "--all"]), "1203\n");
}

#[test]
fn kept_messages_are_purged_when_they_are_old_enough() {
    let place = Place::new(&format!("{ON_SQLITE}[route.relay]\nretention = \"1h\"\n"));
    place.run(&["migrate"]);
    place.run(&["enqueue", "order.placed"]);
    place.run(&["relay", "--until-empty", "--set", "log.filter=off"]);
    check("purge-nothing", &place, &["purge", "--older-than", "1h"], "");
    check("purge", &place, &["purge", "--older-than", "0s", "--batch", "1"], "");
    check("purge-wrong", &place, &["purge", "--older-than", "soon"], "");
}

#[test]
fn shells_and_man_get_what_they_need() {
    let place = Place::new("this is not read");
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.run(&["completions", shell]).contains("dead-letters"), "{shell}");
    }
    assert!(place.run(&["man"]).starts_with(".ie"));
    place.run(&["man", "--folder", "pages"]);
    assert!(place.path().join("pages/outbox-dead-letters-redrive.1").exists());
}

/// What the README says first. It is cargo that finds the program; so the test looks at what cargo would find, instead of
/// building it once more with the default features.
#[test]
fn the_demo_needs_nothing_and_ends_by_itself() {
    let line = include_str!("../README.md").lines().find(|line| line.starts_with("cargo run ")).unwrap();
    let (cargo, arguments) = line.split_once(" -- ").unwrap();
    assert_eq!(cargo, "cargo run -p outbox-cli");
    let mut metadata = std::process::Command::new(env!("CARGO"));
    metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let output = metadata.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "outbox-cli").unwrap();
    let targets = package["targets"].as_array().unwrap();
    let programs: Vec<_> = targets.iter().filter(|target| target["kind"][0] == "bin").collect();
    assert!(programs.len() == 1 && programs[0]["name"] == "outbox", "{programs:?}");
    assert!(programs[0]["required-features"].is_null(), "{programs:?}");
    let default = package["features"]["default"].as_array().unwrap();
    assert!(default.contains(&"sqlite".into()), "{default:?}");

    let place = Place::new("this is not read");
    let data = place.run(&arguments.split(' ').collect::<Vec<_>>());
    let topics = |topic: &str| data.matches(&format!("\"topic\":\"{topic}\"")).count();
    assert_eq!((topics("order.placed"), topics("order.paid"), topics("order.lost")), (2, 2, 0), "{data}");
    assert!(data.contains("order.lost after 2 attempts: unroutable: no consumer takes this topic"), "{data}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_insist() {
    let place = Place::new(ON_SQLITE);
    place.run(&["migrate"]);
    assert!(!place.run(&["status"]).contains('\x1b'));
    assert!(place.run(&["status", "--color", "always"]).contains('\x1b'));
}

#[test]
fn log_lines_can_be_json() {
    let place = Place::new(ON_SQLITE);
    place.run(&["migrate"]);
    let mut command = place.command(&["relay", "--until-empty", "--set", "log.format=json"]);
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(said.contains("\"message\":\"starting\""), "{said}");
    for line in said.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
    }
}
