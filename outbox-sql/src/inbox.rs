//! The inbox: which messages a consumer has seen.

use outbox_core::{Error, Result};

/// What every database can have in a key beside an id.
pub const LONGEST_CONSUMER: usize = 255;

/// Refuses a consumer's name that cannot be: its length is from 1 to 255 bytes, and there is no NUL character in it.
///
/// # Errors
/// [`ErrorKind::Config`](outbox_core::ErrorKind::Config).
pub fn check_consumer(consumer: &str) -> Result<()> {
    let problem = if consumer.is_empty() {
        "the consumer's name is empty"
    } else if consumer.len() > LONGEST_CONSUMER {
        "the consumer's name is longer than 255 bytes"
    } else if consumer.contains('\0') {
        "the consumer's name holds a NUL character"
    } else if consumer.ends_with(' ') {
        // Several databases compare texts as if there were no spaces at their ends.
        "the consumer's name ends with a space"
    } else {
        return Ok(());
    };
    Err(Error::config(problem).with("consumer", consumer.escape_debug()))
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;

    use super::*;

    #[test]
    fn a_name_that_cannot_be_is_refused() {
        let (longest, longer) = ("x".repeat(255), "é".repeat(128));
        for name in ["billing", "Rechnungen für März", &longest] {
            check_consumer(name).unwrap();
        }
        for name in ["", "a\0b", "a ", &longer] {
            assert_eq!(check_consumer(name).unwrap_err().kind(), ErrorKind::Config, "{name:?}");
        }
    }
}
