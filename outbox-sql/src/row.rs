//! From a row, whoever wrote it, to a message or to the reason why it is none.

use bytes::Bytes;
use outbox_core::{Content, Headers, Identity, Message, MessageId, Options, Timestamp};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

/// A value as a database holds it. In some of them a column can hold any of these, whatever it is declared as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'r> {
    /// `NULL`.
    Null,
    /// A number of whatever kind.
    Number,
    /// A text. Not necessarily UTF-8.
    Text(&'r [u8]),
    /// Bytes.
    Blob(&'r [u8]),
}

impl<'r> Cell<'r> {
    /// A text, or `NULL`.
    pub fn text(value: Option<&'r (impl AsRef<[u8]> + ?Sized)>) -> Self {
        value.map_or(Self::Null, |value| Self::Text(value.as_ref()))
    }

    /// Bytes, or `NULL`.
    pub fn blob(value: Option<&'r (impl AsRef<[u8]> + ?Sized)>) -> Self {
        value.map_or(Self::Null, |value| Self::Blob(value.as_ref()))
    }
}

impl Cell<'_> {
    fn describe(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Number => "a number",
            Self::Text(_) => "text",
            Self::Blob(_) => "a blob",
        }
    }
}

/// The seven columns that make a message, undecoded.
#[derive(Clone, Copy, Debug)]
pub struct RawMessage<'r> {
    /// A UUID as a text, or as its 16 bytes.
    pub message_id: Cell<'r>,
    /// A text.
    pub topic: Cell<'r>,
    /// A text or nothing.
    pub key: Cell<'r>,
    /// Bytes, or a text, which is taken as the bytes of its UTF-8.
    pub payload: Cell<'r>,
    /// A text or nothing.
    pub content_type: Cell<'r>,
    /// The text of a JSON object of texts.
    pub headers: Cell<'r>,
    /// The text of a JSON object.
    pub options: Cell<'r>,
}

impl RawMessage<'_> {
    /// The message, or what is wrong with every column that has something wrong.
    pub fn content(self, deliver_at: Option<Timestamp>) -> Content {
        let mut problems = Vec::new();
        let mut note = |problem: String| problems.push(problem);

        let id = id(self.message_id).map_err(&mut note).ok();
        let topic = topic(self.topic).map_err(&mut note).ok();
        let key = text("key", self.key).map_err(&mut note).ok();
        let payload = payload(self.payload).map_err(&mut note).ok();
        let content_type = text("content_type", self.content_type).map_err(&mut note).ok();
        let headers = headers(self.headers).map_err(&mut note).ok();
        let options = options(self.options).map_err(&mut note).ok();

        // Read again where it is needed, so that a sound row is copied once.
        let malformed = |reason: String| Content::Malformed {
            id,
            topic: self::topic(self.topic).ok(),
            key: text("key", self.key).ok().flatten(),
            reason,
        };
        let (
            Some(id),
            Some(topic),
            Some(key),
            Some(payload),
            Some(content_type),
            Some(headers),
            Some(options),
        ) = (id, topic, key, payload, content_type, headers, options)
        else {
            return malformed(problems.join("; "));
        };
        let mut builder = Message::bytes(topic, payload).id(id).headers(headers).raw_options(options);
        if let Some(time) = deliver_at {
            builder = builder.deliver_at(time);
        }
        if let Some(key) = key {
            builder = builder.key(key);
        }
        if let Some(content_type) = content_type {
            builder = builder.content_type(content_type);
        }
        builder.build().map_or_else(|error| malformed(error.to_string()), Content::Message)
    }
}

/// Returns the identity of a row from its id, as it is stored, and its time of enqueueing. Sixteen bytes are taken as they are, anything
/// else by a digest, in which a text differs from the same bytes.
pub fn identity(message_id: Cell<'_>, enqueued_at: i64) -> Identity {
    let id = match message_id {
        Cell::Blob(bytes) => bytes.try_into().unwrap_or_else(|_| digest(1, bytes)),
        Cell::Text(bytes) => digest(2, bytes),
        Cell::Number => digest(3, b""),
        Cell::Null => digest(4, b""),
    };
    Identity::new(id, enqueued_at)
}

/// FNV-1a with 128 bits. It has to tell ids apart that differ by chance, not those of somebody who may write to the table.
fn digest(kind: u8, bytes: &[u8]) -> [u8; 16] {
    let hash =
        std::iter::once(&kind).chain(bytes).fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        });
    hash.to_be_bytes()
}

/// A count of attempts: none if it is negative, and the most that we count if it is beyond that.
pub fn attempts(stored: i64) -> u32 {
    u32::try_from(stored.max(0)).unwrap_or(u32::MAX)
}

fn topic(cell: Cell<'_>) -> Result<String, String> {
    text("topic", cell)?.ok_or_else(|| "column topic is NULL; name a destination".to_owned())
}

