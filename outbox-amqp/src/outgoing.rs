//! A message made ready for AMQP, with everything refused that the protocol could not carry.
//!
//! What would close the channel or the connection must not get that far: it would take other messages with it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use outbox_core::{Error, ErrorKind, Message, MessageId, Result};

use crate::options::AmqpOptions;
use crate::routing::{Route, Routing};

/// The header frame around its properties: frame type, channel, length and end (8 bytes), class, weight, body
/// length and property flags (14 bytes).
const HEADER_FRAME: usize = 22;
/// The longest message TTL RabbitMQ takes, in milliseconds.
const MAX_EXPIRATION: u64 = u32::MAX as u64;
/// Headers that the broker routes by. It wants a list in them, and closes the channel over a string. Their names are
/// case-sensitive.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];
/// The broker closes the channel over this address unless the channel has a consumer for the answers.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// An exchange that must be there before a message goes to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ExchangeSpec {
    pub(crate) name: String,
    /// How to make it, or `None` if it must exist already.
    pub(crate) declaration: Option<Declaration>,
}

/// How a message wants its exchange declared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Declaration {
    pub(crate) kind: String,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) no_wait: bool,
}

/// A message ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) id: MessageId,
    pub(crate) payload: &'a [u8],
    pub(crate) exchange: ExchangeSpec,
    pub(crate) routing_key: String,
    /// Whether the broker returns the message if no queue takes it.
    pub(crate) mandatory: bool,
    pub(crate) properties: BasicProperties,
    /// The size of the content header frame, which must fit into the connection's largest frame.
    pub(crate) header_frame: usize,
}

impl<'a> Outgoing<'a> {
    /// Reads the message's options, routes it and translates its properties.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], both permanent.
    pub(crate) fn new(
        index: usize,
        message: &'a Message,
        routing: &Routing,
        max_bytes: usize,
    ) -> Result<Self> {
        let options = message.options().get::<AmqpOptions>()?.unwrap_or_default();
        let payload = message.payload();
        if payload.len() > max_bytes {
            return Err(Error::new(ErrorKind::TooLarge, "the payload is larger than the publisher's limit")
                .with("bytes", payload.len())
                .with("max_message_bytes", max_bytes));
        }
        let mut routed = match (&options.exchange, &options.routing_key) {
            (Some(exchange), Some(key)) => Route::new(exchange.as_str(), key.as_str()),
            _ => routing.route(message),
        };
        // A route's own setting belongs to its own exchange.
        routed.mandatory |= options.exchange.is_some();
        let exchange = exchange(&options, options.exchange.clone().unwrap_or(routed.exchange))?;
        let routing_key = options.routing_key.clone().unwrap_or(routed.routing_key);
        short("routing_key", &routing_key)?;
        let mandatory = routed.mandatory && routing.is_mandatory(&exchange.name);
        let (properties, properties_size) = properties(message, &options)?;
        Ok(Self {
            index,
            id: message.id(),
            payload,
            exchange,
            routing_key,
            mandatory,
            properties,
            header_frame: HEADER_FRAME + properties_size,
        })
    }

    /// Whether the properties fit into one frame, as AMQP demands: the broker closes the connection otherwise.
    pub(crate) fn fits(&self, frame_max: usize) -> Result<()> {
        if self.header_frame > frame_max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the headers and properties are larger than one AMQP frame; shorten them, or raise frame_max on \
                 the broker",
            )
            .with("bytes", self.header_frame)
            .with("frame_max", frame_max));
        }
        Ok(())
    }
}

/// A text as AMQP's short string.
///
/// # Errors
/// [`ErrorKind::Malformed`] above 255 bytes.
pub(crate) fn short(field: &'static str, text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| {
        Error::malformed("a text is longer than the 255 bytes which AMQP allows")
            .with("field", field)
            .with("bytes", text.len())
    })
}

/// Refuses the names that no exchange has. The broker drops line breaks when it declares or looks up an exchange, but
/// not when it publishes: it would find the exchange and then close the channel.
///
/// # Errors
/// [`ErrorKind::Malformed`].
pub(crate) fn possible_exchange(name: &str) -> Result<()> {
    if name.contains(['\r', '\n']) {
        return Err(Error::malformed("the exchange name contains a line break")
            .with("exchange", format_args!("{name:?}")));
    }
    Ok(())
}

