//! The trace of an enqueued message.

use std::borrow::Cow;
use std::sync::Arc;

use outbox_core::{Message, TraceContext};

/// The message with the trace that is active now, unless there is none, or the message has one of its own.
pub fn traced<'a>(message: &'a Message, trace: Option<&Arc<dyn TraceContext>>) -> Cow<'a, Message> {
    let Some(trace) = trace.and_then(|context| context.current()) else {
        return Cow::Borrowed(message);
    };
    let mut message = message.clone();
    message.set_trace(trace);
    Cow::Owned(message)
}
