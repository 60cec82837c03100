//! A private server in a container.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testcontainers::bollard::Docker;
use testcontainers::bollard::errors::Error as DockerError;
use testcontainers::bollard::query_parameters::RemoveContainerOptionsBuilder;
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, Image, ImageExt};
use tokio::sync::OnceCell;

use crate::environment::Environment;
use crate::eventually::poll_until;
use crate::failure::Definite;
use crate::runtime;
use crate::scratch::{Record, Scratch};

/// Maximum time to start a container, with the download of its image over a slow line.
const START: Duration = Duration::from_secs(600);
/// Maximum time to wait for the end of a container that was killed.
const GONE: Duration = Duration::from_secs(120);
/// Maximum time for a registry to answer whether it has an image.
const REGISTRY: Duration = Duration::from_secs(5);
/// The images of `scripts/container-images`, which this file and the script share.
const IMAGES: &str = include_str!("../images/list");

/// Returns an error unless a Docker daemon answers.
pub(crate) async fn daemon() -> Result<()> {
    runtime::run(async {
        let docker = docker_client_instance().await.context("no Docker daemon")?;
        docker.ping().await.context("no Docker daemon answers")?;
        Ok(())
    })
    .await
}

/// Returns the image in `variable`, written `NAME:TAG`, or otherwise the given one.
pub(crate) fn image(environment: &Environment, variable: &str, default: &str) -> Result<GenericImage> {
    let image = environment.get(variable).unwrap_or(default);
    // A registry's name may have a port.
    let (name, tag) = image
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.contains('/'))
        .with_context(|| format!("{variable} is {image:?}, which has no tag"))?;
    Ok(GenericImage::new(name, tag))
}

/// Returns the image that the list of images has under this name.
pub(crate) fn listed(name: &str) -> &'static str {
    let line = IMAGES.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
    line.and_then(|line| line.split('\t').next()).unwrap_or_else(|| panic!("images/list has no image {name}"))
}

type Presence = Arc<OnceCell<Result<(), String>>>;

/// Returns an error if the daemon does not have the image and no registry has it either. The daemon is asked once per
/// image and process.
async fn is_present(docker: &Docker, image: &str) -> Result<()> {
    static KNOWN: LazyLock<Mutex<HashMap<String, Presence>>> = LazyLock::new(Mutex::default);

    let presence = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(image.to_owned()).or_default().clone()
    };
    let found = presence.get_or_init(|| async {
        let reason = match docker.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => {
                match tokio::time::timeout(REGISTRY, docker.inspect_registry_image(image, None)).await {
                    Ok(Ok(_)) => return Ok(()),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("no answer within {REGISTRY:?}"),
                }
            }
            Err(error) => return Err(format!("the Docker daemon cannot look for {image}: {error}")),
        };
        Err(format!("there is no image {image}, and its registry does not offer it ({reason}): run scripts/container-images"))
    });
    found.await.clone().map_err(|reason| Definite(reason).into())
}

/// The addresses on which a container's ports are published. The servers have no passwords, so the ports are
/// published only on addresses to which the tests connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Published {
    /// Tests and daemon are on the same machine.
    Loopback,
    /// The tests run in a container themselves, and reach the daemon's machine through the gateway of
    /// Docker's network.
    Gateway,
    /// The daemon is on another machine, whose addresses are unknown here.
    Everywhere,
}

impl Published {
    fn new(docker_host: Option<&str>, in_container: bool) -> Self {
        let remote = docker_host.and_then(|url| url.split_once("://")).is_some_and(|(scheme, rest)| {
            let host = rest.split(['/', ':']).next().unwrap_or_default();
            scheme != "unix" && host != "localhost" && host != "127.0.0.1"
        });
        match (remote, in_container) {
            (true, _) => Self::Everywhere,
            (false, true) => Self::Gateway,
            (false, false) => Self::Loopback,
        }
    }

    /// Returns the address, or `None` for all addresses.
    async fn address(self, docker: &Docker) -> Result<Option<String>> {
        match self {
            Self::Loopback => Ok(Some(Ipv4Addr::LOCALHOST.to_string())),
            // Some daemons report no gateway. Then testcontainers connects to the loopback address.
            Self::Gateway => {
                Ok(Some(gateway(docker).await?.unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string())))
            }
            Self::Everywhere => Ok(None),
        }
    }
}

/// Returns the address of the daemon's machine in the network that containers get by default, if the daemon reports it.
async fn gateway(docker: &Docker) -> Result<Option<String>> {
    let network = docker.inspect_network("bridge", None).await.context("Docker's network \"bridge\"")?;
    let configs = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    Ok(configs.into_iter().find_map(|config| config.gateway.filter(|gateway| !gateway.is_empty())))
}

/// A container, which is removed when dropped, or otherwise when the test process ends.
///
/// All calls to Docker run on the harness's runtime, because the client's connections belong to the runtime
/// on which they were made.
pub(crate) struct Container {
    /// Emptied only by `drop`.
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
    /// Starts a container. Its ports must be mapped to fixed ones: Docker assigns others after a restart.
    pub(crate) async fn start(request: ContainerRequest<GenericImage>) -> Result<Self> {
        Self::start_in(request, Scratch::new("container")?).await
    }

