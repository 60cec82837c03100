//! From rows to messages, without trusting what others wrote.

use std::time::Duration;

use outbox_core::{
    Content, Error, ErrorKind, Fetched, Headers, Message, MessageId, Options, Partition, Position, Result,
    Timestamp,
};
use serde_json::Value;
use sqlx::postgres::{PgRow, PgValueRef};
use sqlx::{Row as _, ValueRef as _};
use uuid::Uuid;

use crate::error::map_error;
use crate::sql::Column;

/// From 1970-01-01, where we count from, to 2000-01-01, where PostgreSQL does, in microseconds.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Reads columns by their position.
///
/// Values that anybody may have written are taken as bytes: the driver's own conversions fail or panic on what
/// PostgreSQL allows, such as a time of infinity, and one such row must not stop all others.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'r>(pub(crate) &'r PgRow);

impl<'r> Columns<'r> {
    fn value(self, column: usize) -> Result<Option<PgValueRef<'r>>> {
        let value = self.0.try_get_raw(column).map_err(map_error)?;
        Ok((!value.is_null()).then_some(value))
    }

    pub(crate) fn bytes(self, column: usize) -> Result<Option<&'r [u8]>> {
        let Some(value) = self.value(column)? else { return Ok(None) };
        value.as_bytes().map(Some).map_err(|source| unexpected(column).with_source(source))
    }

    fn fixed<const N: usize>(self, column: usize) -> Result<Option<[u8; N]>> {
        let Some(bytes) = self.bytes(column)? else { return Ok(None) };
        bytes.try_into().map(Some).map_err(|_| unexpected(column))
    }

    pub(crate) fn bigint(self, column: usize) -> Result<Option<i64>> {
        Ok(self.fixed(column)?.map(i64::from_be_bytes))
    }

    pub(crate) fn boolean(self, column: usize) -> Result<bool> {
        Ok(self.fixed(column)?.is_some_and(|[byte]: [u8; 1]| byte != 0))
    }

    /// A time. Infinity becomes the latest or the earliest there is.
    pub(crate) fn timestamp(self, column: usize) -> Result<Option<Timestamp>> {
        let micros = self.bigint(column)?;
        Ok(micros.map(|micros| Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH))))
    }

    /// A text that only the database itself writes.
    pub(crate) fn own_text(self, column: usize) -> Result<Option<&'r str>> {
        let Some(bytes) = self.bytes(column)? else { return Ok(None) };
        std::str::from_utf8(bytes).map(Some).map_err(|source| unexpected(column).with_source(source))
    }

    pub(crate) fn lossy_text(self, column: usize) -> Result<Option<String>> {
        Ok(self.bytes(column)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    pub(crate) fn position(self) -> Result<Option<Position>> {
        Ok(self.bigint(Column::Position as usize)?.map(Position))
    }

    pub(crate) fn partition(self) -> Result<Partition> {
        let number = self.fixed(Column::Partition as usize)?.map(i16::from_be_bytes);
        let number = number.and_then(|number| u16::try_from(number).ok());
        number.map(Partition).ok_or_else(|| unexpected(Column::Partition as usize))
    }

    pub(crate) fn attempts(self) -> Result<u32> {
        // Below zero only if somebody wrote it there.
        let attempts = self.fixed(Column::Attempts as usize)?.map_or(0, i32::from_be_bytes);
        Ok(u32::try_from(attempts).unwrap_or(0))
    }

    pub(crate) fn enqueued_at(self) -> Result<Timestamp> {
        let column = Column::EnqueuedAt as usize;
        self.timestamp(column)?.ok_or_else(|| unexpected(column))
    }

    /// The message, or what is wrong with it.
    pub(crate) fn content(self) -> Result<Content> {
        let id =
            self.fixed(Column::MessageId as usize)?.map(|bytes| MessageId::from(Uuid::from_bytes(bytes)));
        let topic = self.bytes(Column::Topic as usize)?;
        let key = self.bytes(Column::Key as usize)?;
        Ok(self.message(id, topic, key)?.map_or_else(
            |reason| Content::Malformed {
                id,
                topic: topic.and_then(readable),
                key: key.and_then(readable),
                reason,
            },
            Content::Message,
        ))
    }

    fn message(
        self,
        id: Option<MessageId>,
        topic: Option<&[u8]>,
        key: Option<&[u8]>,
    ) -> Result<std::result::Result<Message, String>> {
        let content_type = self.bytes(Column::ContentType as usize)?;
        let payload = self.bytes(Column::Payload as usize)?.unwrap_or_default();
        let headers = json(self.bytes(Column::Headers as usize)?);
        let options = json(self.bytes(Column::Options as usize)?);
        let deliver_at = self.timestamp(Column::DeliverAt as usize)?;
        Ok((|| {
            let topic = text("topic", topic)?.ok_or("column topic: expected a text, found NULL")?;
            if topic.is_empty() {
                return Err("column topic: expected a destination, found an empty text".to_owned());
            }
            let id = id.ok_or("column message_id: expected a UUID, found NULL")?;
            let mut builder = Message::bytes(topic, payload.to_vec())
                .id(id)
                .headers(parse_headers(headers)?)
                .raw_options(parse_options(options)?);
            if let Some(key) = text("key", key)? {
                builder = builder.key(key);
            }
            if let Some(content_type) = text("content_type", content_type)? {
                builder = builder.content_type(content_type);
            }
            if let Some(time) = deliver_at {
                builder = builder.deliver_at(time);
            }
            builder.build().map_err(|error| error.to_string())
        })())
    }

    /// A fetched row, all but its age, which [`aged`] sets.
    pub(crate) fn fetched(self, position: Position, due: bool) -> Result<Fetched> {
        Ok(Fetched {
            position,
            partition: self.partition()?,
            attempts: self.attempts()?,
            enqueued_at: self.enqueued_at()?,
            age: Duration::ZERO,
            due,
            blocked: self.boolean(Column::Blocked as usize)?,
            content: self.content()?,
        })
    }

    pub(crate) fn payload_len(self) -> Result<usize> {
        Ok(self.bytes(Column::Payload as usize)?.map_or(0, <[u8]>::len))
    }
}

/// Sets the ages of rows that were fetched at `now`.
pub(crate) fn aged(rows: &mut [Fetched], now: Timestamp) {
    for row in rows {
        row.age = now.since(row.enqueued_at);
    }
}

fn unexpected(column: usize) -> Error {
    Error::new(ErrorKind::Schema, "a column is not what this library expects; run migrate")
        .with("column", column)
}

fn readable(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// A database with the encoding `SQL_ASCII` takes any bytes for a text.
fn text<'a>(column: &str, bytes: Option<&'a [u8]>) -> std::result::Result<Option<&'a str>, String> {
    let Some(bytes) = bytes else { return Ok(None) };
    std::str::from_utf8(bytes).map(Some).map_err(|_| format!("column {column}: expected a text in UTF-8"))
}

