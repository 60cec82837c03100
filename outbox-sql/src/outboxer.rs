//! Reading the table of *outboxer*, a library for Go, to move what is left in it into an outbox of ours.

use outbox_core::{Error, ErrorKind, Headers, Message, Options, Result};
use serde_json::{Map, Value, json};

/// An event that outboxer has not dispatched.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its number in outboxer's table.
    pub id: i64,
    /// The payload.
    pub payload: Vec<u8>,
    /// The options, by the names that outboxer's event streams give them.
    pub options: Map<String, Value>,
    /// The headers. Any JSON is allowed as a value.
    pub headers: Map<String, Value>,
}

impl Event {
    /// From the columns of a row, of which the JSON ones may be `NULL`.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if a column holds something else than a JSON object.
    pub fn read(id: i64, payload: Vec<u8>, options: Option<&[u8]>, headers: Option<&[u8]>) -> Result<Self> {
        let object = |column: &'static str, json: Option<&[u8]>| match json.map(serde_json::from_slice) {
            None | Some(Ok(Value::Null)) => Ok(Map::new()),
            Some(Ok(Value::Object(object))) => Ok(object),
            Some(_) => {
                Err(Error::malformed("a column of outboxer's table holds no JSON object; put it right")
                    .with("column", column)
                    .with("id", id))
            }
        };
        Ok(Self { id, payload, options: object("options", options)?, headers: object("headers", headers)? })
    }

    /// The message for this event, as outboxer's AMQP stream would have published it: to the exchange
    /// `exchange.name` with the routing key `routing_key`, which becomes the topic too. An event without a routing
    /// key gets the exchange's name as its topic.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if the options name no destination, or have a type that outboxer does not give them.
    pub fn amqp(&self) -> Result<Message> {
        let exchange = self.text("exchange.name")?;
        let routing_key = self.text("routing_key")?;
        let topic = [routing_key, exchange].into_iter().flatten().find(|name| !name.is_empty());
        let options = [
            ("exchange.name", "exchange"),
            ("exchange.type", "exchange_type"),
            ("exchange.durable", "exchange_durable"),
            ("exchange.auto_delete", "exchange_auto_delete"),
            ("exchange.internal", "exchange_internal"),
            ("exchange.no_wait", "exchange_no_wait"),
            ("routing_key", "routing_key"),
        ];
        let mut amqp = self.renamed(&options);
        // What outboxer does by default: it declares every exchange, as a durable one for topics.
        if exchange.is_some_and(|name| !name.is_empty()) {
            amqp.entry("exchange_type").or_insert_with(|| json!("topic"));
        }
        self.message(topic, None, "amqp", amqp)
    }

    /// The message for this event, as outboxer's SQS stream would have published it: to the queue `queue_name`. The
    /// group, if there is one, becomes the key.
    ///
    /// # Errors
    /// As [`amqp`](Self::amqp).
    pub fn sqs(&self) -> Result<Message> {
        let options = [
            ("delay_seconds", "delay_seconds"),
            ("message_group_id", "message_group_id"),
            ("message_dedup_id", "message_deduplication_id"),
        ];
        self.message(self.text("queue_name")?, self.text("message_group_id")?, "sqs", self.renamed(&options))
    }

    /// The message for this event, as outboxer's Kinesis stream would have published it: to the stream `stream_name`.
    /// The partition key, if there is one, becomes the key.
    ///
    /// # Errors
    /// As [`amqp`](Self::amqp).
    pub fn kinesis(&self) -> Result<Message> {
        let options = [("explicit_hash_key", "explicit_hash_key"), ("partition_key", "partition_key")];
        self.message(
            self.text("stream_name")?,
            self.text("partition_key")?,
            "kinesis",
            self.renamed(&options),
        )
    }

    /// The message for this event, as outboxer's Pub/Sub stream would have published it: to the topic `topic_name`.
    /// The ordering key, if there is one, becomes the key.
    ///
    /// # Errors
    /// As [`amqp`](Self::amqp).
    pub fn pubsub(&self) -> Result<Message> {
        self.message(self.text("topic_name")?, self.text("ordering_key")?, "pubsub", Map::new())
    }

    fn message(
        &self,
        topic: Option<&str>,
        key: Option<&str>,
        publisher: &str,
        options: Map<String, Value>,
    ) -> Result<Message> {
        let topic = topic.ok_or_else(|| {
            self.malformed("an event of outboxer's names no destination; make a message of it yourself")
        })?;
        let mut message = Message::bytes(topic, self.payload.clone()).headers(self.texts());
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            message = message.key(key);
        }
        if !options.is_empty() {
            let options = Map::from_iter([(publisher.to_owned(), Value::Object(options))]);
            message = message.raw_options(Options::from_json(options));
        }
        message.build().map_err(|error| error.with("id", self.id))
    }

    /// The headers as texts: what is none is written as JSON.
    pub fn texts(&self) -> Headers {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }

    fn text(&self, option: &'static str) -> Result<Option<&str>> {
        match self.options.get(option) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => {
                Err(self.malformed("an option of outboxer's is no text; put it right").with("option", option))
            }
        }
    }

    fn renamed(&self, names: &[(&str, &str)]) -> Map<String, Value> {
        let there = names.iter().filter_map(|(theirs, ours)| Some((ours, self.options.get(*theirs)?)));
        there.map(|(ours, value)| ((*ours).to_owned(), value.clone())).collect()
    }

    fn malformed(&self, problem: &'static str) -> Error {
        Error::new(ErrorKind::Malformed, problem).with("id", self.id)
    }
}