fn exchange(options: &AmqpOptions, name: String) -> Result<ExchangeSpec> {
    short("exchange", &name)?;
    possible_exchange(&name)?;
    let Some(kind) = &options.exchange_type else {
        let orphan = [
            ("exchange_durable", options.exchange_durable),
            ("exchange_auto_delete", options.exchange_auto_delete),
            ("exchange_internal", options.exchange_internal),
            ("exchange_no_wait", options.exchange_no_wait),
        ];
        if let Some((field, _)) = orphan.iter().find(|(_, value)| value.is_some()) {
            return Err(Error::malformed("an exchange is declared only if exchange_type is set as well")
                .with("field", field));
        }
        return Ok(ExchangeSpec { name, declaration: None });
    };
    if options.exchange.as_deref().is_none_or(str::is_empty) {
        return Err(Error::malformed(
            "exchange_type declares the exchange named by exchange, which is not set",
        ));
    }
    short("exchange_type", kind)?;
    if kind.is_empty() || kind.chars().any(char::is_control) || name.chars().any(char::is_control) {
        return Err(Error::malformed(
            "a declared exchange needs a name and a type without control characters",
        ));
    }
    if options.exchange_internal == Some(true) {
        return Err(Error::malformed("an internal exchange takes no message from a publisher")
            .with("field", "exchange_internal"));
    }
    let declaration = Declaration {
        kind: kind.clone(),
        durable: options.exchange_durable.unwrap_or(true),
        auto_delete: options.exchange_auto_delete.unwrap_or(false),
        no_wait: options.exchange_no_wait.unwrap_or(false),
    };
    Ok(ExchangeSpec { name, declaration: Some(declaration) })
}

/// The properties, and how many bytes they take on the wire.
fn properties(message: &Message, options: &AmqpOptions) -> Result<(BasicProperties, usize)> {
    let persistent = options.persistent.unwrap_or(true);
    let mut properties = BasicProperties::default()
        .with_message_id(short("message_id", &message.id().to_string())?)
        .with_delivery_mode(if persistent { PERSISTENT } else { TRANSIENT });
    let mut size = 1 + 36 + 1;

    let mut text = |field, value: Option<&str>, set: fn(BasicProperties, ShortString) -> BasicProperties| {
        if let Some(value) = value {
            let value_short = short(field, value)?;
            size += 1 + value.len();
            properties = set(std::mem::take(&mut properties), value_short);
        }
        Ok::<_, Error>(())
    };
    if options.reply_to.as_deref() == Some(DIRECT_REPLY_TO) {
        return Err(Error::malformed(
            "reply_to names the direct reply queue, which belongs to a consumer on the publisher's own channel",
        )
        .with("reply_to", DIRECT_REPLY_TO));
    }
    let expiration = expiration(options)?;
    text("content_type", message.content_type(), BasicProperties::with_content_type)?;
    text("content_encoding", options.content_encoding.as_deref(), BasicProperties::with_content_encoding)?;
    text("correlation_id", options.correlation_id.as_deref(), BasicProperties::with_correlation_id)?;
    text("reply_to", options.reply_to.as_deref(), BasicProperties::with_reply_to)?;
    text("expiration", expiration.as_deref(), BasicProperties::with_expiration)?;
    text("type", options.message_type.as_deref(), BasicProperties::with_type)?;
    text("app_id", options.app_id.as_deref(), BasicProperties::with_app_id)?;

    if let Some(priority) = options.priority {
        size += 1;
        properties = properties.with_priority(priority);
    }
    if let Some(seconds) = options.timestamp {
        size += 8;
        properties = properties.with_timestamp(seconds);
    }
    if !message.headers().is_empty() {
        let mut table = FieldTable::default();
        size += 4;
        for (name, value) in message.headers() {
            // Name with its length, type tag, value with its length.
            size += 1 + name.len() + 1 + 4 + value.len();
            if ROUTING_HEADERS.contains(&name.as_str()) {
                return Err(Error::malformed(
                    "the header is reserved: the broker takes CC and BCC for lists of routing keys",
                )
                .with("header", name));
            }
            table.insert(short("header", name)?, AMQPValue::LongString(value.as_str().into()));
        }
        properties = properties.with_headers(table);
    }
    Ok((properties, size))
}

fn expiration(options: &AmqpOptions) -> Result<Option<String>> {
    match options.expiration {
        Some(milliseconds) if milliseconds > MAX_EXPIRATION => {
            Err(Error::malformed("the expiration is longer than the broker allows")
                .with("milliseconds", milliseconds)
                .with("max", MAX_EXPIRATION))
        }
        other => Ok(other.map(|milliseconds| milliseconds.to_string())),
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