/// The text of a jsonb value, which comes behind a byte with its version.
fn json(value: Option<&[u8]>) -> &[u8] {
    value.and_then(|value| value.split_first()).map_or(b"null", |(_, json)| json)
}

fn parse_headers(json: &[u8]) -> std::result::Result<Headers, String> {
    const EXPECTED: &str = "column headers: expected a JSON object with a text for every name, such as \
                            {\"tenant\": \"acme\"}; found";
    // The usual case, which needs no detour over `Value`.
    if let Ok(headers) = serde_json::from_slice::<Headers>(json) {
        return match headers.contains_key("") {
            true => Err(format!("{EXPECTED} an empty name")),
            false => Ok(headers),
        };
    }
    Err(match serde_json::from_slice(json) {
        Ok(Value::Object(headers)) => match headers.iter().find(|(_, value)| !value.is_string()) {
            Some((name, value)) => format!("{EXPECTED} {} for {name:?}", kind_of(value)),
            None => format!("{EXPECTED} something else"),
        },
        Ok(other) => format!("{EXPECTED} {}", kind_of(&other)),
        Err(error) => format!("{EXPECTED} no JSON: {error}"),
    })
}

fn parse_options(json: &[u8]) -> std::result::Result<Options, String> {
    const EXPECTED: &str = "column options: expected a JSON object of objects by the publisher's name, such as \
                            {\"amqp\": {\"priority\": 5}}; found";
    if json == b"{}" {
        return Ok(Options::new());
    }
    match serde_json::from_slice::<Value>(json) {
        Ok(Value::Object(options)) => Ok(Options::from_json(options)),
        Ok(other) => Err(format!("{EXPECTED} {}", kind_of(&other))),
        Err(error) => Err(format!("{EXPECTED} no JSON: {error}")),
    }
}

/// What a value is, but not the value itself: reasons are logged, and values may be personal.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_the_column_and_what_belongs_there() {
        for (json, found) in [
            (r#"{"a":1}"#, r#"found a number for "a""#),
            (r#"{"a":"x","b":{"secret":1}}"#, r#"found an object for "b""#),
            ("[1]", "found an array"),
            ("null", "found null"),
            (r#""secret""#, "found a text"),
            (r#"{"":"x"}"#, "found an empty name"),
        ] {
            let reason = parse_headers(json.as_bytes()).unwrap_err();
            assert!(reason.starts_with("column headers: expected") && reason.ends_with(found), "{reason}");
            assert!(!reason.contains("secret"));
        }
        let reason = parse_options(b"7").unwrap_err();
        assert!(
            reason.starts_with("column options: expected") && reason.ends_with("found a number"),
            "{reason}"
        );
        assert!(text("topic", Some(&[0xff])).unwrap_err().contains("column topic"));
    }

    #[test]
    fn a_missing_version_byte_is_no_panic() {
        assert_eq!(json(Some(b"")), b"null");
        assert_eq!(json(Some(b"\x01{}")), b"{}");
    }
}
