//! Which stream a message goes to.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use outbox_core::Message;

use crate::text::is_stream_name;

/// A stream, by name or by ARN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stream(Address);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    Name(String),
    Arn(String),
}

impl Stream {
    /// The stream of this name, in the client's account and region.
    pub fn name(name: impl Into<String>) -> Self {
        Self(Address::Name(name.into()))
    }

    /// The stream of this ARN, such as `arn:aws:kinesis:eu-central-1:123456789012:stream/orders`. It may be in another
    /// account, but not in another region than the client.
    pub fn arn(arn: impl Into<String>) -> Self {
        Self(Address::Arn(arn.into()))
    }

    /// What to set of a request: its name, or its ARN.
    pub(crate) fn name_and_arn(&self) -> (Option<String>, Option<String>) {
        match &self.0 {
            Address::Name(name) => (Some(name.clone()), None),
            Address::Arn(arn) => (None, Some(arn.clone())),
        }
    }

    /// Its name or ARN, for people.
    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            Address::Arn(text) | Address::Name(text) => text,
        }
    }

    /// Whether there can be such a stream.
    pub(crate) fn is_possible(&self) -> bool {
        match &self.0 {
            Address::Name(name) => is_stream_name(name),
            Address::Arn(arn) => arn
                .rsplit_once(":stream/")
                .is_some_and(|(before, name)| before.starts_with("arn:") && is_stream_name(name)),
        }
    }
}

type Rule = Arc<dyn Fn(&Message) -> Stream + Send + Sync>;

/// The publisher's routing: a table by topic, else a closure, else one stream for all, else the topic as the name.
#[derive(Clone, Default)]
pub(crate) struct Routing {
    pub(crate) table: HashMap<String, Stream>,
    pub(crate) rule: Option<Rule>,
    pub(crate) stream: Option<Stream>,
}

impl Routing {
    pub(crate) fn route(&self, message: &Message) -> Stream {
        match (self.table.get(message.topic()), &self.rule, &self.stream) {
            (Some(stream), _, _) | (None, None, Some(stream)) => stream.clone(),
            (None, Some(rule), _) => rule(message),
            (None, None, None) => Stream::name(message.topic()),
        }
    }

    /// The streams it names itself.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.table.values().chain(&self.stream)
    }
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing")
            .field("table", &self.table)
            .field("rule", &self.rule.is_some())
            .field("stream", &self.stream)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_before_the_rule_and_the_rule_before_the_rest() {
        let message = |topic: &str| Message::bytes(topic, "").build().unwrap();
        let mut routing = Routing::default();
        assert_eq!(routing.route(&message("a")), Stream::name("a"));
        routing.stream = Some(Stream::name("all"));
        assert_eq!(routing.route(&message("a")), Stream::name("all"));
        routing.rule = Some(Arc::new(|message| Stream::name(message.topic().to_uppercase())));
        routing.table.insert("b".to_owned(), Stream::name("table"));
        assert_eq!(routing.route(&message("a")), Stream::name("A"));
        assert_eq!(routing.route(&message("b")), Stream::name("table"));
    }

    #[test]
    fn an_arn_is_told_from_nonsense() {
        assert!(Stream::arn("arn:aws:kinesis:eu-central-1:123456789012:stream/orders").is_possible());
        for nonsense in ["orders", "arn:aws:sqs:eu-central-1:1:orders", "x:stream/orders", "arn:aws:stream/"]
        {
            assert!(!Stream::arn(nonsense).is_possible(), "{nonsense}");
        }
    }
}
