//! A name for a key that a service does not take as it is.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// `sha256-` and the SHA-256 of the key in hexadecimal digits. To cut a key off, or to replace what a service does not take,
/// would put keys together that only look alike.
pub fn hashed(key: &str) -> String {
    let mut name = "sha256-".to_owned();
    for byte in Sha256::digest(key) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_same_name_for_ever() {
        assert_eq!(
            hashed("customer 4"),
            "sha256-11ae86278c802929783e9a5204d0c96c1fc03e9bd3b6e3e05a4f827f26b5a6ce"
        );
    }
}
