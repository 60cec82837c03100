//! What the relay serves by HTTP, if it serves anything.

use std::net::SocketAddr;

use super::secret::Secret;
use super::section::Section;

/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Where to listen, and who may do what.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    pub(crate) listen: SocketAddr,
    /// What a caller who changes something has to show. Without one, nobody changes anything.
    pub(crate) token: Option<Secret>,
    /// Whether payloads and headers are shown at all.
    pub(crate) payloads: bool,
}

/// `None` if nothing is to be served.
pub(super) fn read(section: Section<'_>) -> Option<Http> {
    let allowed = "an address and a port, such as \"127.0.0.1:9464\"";
    let listen = section.text("listen", allowed, |text| text.parse::<SocketAddr>().is_ok());
    let token = section.secret("token");
    if token.as_ref().is_some_and(|token| token.reveal().len() < SHORTEST_TOKEN) {
        section.fault_in(section.way("token"), format!("must have at least {SHORTEST_TOKEN} characters"));
    }
    let mut payloads = false;
    section.fill("payloads", section.truth("payloads"), &mut payloads);
    for name in ["payloads", section.way("token")] {
        if section.has(name) && !section.has("listen") {
            section.fault_in(name, "has no effect without listen");
        }
    }
    section.finish();
    Some(Http { listen: listen?.parse().ok()?, token, payloads })
}
