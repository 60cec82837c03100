//! A private server in a container.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};

use crate::environment::Environment;
use crate::eventually::poll_until;
use crate::runtime;
use crate::scratch::{Record, Scratch};

/// Long enough to fetch an image over a slow line.
const START: Duration = Duration::from_secs(600);

/// An error unless a Docker daemon answers.
pub(crate) async fn daemon() -> Result<()> {
    runtime::run(async {
        let docker = docker_client_instance().await.context("no Docker daemon")?;
        docker.ping().await.context("no Docker daemon answers")?;
        Ok(())
    })
    .await
}

/// The image that `variable` names as `NAME:TAG`, or the given one.
pub(crate) fn image(environment: &Environment, variable: &str, default: &str) -> Result<GenericImage> {
    let image = environment.get(variable).unwrap_or(default);
    // A registry's name may have a port.
    let (name, tag) = image
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .with_context(|| format!("{variable} is {image:?}, which has no tag"))?;
    Ok(GenericImage::new(name, tag))
}

/// Long beside what it takes to end a container that was killed.
const GONE: Duration = Duration::from_secs(120);

/// A container, which is removed when dropped, or else when the test process ends.
///
/// Docker is spoken to on the harness's runtime, because the client's connections belong to the runtime on which
/// they were made.
pub(crate) struct Container {
    /// Emptied by `drop` alone.
    container: Option<Arc<ContainerAsync<GenericImage>>>,
    host: String,
    record: Option<Record>,
    scratch: Option<Scratch>,
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("host", &self.host).field("scratch", &self.scratch).finish()
    }
}

impl Container {
    /// Starts a container. Its ports must be mapped to fixed ones: Docker gives others after a restart.
    pub(crate) async fn start(request: ContainerRequest<GenericImage>) -> Result<Self> {
        let scratch = Scratch::new("container")?;
        let name = format!("outbox-test-{:016x}", fastrand::u64(..));
        let record = scratch.record_container(&name)?;
        runtime::run(async move {
            let request = request.with_container_name(name).with_startup_timeout(START);
            let container = request.start().await?;
            let host = container.get_host().await?.to_string();
            let container = Some(Arc::new(container));
            Ok(Self { container, host, record: Some(record), scratch: Some(scratch) })
        })
        .await
    }

    /// The host on which the container's ports are.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    fn container(&self) -> Arc<ContainerAsync<GenericImage>> {
        Arc::clone(self.container.as_ref().expect("emptied only when dropped"))
    }

    /// An error with the end of the log if the container has ended.
    pub(crate) async fn check(&self) -> Result<()> {
        let container = self.container();
        runtime::run(async move {
            if container.is_running().await? {
                return Ok(());
            }
            let log = container.stderr_to_vec().await.unwrap_or_default();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(4_000)..]).into_owned();
            anyhow::bail!("the container has ended. The end of its log:\n{tail}")
        })
        .await
    }

    pub(crate) async fn kill(&self) -> Result<()> {
        let container = self.container();
        runtime::run(async move { kill(&container).await }).await
    }

    pub(crate) async fn restart(&self) -> Result<()> {
        let container = self.container();
        runtime::run(async move {
            if container.is_running().await? {
                kill(&container).await?;
            }
            container.start().await?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        let container = self.container();
        runtime::run(async move { Ok(container.pause().await?) }).await
    }

    pub(crate) async fn unpause(&self) -> Result<()> {
        let container = self.container();
        runtime::run(async move { Ok(container.unpause().await?) }).await
    }

    /// Runs a command in the container and gives what it printed.
    #[cfg(feature = "rabbitmq")]
    pub(crate) async fn exec(&self, command: Vec<String>) -> Result<String> {
        let container = self.container();
        runtime::run(async move {
            use testcontainers::core::{CmdWaitFor, ExecCommand};

            let expected = ExecCommand::new(command).with_cmd_ready_condition(CmdWaitFor::exit_code(0));
            let mut result = container.exec(expected).await?;
            let output = String::from_utf8_lossy(&result.stdout_to_vec().await?).into_owned();
            Ok(output)
        })
        .await
    }
}

async fn kill(container: &ContainerAsync<GenericImage>) -> Result<()> {
    // The library itself has only a stop, which lets the server say good-bye.
    docker_client_instance().await?.kill_container(container.id(), None).await?;
    // A start that came too early would find the container running, and do nothing.
    let ended = poll_until(GONE, || async {
        match container.is_running().await {
            Ok(true) => None,
            other => Some(other),
        }
    });
    ended.await.context("the container does not end")??;
    Ok(())
}

impl Drop for Container {
    fn drop(&mut self) {
        let (container, record, scratch) = (self.container.take(), self.record.take(), self.scratch.take());
        runtime::spawn(async move {
            if let Some(container) = container.and_then(Arc::into_inner) {
                let _ = container.rm().await;
            }
            // Not before the container is gone: until then the record is what has it removed.
            drop(record);
            drop(scratch);
        });
    }
}

#[cfg(test)]
mod tests {
    use testcontainers::Image;

    use super::*;

    #[test]
    fn the_image_can_be_chosen() {
        let parse =
            |value: &str| image(&Environment::from_pairs([("IMAGE", value)]), "IMAGE", "postgres:17-alpine");
        let shown =
            |value: &str| parse(value).map(|image| (image.name().to_owned(), image.tag().to_owned())).ok();
        let pair = |name: &str, tag: &str| Some((name.to_owned(), tag.to_owned()));
        assert_eq!(shown(""), pair("postgres", "17-alpine"));
        assert_eq!(shown("mirror:5000/postgres:18"), pair("mirror:5000/postgres", "18"));
        assert_eq!(shown("mirror:5000/postgres"), None);
        assert_eq!(shown("postgres"), None);
    }
}
