//! Free TCP ports on the loopback address.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Lower ports are likely to belong to another service.
const FIRST: u16 = 20_000;

/// A port that no process listens on now and that this process has not returned before.
///
/// Another process may take it before the server binds it, so a failed start must be retried with another
/// port. If possible, the port is outside the system's range for local ports of outgoing connections: such a
/// connection could otherwise occupy the port while its server is down, and the server could not use it
/// again.
pub(crate) fn free() -> u16 {
    static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

    let candidates = candidates(std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..10_000 {
        let wanted = candidates.clone().map_or(0, fastrand::u16);
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) else { continue };
        let port = listener.local_addr().expect("a bound listener has an address").port();
        if taken.insert(port) {
            return port;
        }
    }
    panic!("no free TCP port on 127.0.0.1");
}

/// The ports below the system's range for outgoing connections, if there are enough of them.
fn candidates(local_port_range: Option<String>) -> Option<Range<u16>> {
    let first_outgoing: u16 = local_port_range?.split_whitespace().next()?.parse().ok()?;
    (first_outgoing >= FIRST + 2_000).then_some(FIRST..first_outgoing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_handed_out_once() {
        let ports: Vec<u16> = (0..50).map(|_| free()).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn ports_lie_below_those_of_outgoing_connections() {
        assert_eq!(candidates(Some("32768\t60999\n".to_owned())), Some(20_000..32_768));
        for range in [None, Some("1024 65535".to_owned()), Some("nonsense".to_owned())] {
            assert_eq!(candidates(range), None);
        }
    }
}
