//! Events of a service as messages.

use crate::error::Result;
use crate::message::Message;

/// An event of a service that can be enqueued.
///
/// `#[derive(OutboxMessage)]` implements it for a type that implements `serde::Serialize`; see the feature `derive` of the crate
/// `outbox`. Implement it by hand for another format than JSON, for headers, or for an id that the event has already:
///
/// ```
/// use outbox_core::{Message, OutboxMessage, Result};
///
/// struct OrderPaid {
///     event_id: uuid::Uuid,
///     order_id: u64,
/// }
///
/// impl OutboxMessage for OrderPaid {
///     fn to_message(&self) -> Result<Message> {
///         Message::bytes("order.paid", self.order_id.to_be_bytes().to_vec())
///             .id(self.event_id)
///             .key(self.order_id.to_string())
///             .build()
///     }
/// }
///
/// let event = OrderPaid { event_id: uuid::Uuid::now_v7(), order_id: 17 };
/// assert_eq!(event.to_message()?.key(), Some("17"));
/// # Ok::<(), outbox_core::Error>(())
/// ```
pub trait OutboxMessage {
    /// Makes a message of the event.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) if the event cannot be encoded, or if a string in it has a NUL
    /// character where a message may not have one.
    fn to_message(&self) -> Result<Message>;
}
