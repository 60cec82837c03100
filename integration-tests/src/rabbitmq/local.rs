//! RabbitMQ from the programs installed on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::configuration;
use crate::environment::Environment;
use crate::launch::{Launch, LocalServer, User, find_folder};
use crate::ports;
use crate::scratch::Scratch;

/// The folder with the scripts `rabbitmq-server` and `rabbitmqctl`.
const BIN: &str = "OUTBOX_TEST_RABBITMQ_BIN";
/// Before `/usr/sbin`, where Debian has a script of the same name that changes user and folder.
const FOLDERS: [&str; 2] = ["/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin"];

/// An installed RabbitMQ.
#[derive(Debug)]
pub struct Installation {
    bin: PathBuf,
    epmd: PathBuf,
    path: String,
    user: Option<User>,
    /// Lines of rabbitmq.conf.
    settings: String,
}

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) management: u16,
    distribution: u16,
    epmd: u16,
}

impl Ports {
    pub(super) fn free() -> Self {
        Self {
            amqp: ports::free(),
            management: ports::free(),
            distribution: ports::free(),
            epmd: ports::free(),
        }
    }
}

/// The environment for running `rabbitmqctl` on one node.
#[derive(Clone, Debug)]
pub(super) struct Control {
    launch: Launch,
    folder: PathBuf,
}

impl Control {
    pub(super) async fn run(&self, arguments: Vec<String>) -> Result<String> {
        let Self { launch, folder } = self.clone();
        let launch = Launch { arguments, ..launch };
        tokio::task::spawn_blocking(move || launch.run(&folder)).await?
    }
}

impl Installation {
    pub(super) fn locate(environment: &Environment) -> Result<Self> {
        let bin = find_folder(environment, BIN, "rabbitmq-server", FOLDERS.map(PathBuf::from))?;
        let path = format!("/usr/lib/erlang/bin:{}", environment.get("PATH").unwrap_or("/usr/bin:/bin"));
        let epmd = Environment::from_pairs([("PATH", path.as_str())])
            .find_program("epmd")
            .context("Erlang's program epmd is not installed")?;
        let (user, settings) = (User::for_server("rabbitmq")?, configuration::settings(environment));
        Ok(Self { bin, epmd, path, user, settings })
    }

    pub(super) fn launch(&self, ports: Ports) -> Result<(LocalServer, Control)> {
        let scratch = Scratch::new("rabbitmq")?;
        let folder = scratch.path().to_path_buf();
        self.write_configuration(&folder, ports)?;
        User::own(self.user, &folder)?;

        let variables = self.variables(&folder, ports);
        let command = |name, program: PathBuf, arguments: &[&str], port| Launch {
            name,
            program,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            variables: variables.clone(),
            user: self.user,
            port,
        };
        // A node without this name server starts one, which then outlives the node. So it is started before
        // the node.
        let port = ports.epmd.to_string();
        let epmd =
            command("epmd", self.epmd.clone(), &["-port", &port, "-address", "127.0.0.1"], Some(ports.epmd));
        let node = command("rabbitmq", self.bin.join("rabbitmq-server"), &[], None);
        let control = command("rabbitmqctl", self.bin.join("rabbitmqctl"), &[], None);
        Ok((LocalServer::start(vec![epmd, node], scratch)?, Control { launch: control, folder }))
    }

    fn variables(&self, folder: &Path, ports: Ports) -> Vec<(&'static str, String)> {
        let file = |name: &str| folder.join(name).display().to_string();
        let erlang = format!("{} -kernel inet_dist_use_interface {{127,0,0,1}}", configuration::ERLANG);
        vec![
            ("PATH", self.path.clone()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            // The folder of the cookie.
            ("HOME", folder.display().to_string()),
            ("ERL_EPMD_PORT", ports.epmd.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", format!("outbox{}@localhost", ports.amqp)),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", ports.amqp.to_string()),
            ("RABBITMQ_DIST_PORT", ports.distribution.to_string()),
            ("RABBITMQ_MNESIA_BASE", file("mnesia")),
            ("RABBITMQ_LOG_BASE", file("log")),
            ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
            ("RABBITMQ_PID_FILE", file("pid")),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang),
            // The script then becomes the node, instead of waiting for it.
            ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
        ]
    }

    fn write_configuration(&self, folder: &Path, ports: Ports) -> Result<()> {
        let Ports { amqp, management, .. } = ports;
        fs::write(folder.join("enabled_plugins"), "[rabbitmq_management].\n")?;
        let own = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n"
        );
        fs::write(folder.join("rabbitmq.conf"), own + &self.settings)?;
        Ok(())
    }
}
