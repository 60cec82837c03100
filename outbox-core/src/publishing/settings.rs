//! What the settings of the publishers have in common.

use std::time::Duration;

use crate::error::{Error, Result};

/// For sums with the present to be possible.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Checks limits: each with its name and the most it may be. The least is 1.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config), with the name of the first that is out of bounds.
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

/// Checks a time limit of this name.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) for zero, or more than a day.
pub fn check_timeout(setting: &'static str, limit: Duration) -> Result<()> {
    if limit.is_zero() || limit > LONGEST {
        return Err(Error::config("a timeout must be more than zero and at most a day")
            .with("setting", setting)
            .with("value", format_args!("{limit:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_named() {
        check_limits(&[("a", 1, 1), ("b", 7, 10)]).unwrap();
        for wrong in [0, 11] {
            let error = check_limits(&[("a", 1, 1), ("b", wrong, 10)]).unwrap_err().to_string();
            assert!(error.contains(&format!("setting: b, value: {wrong}")), "{error}");
        }
        check_timeout("c", LONGEST).unwrap();
        for wrong in [Duration::ZERO, LONGEST + Duration::from_nanos(1), Duration::MAX] {
            assert!(check_timeout("c", wrong).unwrap_err().to_string().contains("setting: c"));
        }
    }
}
