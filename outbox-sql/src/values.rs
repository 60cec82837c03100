//! A message as the values of a row.

use std::borrow::Cow;

use outbox_core::{Error, Message, MessageId, Result, Timestamp};
use serde::Serialize;

/// The values of one message, in the order of the parameters of every statement that inserts one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Values<'m> {
    /// The message id.
    pub id: MessageId,
    /// The topic.
    pub topic: &'m str,
    /// The key.
    pub key: Option<&'m str>,
    /// The payload.
    pub payload: &'m [u8],
    /// The content type.
    pub content_type: Option<&'m str>,
    /// The headers, a JSON object of strings.
    pub headers: Cow<'static, str>,
    /// The options, a JSON object.
    pub options: Cow<'static, str>,
    /// The earliest time of delivery.
    pub available_at: Option<Timestamp>,
}

impl<'m> Values<'m> {
    /// Returns the values of a message.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](outbox_core::ErrorKind::Malformed) if headers or options cannot be written as JSON.
    pub fn of(message: &'m Message) -> Result<Self> {
        Ok(Self {
            id: message.id(),
            topic: message.topic(),
            key: message.key(),
            payload: message.payload(),
            content_type: message.content_type(),
            headers: json("headers", message.headers().is_empty(), message.headers())?,
            options: json("options", message.options().is_empty(), message.options())?,
            available_at: message.deliver_at(),
        })
    }

    /// Returns the number of bytes of all values together.
    pub fn bytes(&self) -> usize {
        const ID_AND_TIME: usize = 24;
        let texts = [self.topic, self.key.unwrap_or_default(), self.content_type.unwrap_or_default()];
        texts.iter().map(|text| text.len()).sum::<usize>()
            + self.payload.len()
            + self.headers.len()
            + self.options.len()
            + ID_AND_TIME
    }
}

/// Most messages have neither headers nor options.
fn json(name: &'static str, empty: bool, value: &impl Serialize) -> Result<Cow<'static, str>> {
    if empty {
        return Ok(Cow::Borrowed("{}"));
    }
    serde_json::to_string(value).map(Cow::Owned).map_err(|source| {
        Error::malformed("a value cannot be written as JSON").with("value", name).with_source(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_headers_and_options_has_empty_objects() {
        let message = Message::bytes("topic", "payload").build().unwrap();
        let values = Values::of(&message).unwrap();
        assert_eq!((&*values.headers, &*values.options), ("{}", "{}"));
        assert_eq!((values.key, values.content_type, values.available_at), (None, None, None));
        assert_eq!(values.bytes(), "topic".len() + "payload".len() + 2 * "{}".len() + 24);
    }

    #[test]
    fn headers_are_an_object_of_strings() {
        let message = Message::bytes("t", "p").key("k").header("b", "2\"").header("a", "1").build().unwrap();
        let values = Values::of(&message).unwrap();
        assert_eq!(values.headers, r#"{"a":"1","b":"2\""}"#);
        assert_eq!((values.id, values.key), (message.id(), Some("k")));
    }
}
