//! The limit of what a statement may carry.

use outbox_core::{Error, ErrorKind, Result};

use crate::values::Values;

/// The server ends a connection that sends a message of the protocol of 1 GiB or more (`PQ_LARGE_MESSAGE_LIMIT`), and says only
/// that its length is invalid. 64 KiB are left for the frame of a message.
const LARGEST: usize = (1 << 30) - (64 << 10);
/// What the arrays of a batch add to the values of a message: a length for each, and a version for the two in JSON.
const FRAME: usize = 8 * 4 + 2;

/// Refuses rows that do not fit into one statement, before anything of them is sent.
///
/// # Errors
/// [`ErrorKind::TooLarge`] if they have 1 GiB or more.
pub fn check_size(rows: &[Values<'_>]) -> Result<()> {
    let bytes = rows.iter().fold(0_usize, |sum, row| sum.saturating_add(row.bytes()).saturating_add(FRAME));
    if bytes <= LARGEST {
        return Ok(());
    }
    let advice = match rows {
        [_] => {
            "a message has 1 GiB or more, which PostgreSQL does not take; store the payload elsewhere and send a reference"
        }
        _ => "the messages of a batch have 1 GiB or more together; enqueue them in several batches",
    };
    Err(Error::new(ErrorKind::TooLarge, advice).with("bytes", bytes).with("messages", rows.len()))
}

#[cfg(test)]
mod tests {
    use outbox_core::Message;

    use super::*;

    #[test]
    fn rows_are_refused_only_if_they_are_too_large_together() {
        // The system hands out zeroed memory when it is written to, which it never is.
        let message = Message::bytes("t", vec![0; LARGEST / 2]).build().unwrap();
        let row = Values::of(&message).unwrap();
        assert!(check_size(&[]).is_ok() && check_size(std::slice::from_ref(&row)).is_ok());
        let error = check_size(&[row.clone(), row]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.to_string().contains("several batches"), "{error}");
    }
}
