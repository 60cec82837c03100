//! A network, from which containers can vanish.

use super::{Docker, fresh_name};
use crate::scratch::{Record, Scratch};

/// A network on which containers find each other by name. It is removed when dropped, after the containers
/// that are still on it have been disconnected.
#[derive(Debug)]
pub struct Network {
    docker: Docker,
    name: String,
    /// Emptied only by `drop`.
    record: Option<(Record, Scratch)>,
}

impl Docker {
    /// Creates a new network.
    ///
    /// # Panics
    /// If the daemon refuses it.
    pub fn network(&self) -> Network {
        let name = fresh_name();
        let scratch = Scratch::new("network").expect("a folder");
        let record = scratch.record_network(&name).expect("a record of the network");
        self.run(&["network", "create", &name]);
        Network { docker: self.clone(), name, record: Some((record, scratch)) }
    }
}

impl Network {
    /// The name of the network.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connects a container, which the others can find by `alias` from then on.
    ///
    /// # Panics
    /// If it is connected already.
    pub fn connect(&self, container: &str, alias: &str) {
        self.docker.run(&["network", "connect", "--alias", alias, &self.name, container]);
    }

    /// Disconnects a container from the network. Its connections stay open, and neither side receives
    /// anything from the other any more, as when a cable is pulled out.
    ///
    /// # Panics
    /// If it is not connected.
    pub fn disconnect(&self, container: &str) {
        self.docker.run(&["network", "disconnect", &self.name, container]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let members = "{{range $id, $container := .Containers}}{{$id}} {{end}}";
        let members =
            self.docker.try_run(&["network", "inspect", "--format", members, &self.name]).unwrap_or_default();
        for container in members.split_whitespace() {
            let _ = self.docker.try_run(&["network", "disconnect", "--force", &self.name, container]);
        }
        let removed = self.docker.try_run(&["network", "rm", &self.name]).is_ok();
        if let Some((record, scratch)) = self.record.take()
            && !removed
        {
            scratch.leave(record);
        }
    }
}