/// The name of a table as somebody writes it, with a schema before a dot or without one, as its parts.
///
/// # Errors
/// [`ErrorKind::Config`] if a part is missing or holds a NUL character.
pub fn table_parts(table: &str) -> Result<Vec<&str>> {
    let parts: Vec<&str> = table.split('.').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty() || part.contains('\0')) {
        return Err(Error::config("this is no name of a table, with or without a schema")
            .with("table", table.escape_debug()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(options: Value, headers: Value) -> Event {
        let json = |value: Value| value.to_string().into_bytes();
        Event::read(7, b"payload".to_vec(), Some(&json(options)), Some(&json(headers))).unwrap()
    }

    #[test]
    fn an_event_for_amqp_goes_where_outboxer_would_have_sent_it() {
        let options =
            json!({"exchange.name": "shop", "exchange.durable": false, "routing_key": "order.placed"});
        let message = event(options, json!({"tenant": "acme", "retries": 3})).amqp().unwrap();
        assert_eq!(message.topic(), "order.placed");
        assert_eq!(message.headers()["tenant"], "acme");
        assert_eq!(message.headers()["retries"], "3");
        assert_eq!(
            serde_json::to_value(message.options()).unwrap(),
            json!({"amqp": {"exchange": "shop", "exchange_type": "topic", "exchange_durable": false,
                "routing_key": "order.placed"}})
        );
        let fanout = event(json!({"exchange.name": "shop", "exchange.type": "fanout"}), json!({}));
        assert_eq!(fanout.amqp().unwrap().topic(), "shop");
    }

    #[test]
    fn events_for_the_clouds_keep_their_destination_key_and_options() {
        let options = json!({"queue_name": "q.fifo", "message_group_id": "g", "message_dedup_id": "d", "delay_seconds": 5});
        let sqs = event(options, json!({})).sqs().unwrap();
        assert_eq!((sqs.topic(), sqs.key()), ("q.fifo", Some("g")));
        assert_eq!(
            serde_json::to_value(sqs.options()).unwrap(),
            json!({"sqs": {"message_group_id": "g", "message_deduplication_id": "d", "delay_seconds": 5}})
        );
        let kinesis = event(json!({"stream_name": "s", "partition_key": "p"}), json!({})).kinesis().unwrap();
        assert_eq!((kinesis.topic(), kinesis.key()), ("s", Some("p")));
        let pubsub = event(json!({"topic_name": "t", "ordering_key": ""}), json!({})).pubsub().unwrap();
        assert_eq!((pubsub.topic(), pubsub.key()), ("t", None));
    }

    #[test]
    fn what_cannot_be_understood_is_told_with_its_number() {
        let nowhere = event(json!({}), json!({})).amqp().unwrap_err();
        assert!(nowhere.report().contains("id=7") || nowhere.report().contains('7'), "{}", nowhere.report());
        event(json!({"queue_name": 3}), json!({})).sqs().unwrap_err();
        Event::read(7, Vec::new(), Some(b"[1]"), None).unwrap_err();
        assert_eq!(Event::read(7, Vec::new(), None, Some(b"null")).unwrap().headers, Map::new());
    }

    #[test]
    fn a_table_may_have_a_schema() {
        assert_eq!(table_parts("event_store").unwrap(), ["event_store"]);
        assert_eq!(table_parts("old.events").unwrap(), ["old", "events"]);
        for nonsense in ["", ".x", "x.", "a.b.c", "a\0"] {
            assert_eq!(table_parts(nonsense).unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
