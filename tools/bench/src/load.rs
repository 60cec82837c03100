//! The relayed messages: numbered, over a number of keys.

use anyhow::{Context, Result};
use outbox_core::Message;

/// The topic of every message.
pub const TOPIC: &str = "bench";
/// The length of the number at the beginning of a payload, in hexadecimal digits.
const DIGITS: usize = 16;

/// The number and kind of messages. Message `n` has the key `n % keys`, so numbers grow within a key.
#[derive(Clone, Debug)]
pub struct Load {
    /// Number of messages.
    pub messages: u64,
    /// Size of a payload in bytes.
    pub payload: usize,
    /// Number of keys.
    pub keys: u64,
    filler: String,
}

impl Load {
    /// Payloads have at least 16 bytes, because each begins with its number.
    pub fn new(messages: u64, payload: usize, keys: u64) -> Self {
        // Not compressible, otherwise a database would store less than for real messages.
        let mut dice = fastrand::Rng::with_seed(7);
        let filler = (0..payload.saturating_sub(DIGITS)).map(|_| dice.alphanumeric()).collect();
        Self { messages, payload: payload.max(DIGITS), keys: keys.max(1), filler }
    }

    /// Returns the same kind of messages, but at most this many.
    #[must_use]
    pub fn at_most(&self, messages: u64) -> Self {
        Self { messages: self.messages.min(messages), ..self.clone() }
    }

    /// The bytes after the number in each payload.
    pub fn filler(&self) -> &str {
        &self.filler
    }

    /// The key of a message.
    pub fn key(&self, number: u64) -> String {
        format!("key-{}", number % self.keys)
    }

    /// The payload of a message.
    pub fn payload(&self, number: u64) -> Vec<u8> {
        format!("{number:0DIGITS$x}{}", self.filler).into_bytes()
    }

    /// A message.
    ///
    /// # Errors
    /// Never.
    pub fn message(&self, number: u64) -> Result<Message> {
        Ok(Message::bytes(TOPIC, self.payload(number)).key(self.key(number)).build()?)
    }
}

/// The number in a payload.
///
/// # Errors
/// If the payload was not created by this module.
pub fn number(payload: &[u8]) -> Result<u64> {
    let digits = payload.get(..DIGITS).context("the payload is too short")?;
    Ok(u64::from_str_radix(std::str::from_utf8(digits)?, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_size_and_its_number() {
        let load = Load::new(10, 200, 3);
        let message = load.message(0xabc).unwrap();
        assert_eq!(message.payload().len(), 200);
        assert_eq!(number(message.payload()).unwrap(), 0xabc);
        assert_eq!(message.key(), Some("key-0"));
        assert!(number(b"12").is_err());
    }
}
