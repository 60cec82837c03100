//! Any row becomes a message, or is malformed with a reason. The input is seven cells: a byte for the type of
//! a cell, then its bytes up to a byte that ends it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox_core::{Content, Message};
use outbox_sql::row::{Cell, RawMessage};

/// A byte that is not part of UTF-8, so that strings do not end too early.
const END: u8 = 0xfe;

fuzz_target!(|data: &[u8]| {
    let mut cells = data.split(|byte| *byte == END).map(|cell| match cell {
        [] => Cell::Null,
        [b'n', ..] => Cell::Number,
        [b't', text @ ..] => Cell::Text(text),
        [_, blob @ ..] => Cell::Blob(blob),
    });
    let mut next = || cells.next().unwrap_or(Cell::Null);
    let raw = RawMessage {
        message_id: next(),
        topic: next(),
        key: next(),
        payload: next(),
        content_type: next(),
        headers: next(),
        options: next(),
    };
    match raw.content(None) {
        Content::Malformed { reason, .. } => assert!(!reason.is_empty()),
        Content::Message(message) => {
            // A message that a store returns could have been enqueued.
            let mut again = Message::bytes(message.topic(), message.payload().clone())
                .id(message.id())
                .headers(message.headers().clone())
                .raw_options(message.options().clone());
            if let Some(key) = message.key() {
                again = again.key(key);
            }
            if let Some(content_type) = message.content_type() {
                again = again.content_type(content_type);
            }
            assert!(again.build().is_ok_and(|again| again == message));
        }
    }
});
