//! What Kinesis takes for names and keys:
//! <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecordsRequestEntry.html>.

use outbox_aws::hashed;

/// The longest partition key, in characters.
const MAX_PARTITION_KEY: usize = 256;
/// More digits than any sequence number has.
const MAX_SEQUENCE_NUMBER: usize = 128;
/// The longest name of a stream.
const MAX_STREAM_NAME: usize = 128;

/// Whether Kinesis takes it as a partition key. Characters outside of the Basic Multilingual Plane count as two.
pub(crate) fn is_partition_key(key: &str) -> bool {
    !key.is_empty() && key.encode_utf16().count() <= MAX_PARTITION_KEY
}

/// The partition key for a message's key: the key itself, or where Kinesis would not take that, its SHA-256.
pub(crate) fn partition_key_of(key: &str) -> String {
    if is_partition_key(key) {
        return key.to_owned();
    }
    hashed(key)
}

/// Whether it is a number of 128 bits, in the form in which Kinesis takes one.
pub(crate) fn is_hash_key(text: &str) -> bool {
    is_decimal(text) && text.parse::<u128>().is_ok()
}

/// Whether it may be a sequence number.
pub(crate) fn is_sequence_number(text: &str) -> bool {
    is_decimal(text) && text.len() <= MAX_SEQUENCE_NUMBER
}

fn is_decimal(text: &str) -> bool {
    let plain = text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first));
    plain && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether there can be a stream of this name:
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_CreateStream.html>.
pub(crate) fn is_stream_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_STREAM_NAME).contains(&name.len()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_has_a_partition_key_and_no_two_share_one(one in ".{0,300}", other in ".{0,300}") {
            prop_assert!(is_partition_key(&partition_key_of(&one)));
            prop_assert_eq!(partition_key_of(&one) == partition_key_of(&other), one == other);
        }
    }

    #[test]
    fn long_keys_are_hashed_and_not_cut_off() {
        assert_eq!(partition_key_of(&"k".repeat(256)), "k".repeat(256));
        let (one, other) = ("k".repeat(257), "k".repeat(256) + "j");
        assert_ne!(partition_key_of(&one), partition_key_of(&other));
        assert!(partition_key_of(&one).starts_with("sha256-"));
        assert!(partition_key_of(&"🚚".repeat(129)).starts_with("sha256-"));
    }

    #[test]
    fn hash_keys_are_numbers_of_128_bits() {
        for number in ["0", "17", "340282366920938463463374607431768211455"] {
            assert!(is_hash_key(number), "{number}");
        }
        for text in ["", "-1", "+1", "01", "1.0", "x", "340282366920938463463374607431768211456"] {
            assert!(!is_hash_key(text), "{text}");
        }
    }

    #[test]
    fn names_of_streams() {
        for name in ["orders", "order.placed", "Orders_1-x", &"s".repeat(128)] {
            assert!(is_stream_name(name), "{name}");
        }
        for name in ["", "a b", "ü", "a/b", &"s".repeat(129)] {
            assert!(!is_stream_name(name), "{name}");
        }
    }
}
