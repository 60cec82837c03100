//! What SQS takes for texts, names and ids:
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>.

use outbox_aws::hashed;

/// The longest message group and deduplication id.
const MAX_TOKEN: usize = 128;
/// The longest name of a message attribute.
const MAX_ATTRIBUTE_NAME: usize = 256;
/// The longest name of a queue.
const MAX_QUEUE_NAME: usize = 80;

/// Whether SQS takes the text as a body or as the value of an attribute: it is not empty, and has only the characters
/// that XML has (<https://www.w3.org/TR/REC-xml/#charsets>).
pub(crate) fn is_text(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_allowed)
}

pub(crate) fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Whether SQS takes it as a message group or deduplication id.
pub(crate) fn is_token(id: &str) -> bool {
    (1..=MAX_TOKEN).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The message group for a key: the key itself, or where SQS would not take that, its SHA-256.
pub(crate) fn group_of_key(key: &str) -> String {
    if is_token(key) {
        return key.to_owned();
    }
    hashed(key)
}

/// Whether SQS takes it as the name of an attribute:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html>.
pub(crate) fn is_attribute_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let lower = name.to_ascii_lowercase();
    (1..=MAX_ATTRIBUTE_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
}

/// Whether there can be a queue of this name.
pub(crate) fn is_queue_name(name: &str) -> bool {
    let base = name.strip_suffix(".fifo").unwrap_or(name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !base.is_empty() && name.len() <= MAX_QUEUE_NAME && base.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_characters_of_xml_are_text() {
        for text in ["x", " ", "\t\n\r", "é", "🚚", "\u{d7ff}", "\u{e000}", "\u{fffd}", "\u{10ffff}"] {
            assert!(is_text(text), "{text:?}");
        }
        for text in ["", "\0", "a\u{b}", "\u{1f}", "\u{fffe}", "\u{ffff}"] {
            assert!(!is_text(text), "{text:?}");
        }
    }

    #[test]
    fn a_key_that_is_no_group_is_hashed() {
        assert_eq!(group_of_key("customer-4"), "customer-4");
        assert_eq!(
            group_of_key("customer 4"),
            "sha256-11ae86278c802929783e9a5204d0c96c1fc03e9bd3b6e3e05a4f827f26b5a6ce"
        );
    }

    proptest! {
        #[test]
        fn every_key_has_a_group_and_no_two_share_one(one in ".{0,150}", other in ".{0,150}") {
            prop_assert!(is_token(&group_of_key(&one)));
            prop_assert_eq!(group_of_key(&one) == group_of_key(&other), one == other);
        }
    }

    #[test]
    fn names_of_attributes() {
        for name in ["tenant", "x-y_z.1", &"n".repeat(256)] {
            assert!(is_attribute_name(name), "{name}");
        }
        for name in ["", ".x", "x.", "x..y", "x y", "ü", "AWS.x", "aws.X", "Amazon.x", &"n".repeat(257)] {
            assert!(!is_attribute_name(name), "{name}");
        }
    }

    #[test]
    fn names_of_queues() {
        for name in ["orders", "Orders_1-x", "orders.fifo", &"q".repeat(80)] {
            assert!(is_queue_name(name), "{name}");
        }
        for name in ["", ".fifo", "order.placed", "a b", "orders.fifo.fifo", &"q".repeat(81)] {
            assert!(!is_queue_name(name), "{name}");
        }
    }
}
