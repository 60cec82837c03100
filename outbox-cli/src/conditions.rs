//! Conditions on dead letters, as command lines and requests state them.
//!
//! An empty or zero condition is refused: it selects every dead letter or none, and usually comes from an unset variable.

use std::time::Duration;

/// Parses a string that a field of the dead letter must equal or contain.
///
/// # Errors
/// If the string is empty.
pub(crate) fn text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("must not be empty; omit the condition to select all dead letters".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses the minimum age of a dead letter, such as `2h`.
///
/// # Errors
/// If the string is not a duration, or is zero.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => {
            Err("must be longer than zero; omit the condition to select all dead letters".to_owned())
        }
        Ok(age) => Ok(age),
        Err(error) => Err(format!("must be a duration such as 2h: {error}")),
    }
}
