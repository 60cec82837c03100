//! Any event of outboxer becomes a message for each publisher, or an error that names the event. The input is
//! the options, the headers and the payload, each ended by a byte that is not part of UTF-8.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox_sql::outboxer::{Event, table_parts};

const END: u8 = 0xfe;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |byte| *byte == END);
    let options = parts.next();
    let headers = parts.next();
    let payload = parts.next().unwrap_or_default().to_vec();
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(parts) = table_parts(text)
    {
        assert!(!parts.is_empty());
    }
    let event = match Event::read(17, payload.clone(), options, headers) {
        Ok(event) => event,
        Err(error) => return assert!(error.report().contains("17")),
    };
    let _ = event.texts();
    for message in [event.amqp(), event.sqs(), event.kinesis(), event.pubsub()] {
        match message {
            Ok(message) => assert!(message.payload() == &payload && !message.topic().is_empty()),
            Err(error) => assert!(!error.report().is_empty()),
        }
    }
});
