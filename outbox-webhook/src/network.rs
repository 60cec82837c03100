//! Which addresses a webhook may be sent to. A receiver's URL often comes from a customer, who must not be able to reach
//! what only this machine can reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use outbox_core::{Error, Result};

/// A range of addresses, such as `10.1.0.0/16`, `fd00::/8` or the single address `127.0.0.1`.
///
/// ```
/// use outbox_webhook::Network;
///
/// let network: Network = "10.1.0.0/16".parse()?;
/// assert!(network.contains("10.1.2.3".parse()?));
/// assert!(!network.contains("10.2.0.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the address is in this range. An IPv4 address is never in a range of IPv6 addresses, and the other way round.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                (first.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                (first.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::config(
                "a network is invalid; expected an address, or a range such as 10.1.0.0/16 or fd00::/8",
            )
            .with("network", text.chars().take(80).collect::<String>())
        };
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let first: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            // `parse` would take a sign.
            Some(text) if !text.bytes().all(|byte| byte.is_ascii_digit()) => return Err(invalid()),
            Some(text) => text.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(invalid)?,
        };
        let network = Self { first, prefix };
        // A range that begins elsewhere is a slip: 10.1.2.3/8 may have been meant as 10.1.2.3.
        let is_first = match first {
            IpAddr::V4(first) => first.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
            IpAddr::V6(first) => first.to_bits().checked_shl(u32::from(prefix)).unwrap_or(0) == 0,
        };
        if is_first { Ok(network) } else { Err(invalid().with("problem", "bits behind the prefix are set")) }
    }
}

/// Decides about addresses: those of the public internet are allowed, others only if the settings name them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    pub(crate) allowed: Vec<Network>,
}

impl Guard {
    pub(crate) fn allows(&self, address: IpAddr) -> bool {
        let named = self.allowed.iter().any(|network| network.contains(address));
        match address {
            IpAddr::V4(address) => named || is_public_v4(address),
            IpAddr::V6(address) => match embedded(address) {
                // A gateway translates these, so both addresses must be allowed.
                Some(inner) => named && self.allows(IpAddr::V4(inner)),
                None => named || is_public_v6(address),
            },
        }
    }
}

/// Special ranges of IPv4: <https://www.iana.org/assignments/iana-ipv4-special-registry/>, multicast and what is reserved.
const SPECIAL_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|(first, prefix)| (first.to_bits() ^ address.to_bits()) >> (32 - prefix) == 0)
}

/// Special ranges within the public part of IPv6:
/// <https://www.iana.org/assignments/iana-ipv6-special-registry/>. Teredo is in the first one, 6to4 is the third one.
const SPECIAL_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Everything outside of 2000::/3 is for other uses, or is not assigned.
    address.to_bits() >> 125 == 1
        && !SPECIAL_V6
            .iter()
            .any(|(first, prefix)| (first.to_bits() ^ address.to_bits()) >> (128 - prefix) == 0)
}

/// The IPv4 address in one that stands for it: mapped (`::ffff:0:0/96`) or for translation (`64:ff9b::/96`).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    const TRANSLATED: u128 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0).to_bits();
    let is_translated = (address.to_bits() ^ TRANSLATED) >> 32 == 0;
    #[allow(clippy::cast_possible_truncation, reason = "the last 32 bits are what is wanted")]
    let last = Ipv4Addr::from_bits(address.to_bits() as u32);
    address.to_ipv4_mapped().or(is_translated.then_some(last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guard(allowed: &[&str]) -> Guard {
        Guard { allowed: allowed.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn allows(guard: &Guard, address: &str) -> bool {
        guard.allows(address.parse().unwrap())
    }

    #[test]
    fn only_public_addresses_are_allowed_unless_others_are_named() {
        let guard = guard(&[]);
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:200::1",
            "3fff:1000::1",
        ] {
            assert!(allows(&guard, public), "{public}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "100::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "3fff::1",
            "4000::1",
        ] {
            assert!(!allows(&guard, special), "{special}");
        }
    }

    #[test]
    fn a_named_network_is_allowed_and_its_neighbours_are_not() {
        let guard = guard(&["10.1.0.0/16", "127.0.0.1", "fd00::/8"]);
        for yes in ["10.1.0.0", "10.1.255.255", "127.0.0.1", "fd00::1", "8.8.8.8"] {
            assert!(allows(&guard, yes), "{yes}");
        }
        for no in ["10.0.255.255", "10.2.0.0", "127.0.0.2", "fc00::1", "::ffff:10.1.0.1", "::1"] {
            assert!(!allows(&guard, no), "{no}");
        }
    }

    #[test]
    fn a_translated_address_needs_both_to_be_allowed() {
        let translating = guard(&["64:ff9b::/96"]);
        assert!(allows(&translating, "64:ff9b::8.8.8.8"));
        assert!(!allows(&translating, "64:ff9b::10.0.0.1"));
        assert!(!allows(&translating, "::ffff:8.8.8.8"));
        assert!(allows(&guard(&["64:ff9b::/96", "10.0.0.0/8"]), "64:ff9b::10.0.0.1"));
        assert!(allows(&guard(&["::ffff:0:0/96"]), "::ffff:8.8.8.8"));
        assert!(!allows(&guard(&["::/0"]), "::ffff:127.0.0.1"));
        assert!(allows(&guard(&["::/0", "0.0.0.0/0"]), "::ffff:127.0.0.1"));
    }

    #[test]
    fn what_is_not_a_network_is_refused_with_its_text() {
        for wrong in [
            "",
            "localhost",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.1.2.3/8",
            "fd00::1/8",
            "10.0.0.0/8/8",
            "10.0.0/8",
        ] {
            let error = wrong.parse::<Network>().unwrap_err();
            assert_eq!(error.kind(), outbox_core::ErrorKind::Config);
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_network_has_exactly_the_addresses_with_its_prefix(first: u32, other: u32, prefix in 0u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let network: Network = format!("{}/{prefix}", Ipv4Addr::from_bits(first & mask)).parse().unwrap();
            prop_assert!(network.contains(IpAddr::V4(Ipv4Addr::from_bits(first))));
            let is_in = other & mask == first & mask;
            prop_assert_eq!(network.contains(IpAddr::V4(Ipv4Addr::from_bits(other))), is_in);
            prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
        }
    }
}