    /// Starts a container that uses files of this folder.
    pub(crate) async fn start_in(request: ContainerRequest<GenericImage>, scratch: Scratch) -> Result<Self> {
        let name = format!("outbox-test-{:016x}", fastrand::u64(..));
        let record = scratch.record_container(&name)?;
        let docker_host = std::env::var("DOCKER_HOST").ok();
        let published = Published::new(docker_host.as_deref(), Path::new("/.dockerenv").exists());
        runtime::run(async move {
            let docker = docker_client_instance().await?;
            let image = request.image();
            is_present(&docker, &format!("{}:{}", image.name(), image.tag())).await?;
            let address = published.address(&docker).await?;
            let request = request
                .with_container_name(&name)
                .with_startup_timeout(START)
                .with_host_config_modifier(move |host| {
                    let bindings = host.port_bindings.iter_mut().flat_map(HashMap::values_mut);
                    for binding in bindings.flatten().flatten() {
                        binding.host_ip.clone_from(&address);
                    }
                });
            let container = match request.start().await {
                Ok(container) => container,
                Err(error) => {
                    // It may have been created without getting its ports.
                    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                    let _ = docker.remove_container(&name, Some(options)).await;
                    return Err(error.into());
                }
            };
            let host = container.get_host().await?.to_string();
            let container = Some(Arc::new(container));
            Ok(Self { container, host, record: Some(record), scratch: Some(scratch) })
        })
        .await
    }

    /// The host of the container's ports.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    fn container(&self) -> Arc<ContainerAsync<GenericImage>> {
        Arc::clone(self.container.as_ref().expect("emptied only when dropped"))
    }

    pub(crate) fn id(&self) -> String {
        self.container().id().to_owned()
    }

    /// Returns an error with the end of the log if the container has exited.
    pub(crate) async fn check(&self) -> Result<()> {
        let container = self.container();
        runtime::run(async move {
            if container.is_running().await? {
                return Ok(());
            }
            let log = container.stderr_to_vec().await.unwrap_or_default();
            let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(4_000)..]).into_owned();
            bail!("the container has ended. The end of its log:\n{tail}")
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

    /// Runs a command in the container and returns its output.
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
    // The library has only a stop, which lets the server shut down in order.
    docker_client_instance().await?.kill_container(container.id(), None).await?;
    // A start that came too early would find the container running, and have no effect.
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
            // Not before the container is gone: until then the record makes sure that it is removed.
            drop(record);
            drop(scratch);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

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

    #[test]
    fn an_image_is_found_in_the_list_by_its_whole_name() {
        assert!(listed("postgres").starts_with("postgres:17"));
        assert!(listed("postgres-next").starts_with("postgres:18"));
    }

    #[test]
    fn ports_are_published_where_the_tests_reach_them() {
        assert_eq!(Published::new(None, false), Published::Loopback);
        assert_eq!(Published::new(Some("unix:///var/run/docker.sock"), false), Published::Loopback);
        assert_eq!(Published::new(Some("tcp://localhost:2375"), false), Published::Loopback);
        assert_eq!(Published::new(Some("tcp://build-machine:2375"), false), Published::Everywhere);
        assert_eq!(Published::new(Some("tcp://build-machine:2375"), true), Published::Everywhere);
        assert_eq!(Published::new(None, true), Published::Gateway);
    }

    /// The second request costs nothing: the daemon and the registry are not asked again.
    #[tokio::test]
    async fn a_missing_image_is_looked_for_once() {
        if daemon().await.is_err() {
            return;
        }
        let missing = GenericImage::new("outbox-test/not-an-image", "1");
        let started = Instant::now();
        let error = Container::start(missing.clone().into()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("outbox-test/not-an-image:1") && text.contains("scripts/container-images"),
            "{text}"
        );
        assert!(error.is::<Definite>(), "{error:?}");
        let first = started.elapsed();
        for _ in 0..100 {
            Container::start(missing.clone().into()).await.unwrap_err();
        }
        assert!(started.elapsed() < first + REGISTRY, "{:?}", started.elapsed());
    }

    /// The server in it has no password.
    #[tokio::test]
    async fn a_container_publishes_its_ports_on_one_address_only() {
        let image = image(&Environment::default(), "", listed("postgres")).unwrap();
        let request = image
            .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
            .with_mapped_port(crate::ports::free(), testcontainers::core::ContainerPort::Tcp(5432));
        if daemon().await.is_err() || std::env::var_os("DOCKER_HOST").is_some() {
            return;
        }
        let container = match Container::start(request).await {
            Ok(container) => container,
            // No image here.
            Err(error) if error.is::<Definite>() => return,
            Err(error) => panic!("{error:?}"),
        };
        let id = container.id();
        let published = runtime::run(async move {
            let docker = docker_client_instance().await.unwrap();
            let container = docker.inspect_container(&id, None).await.unwrap();
            container.host_config.unwrap().port_bindings.unwrap()
        })
        .await;
        let addresses: Vec<_> =
            published.into_values().flatten().flatten().map(|binding| binding.host_ip.unwrap()).collect();
        let expected = match Published::new(None, Path::new("/.dockerenv").exists()) {
            Published::Loopback => "127.0.0.1",
            Published::Gateway if container.host() != "localhost" => container.host(),
            Published::Gateway => "127.0.0.1",
            Published::Everywhere => panic!("DOCKER_HOST is not set"),
        };
        assert_eq!(addresses, [expected]);
    }
}
