//! `outbox enqueue`: messages by hand, or by a script.

use std::io::{BufRead, IsTerminal};
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use outbox_core::{Message, MessageBuilder, MessageId, Options, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cli::EnqueueArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::outboxes::{self, Opened};
use crate::output::noteln;

/// Lines that share a transaction. More gain little, and all of them are lost when one is refused.
const BATCH: usize = 500;

pub(crate) async fn run(config: &Config, args: EnqueueArgs) -> Result<(), Failure> {
    let route = outboxes::only(config, args.route.route.as_deref())?;
    let message = args.topic.is_some().then(|| from_arguments(args)).transpose()?;
    let opened = outboxes::open(route).await?;
    let result = match message {
        Some(message) => {
            let id = message.id();
            let enqueued = opened.outbox.enqueue(&[message]).await;
            enqueued.map(|()| format!("enqueued 1 message, {id}")).map_err(Failure::from)
        }
        None => from_input(&opened).await.map(|number| format!("enqueued {number} messages")),
    };
    opened.outbox.close().await;
    noteln(result?);
    Ok(())
}

fn from_arguments(args: EnqueueArgs) -> Result<Message, Failure> {
    let mut builder =
        Message::bytes(args.topic.unwrap_or_default(), args.payload.unwrap_or_default().into_bytes());
    if let Some(key) = args.key {
        builder = builder.key(key);
    }
    if let Some(content_type) = args.content_type {
        builder = builder.content_type(content_type);
    }
    for header in args.headers {
        let Some((name, value)) = header.split_once('=') else {
            return Err(Failure::wrong("--header must be a name and a value, such as --header tenant=acme"));
        };
        builder = builder.header(name, value);
    }
    if let Some(delay) = args.delay {
        builder = builder.deliver_at(Timestamp::now().saturating_add(delay));
    }
    built(builder)
}

/// What a message lacks is the fault of who asked for it.
fn built(builder: MessageBuilder) -> Result<Message, Failure> {
    builder.build().map_err(|error| Failure::wrong(error.report()))
}

/// One line of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    topic: String,
    key: Option<String>,
    payload: Option<Value>,
    payload_base64: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    options: Map<String, Value>,
    id: Option<String>,
    deliver_at: Option<String>,
}

async fn from_input(opened: &Opened<'_>) -> Result<usize, Failure> {
    if std::io::stdin().is_terminal() {
        noteln(
            "reading messages, one JSON object per line, such as {\"topic\": \"order.placed\", \"payload\": \"17\"}",
        );
    }
    let (mut batch, mut done) = (Vec::new(), 0);
    for (index, line) in std::io::stdin().lock().lines().enumerate() {
        let place = |failure: Failure| {
            failure.of(format_args!("line {} (the {done} messages before it are enqueued)", index + 1))
        };
        let line = line.map_err(|error| place(error.into()))?;
        if line.trim().is_empty() {
            continue;
        }
        match parse(&line) {
            Ok(message) => batch.push(message),
            // Those before it are right, and whoever repairs the line goes on from there.
            Err(failure) => {
                opened.outbox.enqueue(&batch).await?;
                done += batch.len();
                return Err(failure
                    .of(format_args!("line {} (the {done} messages before it are enqueued)", index + 1)));
            }
        }
        if batch.len() == BATCH {
            opened.outbox.enqueue(&batch).await.map_err(|error| place(error.into()))?;
            done += batch.len();
            batch.clear();
        }
    }
    opened.outbox.enqueue(&batch).await.map_err(|error| {
        Failure::from(error).of(format_args!("the last {} messages ({done} are enqueued)", batch.len()))
    })?;
    Ok(done + batch.len())
}

fn parse(line: &str) -> Result<Message, Failure> {
    let line: Line = serde_json::from_str(line).map_err(|error| Failure::wrong(error.to_string()))?;
    let mut builder = match (line.payload, line.payload_base64) {
        (Some(_), Some(_)) => {
            return Err(Failure::wrong("both payload and payload_base64 are given; keep one of them"));
        }
        (Some(Value::String(text)), None) => Message::bytes(line.topic, text),
        (Some(json), None) => Message::json(line.topic, &json)?,
        (None, Some(text)) => {
            let bytes = BASE64_STANDARD
                .decode(text)
                .map_err(|error| Failure::wrong(format!("payload_base64 is not valid base64: {error}")))?;
            Message::bytes(line.topic, bytes)
        }
        (None, None) => Message::bytes(line.topic, ""),
    };
    builder = builder.headers(line.headers).raw_options(Options::from_json(line.options));
    if let Some(key) = line.key {
        builder = builder.key(key);
    }
    if let Some(content_type) = line.content_type {
        builder = builder.content_type(content_type);
    }
    if let Some(id) = line.id {
        let id: MessageId = id.parse().map_err(|_| Failure::wrong(format!("id is not a UUID: {id:?}")))?;
        builder = builder.id(id);
    }
    if let Some(time) = line.deliver_at {
        let time: SystemTime = humantime::parse_rfc3339(&time).map_err(|_| {
            Failure::wrong(format!("deliver_at is not a time such as 2030-01-01T00:00:00Z: {time:?}"))
        })?;
        builder = builder.deliver_at(time);
    }
    built(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_everything_that_a_message_can_have() {
        let message = parse(
            r#"{"topic":"t","key":"k","payload":{"a":1},"headers":{"h":"v"},"options":{"amqp":{"priority":3}},
                "id":"018f0000-0000-7000-8000-000000000001","deliver_at":"2030-01-01T00:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(
            (message.topic(), message.key(), &message.payload()[..]),
            ("t", Some("k"), &b"{\"a\":1}"[..])
        );
        assert_eq!(
            (message.content_type(), message.headers()["h"].as_str()),
            (Some("application/json"), "v")
        );
        assert_eq!(message.id().to_string(), "018f0000-0000-7000-8000-000000000001");
        assert_eq!(message.deliver_at().unwrap().to_string(), "2030-01-01T00:00:00.000000Z");
        assert_eq!(message.options().as_json().len(), 1);
        assert_eq!(&parse(r#"{"topic":"t","payload":"x"}"#).unwrap().payload()[..], b"x");
        assert_eq!(&parse(r#"{"topic":"t","payload_base64":"AP8="}"#).unwrap().payload()[..], [0, 255]);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, expected) in [
            ("{}", "missing field `topic`"),
            (r#"{"topic":"t","body":1}"#, "unknown field `body`"),
            (r#"{"topic":""}"#, "the topic is empty"),
            (r#"{"topic":"t","payload":1,"payload_base64":""}"#, "both payload and payload_base64"),
            (r#"{"topic":"t","payload_base64":"%"}"#, "is not valid base64"),
            (r#"{"topic":"t","id":"7"}"#, "id is not a UUID"),
            (r#"{"topic":"t","deliver_at":"soon"}"#, "deliver_at is not a time"),
        ] {
            let failure = format!("{:?}", parse(line).unwrap_err());
            assert!(failure.contains(expected), "{expected} is not in {failure}");
        }
    }
}
