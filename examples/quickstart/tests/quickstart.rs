//! The quickstart prints what it promises. The tests run the program as a user does.

// Helpers fail as loudly as the tests that call them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::Command;

/// The lines of a printed section, from its title to the next one.
fn section<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| !line.starts_with(title)).skip(1);
    lines.take_while(|line| !line.starts_with(|first: char| first.is_ascii_digit())).map(str::trim).collect()
}

#[track_caller]
fn has(lines: &[&str], parts: &[&str]) {
    let found = lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(found, "no line has all of {parts:?}:\n{}", lines.join("\n"));
}

/// The line at which the broker first takes the message.
#[track_caller]
fn taken(text: &str, key: &str, topic: &str) -> usize {
    let line = |line: &str| {
        line.contains("broker") && line.contains(key) && line.contains(topic) && line.contains("takes")
    };
    text.lines().position(line).unwrap_or_else(|| panic!("{topic} of {key} was not taken:\n{text}"))
}

#[test]
fn the_state_of_every_message_is_printed_with_its_reason() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quickstart");
    std::fs::create_dir_all(&folder).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).env("TMPDIR", &folder).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}\n{errors}", output.status);

    let before = section(&text, "3.");
    let middle = before.iter().position(|line| *line == "Not delivered:").unwrap();
    let (delivered, others) = before.split_at(middle);
    has(delivered, &["order-1", "order.placed", "attempt 1"]);
    has(delivered, &["order-3", "order.placed", "attempt 2", "rejected: the broker is busy"]);
    has(delivered, &["order-3", "order.paid", "attempt 1"]);
    has(delivered, &["order-4", "order.placed", "attempt 1"]);
    has(others, &["order-2", "order.placed", "rolled back"]);
    has(
        others,
        &["order-4", "order.gift_wrapped", "dead letter after 3 attempts: unroutable: there is no queue"],
    );
    has(others, &["order-4", "order.paid", "waits: an earlier message of its key is a dead letter"]);
    assert_eq!(before.iter().filter(|line| line.starts_with("order-")).count(), 7, "{text}");

    has(&section(&text, "4."), &["redrives 1 dead letter"]);
    let after = section(&text, "5.");
    has(&after, &["order-4", "order.gift_wrapped", "attempt 1"]);
    has(&after, &["order-4", "order.paid", "attempt 1"]);
    has(&after, &["The outbox holds 0 messages and 0 dead letters."]);

    // Order of a key, past a retry and past a redrive.
    assert!(taken(&text, "order-3", "order.placed") < taken(&text, "order-3", "order.paid"), "{text}");
    assert!(taken(&text, "order-4", "order.gift_wrapped") < taken(&text, "order-4", "order.paid"), "{text}");
    assert!(!text.lines().any(|line| line.contains("broker") && line.contains("order-2")), "{text}");

    let left =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(left.is_empty(), "the temporary folder still holds {left:?}");
}
