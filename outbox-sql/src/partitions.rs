//! Partitions, and how relays share them.

use outbox_core::{Error, Result};

/// Every partition costs each fetch and heartbeat something; nobody runs as many relays as this.
pub const MOST_PARTITIONS: u16 = 1024;

/// Refuses a number of partitions that cannot be.
///
/// # Errors
/// [`ErrorKind::Config`](outbox_core::ErrorKind::Config) below 1 and above [`MOST_PARTITIONS`].
pub fn check_number(partitions: u16) -> Result<()> {
    if (1..=MOST_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    Err(Error::config(format!("there must be 1 to {MOST_PARTITIONS} partitions"))
        .with("partitions", partitions))
}

/// The share of the relay of this rank, counted from zero: all shares add up to all partitions and differ by one at
/// most.
pub fn share(partitions: usize, relays: usize, rank: usize) -> usize {
    let relays = relays.max(1);
    partitions / relays + usize::from(rank < partitions % relays)
}

#[cfg(test)]
mod tests {
    use outbox_core::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_that_cannot_be_is_refused() {
        for partitions in [0, 1025] {
            assert_eq!(check_number(partitions).unwrap_err().kind(), ErrorKind::Config);
        }
        check_number(1).and_then(|()| check_number(1024)).unwrap();
    }

    proptest! {
        #[test]
        fn shares_add_up_and_differ_by_one(partitions in 0..2000_usize, relays in 1..50_usize) {
            let shares: Vec<usize> = (0..relays).map(|rank| share(partitions, relays, rank)).collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), partitions);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
