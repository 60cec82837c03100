//! Names for objects that a test creates on a server that may outlive it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Names consist of this prefix, the time of creation and a random number. They are valid everywhere without
/// quotes or escapes.
pub(crate) const PREFIX: &str = "outbox_test_";
/// No test runs this long: an older object was left by a test process that was killed.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// A name that nothing else has.
pub(crate) fn fresh() -> String {
    format!("{PREFIX}{}_{:016x}", now(), fastrand::u64(..))
}

/// Whether the harness created the name, and so long ago that its owner cannot be alive.
pub(crate) fn is_left_over(name: &str) -> bool {
    is_old(name, now())
}

fn is_old(name: &str, now: u64) -> bool {
    let Some((made, random)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')) else {
        return false;
    };
    let made: Option<u64> = made.parse().ok();
    random.bytes().all(|byte| byte.is_ascii_hexdigit()) && made.is_some_and(|made| made + OLD.as_secs() < now)
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_names_of_our_own_are_left_over() {
        let now = 1_000_000_000;
        let day = OLD.as_secs();
        assert!(is_old(&format!("outbox_test_{}_00ff", now - day - 1), now));
        for name in [
            format!("outbox_test_{}_00ff", now - day),
            "outbox_test_1_x; --".to_owned(),
            "outbox_test_results".to_owned(),
            "outbox_1_00ff".to_owned(),
        ] {
            assert!(!is_old(&name, now), "{name}");
        }
        assert!(!is_left_over(&fresh()));
    }
}
