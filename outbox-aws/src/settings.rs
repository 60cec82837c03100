//! What the settings of the publishers have in common.

use std::time::Duration;

use outbox_core::{Error, Result};

/// The longest call, for sums with the present to be possible.
const LONGEST_CALL: Duration = Duration::from_secs(86_400);

/// Checks limits: each with its name and the most it may be. The least is 1.
///
/// # Errors
/// [`ErrorKind::Config`](outbox_core::ErrorKind::Config), with the name of the first that is out of bounds.
pub fn check_limits(limits: &[(&'static str, usize, usize)]) -> Result<()> {
    match limits.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
        None => Ok(()),
        Some((name, value, most)) => Err(Error::config("a limit is out of bounds")
            .with("setting", name)
            .with("value", value)
            .with("at_least", 1)
            .with("at_most", most)),
    }
}

/// Checks how long a call may take.
///
/// # Errors
/// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) for zero, or more than a day.
pub fn check_call_timeout(limit: Duration) -> Result<()> {
    if limit.is_zero() || limit > LONGEST_CALL {
        return Err(Error::config("call_timeout must be more than zero and at most a day")
            .with("value", format_args!("{limit:?}")));
    }
    Ok(())
}