fn id(cell: Cell<'_>) -> Result<MessageId, String> {
    let parsed = match cell {
        Cell::Text(bytes) => Uuid::try_parse_ascii(bytes),
        // How some drivers bind a UUID.
        Cell::Blob(bytes) => Uuid::from_slice(bytes),
        Cell::Null | Cell::Number => {
            return Err(format!("column message_id holds {}, a UUID as text is needed", cell.describe()));
        }
    };
    parsed.map(MessageId::from).map_err(|error| {
        let what = cell.describe();
        format!("column message_id holds {what} that is no UUID: {error}")
    })
}

fn text(column: &str, cell: Cell<'_>) -> Result<Option<String>, String> {
    match cell {
        Cell::Null => Ok(None),
        Cell::Text(bytes) => {
            let text = std::str::from_utf8(bytes)
                .map_err(|error| format!("column {column} holds text that is not UTF-8: {error}"))?;
            match text.find('\0') {
                None => Ok(Some(text.to_owned())),
                Some(at) => Err(format!(
                    "column {column} holds a NUL character (at byte {at}), which several brokers cannot keep"
                )),
            }
        }
        Cell::Number | Cell::Blob(_) => {
            Err(format!("column {column} holds {}, text is needed", cell.describe()))
        }
    }
}

fn payload(cell: Cell<'_>) -> Result<Bytes, String> {
    match cell {
        // Text is taken as its UTF-8 bytes: it is what one writes by hand for a JSON payload.
        Cell::Text(bytes) | Cell::Blob(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        Cell::Null | Cell::Number => {
            Err(format!("column payload holds {}, a blob (or text) is needed", cell.describe()))
        }
    }
}

const HEADERS: &str =
    "column headers: needed is a JSON object with a text for every name, such as {\"tenant\": \"acme\"}";
const OPTIONS: &str = "column options: needed is a JSON object with an object for each publisher, such as {\"amqp\": \
                       {\"priority\": 5}}";

fn json<'r>(needed: &str, cell: Cell<'r>) -> Result<&'r [u8], String> {
    match cell {
        Cell::Text(bytes) => Ok(bytes),
        Cell::Null | Cell::Number | Cell::Blob(_) => Err(format!("{needed}; found {}", cell.describe())),
    }
}

fn object(needed: &str, json: &[u8]) -> Result<Map<String, Json>, String> {
    match serde_json::from_slice(json) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(other) => Err(format!("{needed}; found {}", kind_of(&other))),
        Err(error) => Err(format!("{needed}; found no JSON: {error}")),
    }
}

/// What a value is, but not the value itself: reasons are logged, and values may be personal.
fn kind_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

fn options(cell: Cell<'_>) -> Result<Options, String> {
    let json = json(OPTIONS, cell)?;
    if json == b"{}" {
        return Ok(Options::new());
    }
    object(OPTIONS, json).map(Options::from_json)
}

