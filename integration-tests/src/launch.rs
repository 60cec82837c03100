//! A private server made of processes of this machine.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::environment::Environment;
use crate::eventually::poll_until_blocking;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::signal;

/// How long a helper of a server may take until it listens.
const LISTENS: Duration = Duration::from_secs(300);

/// The user a server runs as.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// The user for a server. As root it is the user of the server's package, or `nobody` if the server is
    /// not installed as a package. PostgreSQL and MySQL refuse to run as root, and RabbitMQ should not.
    pub(crate) fn for_server(name: &str) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let user = Self::called(name)?.or(Self::called("nobody")?);
        user.map(Some)
            .with_context(|| format!("running as root, and there is no user {name} to run the server as"))
    }

    fn called(name: &str) -> Result<Option<Self>> {
        let id = |option| -> Result<Option<u32>> {
            let output = Command::new("id").args([option, name]).output().context("cannot run `id`")?;
            let number = String::from_utf8_lossy(&output.stdout).trim().parse();
            if output.status.success() { Ok(Some(number?)) } else { Ok(None) }
        };
        Ok(id("-u")?.zip(id("-g")?).map(|(uid, gid)| Self { uid, gid }))
    }

    /// Gives the server access to a folder and hides it from others.
    pub(crate) fn own(user: Option<Self>, folder: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        user.map_or(Ok(()), |user| std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid)))
    }
}

/// A command and its environment.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The name of the log and the record.
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// The whole environment: the command inherits nothing, so that a developer's settings cannot change a
    /// server.
    pub(crate) variables: Vec<(&'static str, String)>,
    pub(crate) user: Option<User>,
    /// If set, the command counts as started only when this port accepts connections.
    pub(crate) port: Option<u16>,
}

impl Launch {
    pub(crate) fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(self.variables.iter().map(|(k, v)| (k, v)));
        command.current_dir(folder).stdin(Stdio::null());
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Runs a command that exits without being stopped.
    pub(crate) fn run(&self, folder: &Path) -> Result<String> {
        let output = self
            .command(folder)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{} failed ({}): {text}", self.program.display(), output.status);
        Ok(text)
    }
}

/// A server that runs as processes of this machine. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct LocalServer {
    /// In the order in which they start. The last one is the server; those before it are its helpers.
    launches: Vec<Launch>,
    /// Empty while the server is down. The helpers keep running.
    running: Mutex<Vec<Process>>,
    scratch: Scratch,
}

impl LocalServer {
    pub(crate) fn start(launches: Vec<Launch>, scratch: Scratch) -> Result<Self> {
        let server = Self { launches, running: Mutex::default(), scratch };
        server.launch()?;
        Ok(server)
    }

    /// Starts the processes that are down. The client finds out whether the server is ready.
    pub(crate) fn launch(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = self.scratch.path();
        for launch in self.launches.iter().skip(running.len()) {
            let mut process = Process::start(launch.command(folder), launch.name, &self.scratch)?;
            if let Some(port) = launch.port {
                let settled = || {
                    let ended = process.status().ok().flatten().is_some();
                    let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
                    if ended { Some(false) } else { listens().then_some(true) }
                };
                let listens = poll_until_blocking(LISTENS, settled) == Some(true);
                ensure!(
                    listens,
                    "{} does not listen on port {port}. The end of its log:\n{}",
                    launch.name,
                    process.log_tail()
                );
            }
            running.push(process);
        }
        Ok(())
    }

    /// Returns an error if any of the processes has exited, with the end of its log.
    pub(crate) fn check(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for (launch, process) in self.launches.iter().zip(running.iter_mut()) {
            if let Some(status) = process.status()? {
                let name = launch.name;
                bail!("{name} has ended ({status}). The end of its log:\n{}", process.log_tail());
            }
        }
        Ok(())
    }

    /// Kills the server and all its descendants immediately, as a crash of its machine would.
    pub(crate) fn kill(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(running.len() == self.launches.len(), "the server is down already");
        if let Some(mut server) = running.pop() {
            server.kill()?;
        }
        Ok(())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len() == self.launches.len()
    }

    pub(crate) fn stop(&self) -> Result<()> {
        signal::stop_tree(self.pid()?);
        Ok(())
    }

    pub(crate) fn cont(&self) -> Result<()> {
        signal::continue_tree(self.pid()?);
        Ok(())
    }

    /// The processor time that the server has used so far, without its helpers.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let ticks = signal::ticks(self.pid()?);
        // Linux has always reported this value to programs, whatever the kernel's own clock rate.
        Ok(Duration::from_millis(ticks * 10))
    }

    fn pid(&self) -> Result<u32> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(running.len() == self.launches.len(), "the server is down");
        running.last().map(Process::pid).context("the server is down")
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        // The helpers that run before the server.
        while running.pop().is_some() {}
    }
}

/// The first of `folders` that holds `program`; the one in `variable` takes precedence and must hold it.
pub(crate) fn find_folder(
    environment: &Environment,
    variable: &str,
    program: &str,
    folders: impl IntoIterator<Item = PathBuf>,
) -> Result<PathBuf> {
    if let Some(folder) = named_folder(environment, variable, program)? {
        return Ok(folder);
    }
    if let Some(folder) = folders.into_iter().find(|folder| folder.join(program).is_file()) {
        return Ok(folder);
    }
    let found = environment.find_program(program).and_then(|file| Some(file.parent()?.to_path_buf()));
    found.with_context(|| format!("no program {program} is installed"))
}

/// The folder in `variable`, if it is set. It must hold `program`.
pub(crate) fn named_folder(
    environment: &Environment,
    variable: &str,
    program: &str,
) -> Result<Option<PathBuf>> {
    let folder = environment.get(variable).map(PathBuf::from);
    if let Some(folder) = &folder {
        ensure!(folder.join(program).is_file(), "{variable} is {}, which has no {program}", folder.display());
    }
    Ok(folder)
}
