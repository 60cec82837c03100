//! What the program says, word for word: help, data, errors, and on which of the two outputs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the functions beside the tests are tests, too")]

mod support;

use support::{DEADLINE, ON_SQLITE, Place};

/// Everything that a run shows, with what changes from run to run taken out.
fn shown(place: &Place, arguments: &[&str], input: &str) -> String {
    let mut command = assert_cmd::Command::from_std(place.command(arguments));
    let output = command.write_stdin(input).timeout(DEADLINE).output().unwrap();
    let text = |bytes| String::from_utf8::<>(bytes).unwrap();
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
    for command in ["relay", "migrate", "status", "enqueue", "doctor"] {
        check(&format!("help-{command}"), &place, &[command, "--help"], "");
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
    let place = Place::new("[log]\nformat = \"xml\"\n[[route]]\n[route.store]\ntype = \"sqlite\"\n[route.publisher]\n");
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
    check("enqueue-lines", &place, &["enqueue"], "{\"topic\":\"order.paid\",\"key\":\"a\"}\n\n{\"topic\":\"x\",\"payload\":1}\n");
    check("enqueue-wrong-line", &place, &["enqueue"], "{\"topic\":\"y\"}\n{\"topik\":\"x\"}\n");
    check("status", &place, &["status"], "");
    check("status-json", &place, &["status", "--json"], "");
    check("doctor", &place, &["doctor"], "");
    check("doctor-json", &place, &["doctor", "--json"], "");
    let relayed = place.run(&["relay", "--until-empty", "--set", "log.filter=off"]);
    assert_eq!(relayed.lines().count(), 4, "{relayed}");
    check("status-when-empty", &place, &["status"], "");
}

#[test]
fn the_demo_needs_nothing_and_ends_by_itself() {
    let place = Place::new("this is not read");
    let data = place.run(&["demo"]);
    let topics = |topic: &str| data.matches(&format!("\"topic\":\"{topic}\"")).count();
    assert_eq!((topics("order.placed"), topics("order.paid"), topics("order.lost")), (2, 2, 0), "{data}");
    assert!(data.contains("order.lost after 2 attempts: unroutable: nobody takes this topic"), "{data}");
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