fn headers(cell: Cell<'_>) -> Result<Headers, String> {
    let json = json(HEADERS, cell)?;
    if json == b"{}" {
        return Ok(Headers::new());
    }
    // The usual case needs no detour over JSON values.
    let headers = match serde_json::from_slice::<Headers>(json) {
        Ok(headers) => headers,
        Err(error) => {
            let headers = object(HEADERS, json)?;
            let wrong = headers.iter().find(|(_, value)| !value.is_string());
            return Err(match wrong {
                Some((name, value)) => format!("{HEADERS}; found {} for {name:?}", kind_of(value)),
                None => format!("{HEADERS}; {error}"),
            });
        }
    };
    match headers.iter().find(|(name, value)| name.is_empty() || name.contains('\0') || value.contains('\0'))
    {
        Some((name, _)) => Err(format!("{HEADERS}; {name:?} is empty or holds a NUL character")),
        None => Ok(headers),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: RawMessage<'static> = RawMessage {
        message_id: Cell::Text(b"018f4d2e-7b1a-7c3d-9e5f-0123456789ab"),
        topic: Cell::Text(b"orders"),
        key: Cell::Text(b"k"),
        payload: Cell::Blob(b"\x00\xff"),
        content_type: Cell::Null,
        headers: Cell::Text(b"{\"a\":\"b\"}"),
        options: Cell::Text(b"{}"),
    };

    fn reason(raw: RawMessage<'_>) -> String {
        match raw.content(None) {
            Content::Malformed { reason, .. } => reason,
            Content::Message(message) => panic!("readable: {message:?}"),
        }
    }

    #[test]
    fn a_good_row_is_a_message() {
        let Content::Message(message) = GOOD.content(None) else { panic!() };
        assert_eq!(message.topic(), "orders");
        assert_eq!(message.key(), Some("k"));
        assert_eq!(message.payload().as_ref(), b"\x00\xff");
        assert_eq!(message.headers()["a"], "b");
    }

    #[test]
    fn ids_are_read_in_every_usual_spelling() {
        let blob = [7_u8; 16];
        for cell in [
            Cell::Text(b"018F4D2E-7B1A-7C3D-9E5F-0123456789AB"),
            Cell::Text(b"018f4d2e7b1a7c3d9e5f0123456789ab"),
            Cell::Blob(&blob),
        ] {
            assert!(
                matches!(RawMessage { message_id: cell, ..GOOD }.content(None), Content::Message(_)),
                "{cell:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_column() {
        let bad = Cell::Blob(b"x");
        for (raw, column) in [
            (RawMessage { message_id: bad, ..GOOD }, "message_id"),
            (RawMessage { message_id: Cell::Text(b"x"), ..GOOD }, "message_id"),
            (RawMessage { message_id: Cell::Null, ..GOOD }, "message_id"),
            (RawMessage { topic: bad, ..GOOD }, "topic"),
            (RawMessage { topic: Cell::Text(b""), ..GOOD }, "topic"),
            (RawMessage { topic: Cell::Text(b"a\0b"), ..GOOD }, "topic"),
            (RawMessage { topic: Cell::Text(b"\xff"), ..GOOD }, "topic"),
            (RawMessage { topic: Cell::Null, ..GOOD }, "topic"),
            (RawMessage { key: bad, ..GOOD }, "key"),
            (RawMessage { key: Cell::Text(b"\xc3\x28"), ..GOOD }, "key"),
            (RawMessage { payload: Cell::Number, ..GOOD }, "payload"),
            (RawMessage { payload: Cell::Null, ..GOOD }, "payload"),
            (RawMessage { content_type: Cell::Number, ..GOOD }, "content_type"),
            (RawMessage { headers: Cell::Text(b"{"), ..GOOD }, "headers"),
            (RawMessage { headers: Cell::Text(b"[]"), ..GOOD }, "headers"),
            (RawMessage { headers: Cell::Text(b"{\"a\":1}"), ..GOOD }, "headers"),
            (RawMessage { headers: Cell::Text(b"{\"\":\"1\"}"), ..GOOD }, "headers"),
            (RawMessage { headers: Cell::Null, ..GOOD }, "headers"),
            (RawMessage { headers: Cell::Text(b"{\"a\":\"\\u0000\"}"), ..GOOD }, "headers"),
            (RawMessage { options: Cell::Text(b"1"), ..GOOD }, "options"),
            (RawMessage { options: bad, ..GOOD }, "options"),
        ] {
            assert!(reason(raw).contains(column), "{}", reason(raw));
        }
    }

    #[test]
    fn a_reason_tells_what_belongs_there_and_not_what_was_found() {
        for (json, found) in [
            (r#"{"a":1}"#, r#"found a number for "a""#),
            (r#"{"a":"x","b":{"secret":1}}"#, r#"found an object for "b""#),
            ("[1]", "found an array"),
            ("null", "found null"),
            (r#""secret""#, "found a text"),
            (r#"{"":"x"}"#, r#""" is empty or holds a NUL character"#),
        ] {
            let reason = headers(Cell::Text(json.as_bytes())).unwrap_err();
            assert!(reason.starts_with("column headers: needed") && reason.ends_with(found), "{reason}");
            assert!(!reason.contains("secret"));
        }
        let reason = options(Cell::Text(b"7")).unwrap_err();
        assert!(
            reason.starts_with("column options: needed") && reason.ends_with("found a number"),
            "{reason}"
        );
    }

    #[test]
    fn every_problem_is_named_and_what_is_readable_is_kept() {
        let raw = RawMessage { headers: Cell::Number, options: Cell::Text(b"nope"), ..GOOD };
        let Content::Malformed { id, topic, key, reason } = raw.content(None) else { panic!() };
        assert!(id.is_some() && topic.as_deref() == Some("orders") && key.as_deref() == Some("k"));
        assert!(reason.contains("headers") && reason.contains("options"), "{reason}");
    }

    fn any_cell() -> impl Strategy<Value = (u8, Vec<u8>)> {
        (0..4_u8, prop::collection::vec(any::<u8>(), 0..40))
    }

    fn to_cell((kind, bytes): &(u8, Vec<u8>)) -> Cell<'_> {
        match kind {
            0 => Cell::Null,
            1 => Cell::Number,
            2 => Cell::Text(bytes),
            _ => Cell::Blob(bytes),
        }
    }

    proptest! {
        #[test]
        fn no_row_is_too_strange(cells in prop::array::uniform7(any_cell())) {
            let [message_id, topic, key, payload, content_type, headers, options] = cells.each_ref().map(to_cell);
            let raw = RawMessage { message_id, topic, key, payload, content_type, headers, options };
            if let Content::Malformed { reason, .. } = raw.content(None) {
                prop_assert!(!reason.is_empty());
            }
        }
    }
}
