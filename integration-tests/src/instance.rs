//! A server, however it is provided, and the failures that can be injected into it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::launch::LocalServer;

/// Where a server runs: somewhere else, in processes of this machine, or in a container.
#[derive(Clone, Debug)]
pub struct Instance(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// A server given by a URL. Tests may use it, but must not harm it.
    External,
    Local(Arc<LocalServer>),
    #[cfg(feature = "containers")]
    Container(Arc<crate::container::Container>),
}

impl Instance {
    pub(crate) const EXTERNAL: Self = Self(Kind::External);

    pub(crate) fn local(server: LocalServer) -> Self {
        Self(Kind::Local(Arc::new(server)))
    }

    #[cfg(feature = "containers")]
    pub(crate) fn container(container: crate::container::Container) -> Self {
        Self(Kind::Container(Arc::new(container)))
    }

    /// Returns whether the server was given by a URL.
    pub fn is_external(&self) -> bool {
        matches!(self.0, Kind::External)
    }

    /// The id of the server's container, if it runs in one.
    #[cfg(feature = "containers")]
    pub fn container_id(&self) -> Option<String> {
        match &self.0 {
            Kind::Container(container) => Some(container.id()),
            _ => None,
        }
    }

    /// Returns an error if the server has exited without being stopped.
    pub(crate) async fn check(&self) -> Result<()> {
        match &self.0 {
            Kind::External => Ok(()),
            Kind::Local(server) => server.check(),
            #[cfg(feature = "containers")]
            Kind::Container(container) => container.check().await,
        }
    }

    pub(crate) async fn kill(&self) -> Result<()> {
        match &self.0 {
            Kind::External => external(),
            Kind::Local(server) => server.kill(),
            #[cfg(feature = "containers")]
            Kind::Container(container) => container.kill().await,
        }
    }

    /// Restarts the server in the same place; kills it first if it is up.
    pub(crate) async fn restart(&self) -> Result<()> {
        match &self.0 {
            Kind::External => external(),
            Kind::Local(server) => {
                if server.is_up() {
                    server.kill()?;
                }
                server.launch()
            }
            #[cfg(feature = "containers")]
            Kind::Container(container) => container.restart().await,
        }
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        match &self.0 {
            Kind::External => external(),
            Kind::Local(server) => server.stop(),
            #[cfg(feature = "containers")]
            Kind::Container(container) => container.pause().await,
        }
    }

    pub(crate) async fn cont(&self) -> Result<()> {
        match &self.0 {
            Kind::External => external(),
            Kind::Local(server) => server.cont(),
            #[cfg(feature = "containers")]
            Kind::Container(container) => container.unpause().await,
        }
    }

    /// Returns the processor time that the server has used so far, to a hundredth of a second.
    ///
    /// # Errors
    /// If the server does not run as processes of this machine, or is down.
    pub fn cpu_time(&self) -> Result<Duration> {
        match &self.0 {
            Kind::Local(server) => server.cpu_time(),
            _ => bail!("this server does not run as processes of ours"),
        }
    }

    /// Runs a program next to the server, in its container.
    #[cfg(feature = "rabbitmq")]
    pub(crate) async fn exec(&self, program: &str, arguments: Vec<String>) -> Result<String> {
        #[cfg(not(feature = "containers"))]
        let _ = arguments;
        match &self.0 {
            Kind::External => external(),
            Kind::Local(_) => bail!("{program} is run directly"),
            #[cfg(feature = "containers")]
            Kind::Container(container) => {
                container.exec([vec![program.to_owned()], arguments].concat()).await
            }
        }
    }
}

fn external<T>() -> Result<T> {
    bail!("this server was given by a URL, so it is not ours to harm; take a private one with `start`")
}
