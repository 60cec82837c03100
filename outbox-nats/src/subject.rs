//! Subjects: which ones a message can be published to, and how they are made from topics.

use outbox_core::publishing::Routing;
use outbox_core::{Error, Message, Result};

/// What stands for the topic in a template.
const TOPIC: &str = "{topic}";
/// Maximum length of a subject. The server closes a connection over a line of the protocol above `max_control_line`, 4 KiB by
/// default (<https://docs.nats.io/running-a-nats-service/configuration#limits>). The line also holds the reply subject.
pub(crate) const MAX_BYTES: usize = 2048;
/// The server takes messages to these subjects as commands, such as the one that deletes a stream.
const COMMANDS: [&str; 2] = ["$JS", "$SYS"];

/// The subject of a message: by its topic's route, by the closure, or by the template.
pub(crate) fn of(message: &Message, routing: &Routing<String>) -> String {
    let subject = routing.route(message, str::to_owned);
    if subject.contains(TOPIC) { subject.replace(TOPIC, message.topic()) } else { subject }
}

/// Whether the subject depends on the message's topic.
pub(crate) fn is_template(subject: &str) -> bool {
    subject.contains(TOPIC)
}

/// Checks a subject of the settings, which may be a template.
///
/// # Errors
/// [`ErrorKind::Config`](outbox_core::ErrorKind::Config).
pub(crate) fn check_template(subject: &str) -> Result<()> {
    let example = subject.replace(TOPIC, "topic");
    match flaw(&example) {
        None => Ok(()),
        Some(flaw) => Err(Error::config(flaw).with("subject", format_args!("{subject:?}"))),
    }
}

/// Checks the subject of a message.
///
/// # Errors
/// [`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed).
pub(crate) fn check(subject: &str) -> Result<()> {
    match flaw(subject) {
        None => Ok(()),
        Some(flaw) => {
            let start: String = subject.chars().take(200).collect();
            Err(Error::malformed(flaw).with("subject", format_args!("{start:?}")))
        }
    }
}

/// Why no message can be published to this subject.
fn flaw(subject: &str) -> Option<&'static str> {
    if subject.len() > MAX_BYTES {
        return Some("the subject is longer than 2048 bytes; set a shorter one by `route` or `route_with`");
    }
    if subject.contains(['*', '>']) {
        return Some(
            "a message is published to one subject, without the wildcards * and >; set another subject by `route` or \
             `route_with`",
        );
    }
    if subject.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some(
            "a subject has no spaces, line breaks or control characters; set another one by `route` or `route_with`",
        );
    }
    if subject.split('.').any(str::is_empty) {
        return Some(
            "a subject consists of parts with dots between them, and no part is empty; set another one by `route` or \
             `route_with`",
        );
    }
    if subject.split('.').next().is_some_and(|first| COMMANDS.contains(&first)) {
        return Some("subjects that begin with $JS or $SYS are commands to the server, not destinations");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outbox_core::{ErrorKind, Verdict};

    use super::*;

    #[test]
    fn subjects_with_wildcards_spaces_or_empty_parts_are_malformed() {
        for subject in
            ["orders", "order.placed", "Ünïcödé.🚚", "$KV.bucket.key", "$JSX", &"s".repeat(MAX_BYTES)]
        {
            check(subject).unwrap();
        }
        let long = "s".repeat(MAX_BYTES + 1);
        for subject in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a\tb",
            "a\r\nPUB b",
            "a\u{a0}b",
            "a.*",
            "a*",
            ">",
            "a.>",
            "$JS.API.X",
            "$SYS.REQ",
            "$JS",
            &long,
        ] {
            let error = check(subject).unwrap_err();
            assert_eq!(
                (error.kind(), error.verdict()),
                (ErrorKind::Malformed, Verdict::Permanent),
                "{subject}"
            );
            // A subject cannot add lines to a log.
            assert!(!error.to_string().contains(['\r', '\n', '\t']), "{error}");
        }
    }

    #[test]
    fn templates_and_routes_give_the_subject() {
        let message = |topic: &str| Message::bytes(topic, "").build().unwrap();
        let mut routing = Routing::default();
        assert_eq!(of(&message("a.b"), &routing), "a.b");
        routing.default = Some("shop.{topic}.v1".to_owned());
        assert_eq!(of(&message("a.b"), &routing), "shop.a.b.v1");
        routing.rule = Some(Arc::new(|message| format!("rule.{}", message.topic().len())));
        routing.table.insert("a".to_owned(), "mine.{topic}".to_owned());
        assert_eq!(of(&message("a.b"), &routing), "rule.3");
        assert_eq!(of(&message("a"), &routing), "mine.a");
        // The topic is not a template.
        assert_eq!(
            of(&message("{topic}"), &Routing { default: Some("x.{topic}".to_owned()), ..Routing::default() }),
            "x.{topic}"
        );
    }

    #[test]
    fn templates_are_checked_with_the_settings() {
        check_template("shop.{topic}").unwrap();
        for template in ["shop.{topic}.>", "shop {topic}", "{topic}.", "$JS.{topic}", ""] {
            assert_eq!(check_template(template).unwrap_err().kind(), ErrorKind::Config, "{template}");
        }
    }
}
