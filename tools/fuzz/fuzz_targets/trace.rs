//! The trace of a message is read from its row. The accepted part can be written again and is read the same.
//! The input is the two headers, the first ended by a byte that is not part of UTF-8.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox_core::message::Headers;
use outbox_core::{Message, TRACEPARENT, TRACESTATE, Trace};

const END: u8 = 0xfe;

fuzz_target!(|data: &[u8]| {
    let mut parts =
        data.splitn(2, |byte| *byte == END).map(|part| String::from_utf8_lossy(part).into_owned());
    let parent = parts.next().unwrap_or_default();
    let state = parts.next();

    let trace = Trace { parent: parent.clone(), state: state.clone() };
    let Ok(mut message) = Message::bytes("t", "").trace(trace).build() else {
        return assert!(parent.contains('\0') || state.is_some_and(|state| state.contains('\0')));
    };
    let given = message.headers().clone();
    assert!(given.get(TRACEPARENT) == Some(&parent) && given.get(TRACESTATE) == state.as_ref());
    // It continues the trace that it has.
    message.set_trace(Trace { parent: "another".to_owned(), state: Some("another".to_owned()) });
    assert!(message.headers() == &given);

    let Some(written) = outbox_cli::fuzzing::trace(&given) else { return };
    assert!(outbox_cli::fuzzing::trace(&written).as_ref() == Some(&written));
    assert!(ids(&written[TRACEPARENT]) == ids(&parent));
    let without_state = Headers::from([(TRACEPARENT.to_owned(), parent)]);
    assert!(outbox_cli::fuzzing::trace(&without_state).is_some());
});

/// The trace and the span of a `traceparent`.
fn ids(parent: &str) -> Option<(u128, u64)> {
    let mut parts = parent.trim().split('-').skip(1);
    let trace = u128::from_str_radix(parts.next()?, 16).ok()?;
    Some((trace, u64::from_str_radix(parts.next()?, 16).ok()?))
}
