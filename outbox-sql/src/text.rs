//! Texts and numbers as all databases take them.

use std::borrow::Cow;
use std::time::Duration;

/// Errors are for people. Databases would take more, but the row with it is written again at each attempt.
const LONGEST_ERROR: usize = 8 * 1024;
/// Longer than anybody waits, and short enough for every database's calendar.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// An error as it is stored: without NUL characters, which not all databases take, and not endless.
pub fn storable(error: &str) -> Cow<'_, str> {
    // `floor_char_boundary` needs a newer Rust than services that only enqueue have to have.
    let longest = error.len().min(LONGEST_ERROR);
    let end = (0..=longest).rev().find(|end| error.is_char_boundary(*end)).unwrap_or_default();
    if end == error.len() && !error.contains('\0') {
        return Cow::Borrowed(error);
    }
    let cut = error.get(..end).unwrap_or_default().replace('\0', "\u{fffd}");
    Cow::Owned(if end < error.len() { cut + "…" } else { cut })
}

/// A duration in microseconds, a thousand years at most.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.min(LONGEST).as_micros()).unwrap_or(i64::MAX)
}

/// Numbers as a JSON array.
pub fn json_list(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: Vec<String> = numbers.into_iter().map(|number| number.to_string()).collect();
    format!("[{}]", numbers.join(","))
}

/// The FNV-1a hash (<http://www.isthe.com/chongo/tech/comp/fnv/>), to make names of locks from names of tables. It is
/// the same in all versions and on all machines, which `std` does not promise of its hashers.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fits_into_a_text_column() {
        assert_eq!(storable("plain"), "plain");
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        let long = "é".repeat(LONGEST_ERROR);
        let cut = storable(&long);
        assert!(cut.len() <= LONGEST_ERROR + '…'.len_utf8() && cut.ends_with("é…"));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn no_duration_is_too_long() {
        assert_eq!(micros(Duration::from_millis(3)), 3000);
        assert_eq!(micros(Duration::MAX), 31_536_000_000_000_000);
    }
}
