//! MariaDB and MySQL from the programs on this machine.
//!
//! The two differ in how a data directory is created, in some options, and in the location of their programs:
//! MariaDB is installed, while MySQL, which Debian's releases do not have, is unpacked in a cache folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use super::product::{self, Product};
use crate::downloads;
use crate::environment::Environment;
use crate::launch::{Launch, LocalServer, User, find_folder};
use crate::scratch::Scratch;

/// The folder with `mariadbd`.
const MARIADB_BIN: &str = "OUTBOX_TEST_MARIADB_BIN";
/// The folder in which the packages of MySQL are unpacked.
const MYSQL_ROOT: &str = "OUTBOX_TEST_MYSQL_ROOT";

/// The options that both products support, and in which a test's server differs from the defaults.
///
/// The operating system keeps the data that a commit has written even if the server is killed, and no test
/// cuts the power. So no commit needs to wait for the disk. But the data must have been *written*: with 0 the
/// log is up to a second late, and a killed server would lose confirmed data. The doublewrite buffer stays
/// on, because a kill can tear a page.
///
/// The log for replicas is on, in row format, as on every server that has a replica.
const COMMON: [&str; 10] = [
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--innodb-buffer-pool-size=64M",
    "--max-connections=300",
    "--character-set-server=utf8mb4",
    "--server-id=1",
    "--log-bin=binlog",
    "--binlog-format=ROW",
    "--skip-name-resolve",
    // The system limits the asynchronous requests of all servers together, and several servers exceed that.
    "--innodb-use-native-aio=OFF",
];

/// The options, after those above, of a server that survives a power failure.
const DURABLE: [&str; 2] = ["--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"];

/// The options of a server for tests, in a process as in a container.
pub(super) fn options(product: &[&'static str], durable: bool) -> Vec<&'static str> {
    let durable: &[&str] = if durable { &DURABLE } else { &[] };
    [&COMMON, product, durable].concat()
}

/// An installed server of one of the products.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The names of the folders and the log.
    name: &'static str,
    /// The server, with the arguments that come before all others.
    server: (PathBuf, Vec<String>),
    /// The program that creates a data directory, with its arguments.
    installer: (PathBuf, Vec<String>),
    /// The options of this product only.
    options: &'static [&'static str],
    path: String,
    user: Option<User>,
    durable: bool,
}

impl Installation {
    pub(super) fn mariadb(environment: &Environment) -> Result<Self> {
        let bin =
            find_folder(environment, MARIADB_BIN, "mariadbd", ["/usr/sbin".into(), "/usr/libexec".into()])?;
        let base = bin.parent().context("the programs of MariaDB are in the root folder")?;
        // Debian installs it next to other programs; the vendor's archives have it among scripts.
        let path = format!("{0}/bin:{0}/scripts:/usr/bin:/bin", base.display());
        let installer = Environment::from_pairs([("PATH", path.as_str())])
            .find_program("mariadb-install-db")
            .with_context(|| format!("no program mariadb-install-db in {path}"))?;
        let base = format!("--basedir={}", base.display());
        let arguments =
            ["--no-defaults", &base, "--auth-root-authentication-method=normal", "--skip-test-db", "--force"];
        Ok(Self {
            name: "mariadb",
            server: (bin.join("mariadbd"), vec!["--no-defaults".to_owned(), base.clone()]),
            installer: (installer, arguments.map(str::to_owned).to_vec()),
            options: <product::MariaDb as Product>::OPTIONS,
            path,
            user: User::for_server("mysql")?,
            durable: environment.durable(),
        })
    }

    pub(super) fn mysql(environment: &Environment) -> Result<Self> {
        let root = match environment.get(MYSQL_ROOT) {
            Some(root) => PathBuf::from(root),
            None => downloads::folder(environment, "mysql")?,
        };
        let server = root.join("usr/sbin/mysqld");
        ensure!(server.is_file(), "there is no usr/sbin/mysqld in {}", root.display());
        let (program, mut arguments) = downloads::with_libraries_of(&root, &server)?;
        let usr = root.join("usr").display().to_string();
        arguments.extend([
            "--no-defaults".to_owned(),
            format!("--basedir={usr}"),
            format!("--lc-messages-dir={usr}/share/mysql"),
            format!("--plugin-dir={usr}/lib/mysql/plugin"),
        ]);
        let installer = [&arguments[..], &["--initialize-insecure".to_owned()]].concat();
        Ok(Self {
            name: "mysql",
            server: (program.clone(), arguments),
            installer: (program, installer),
            options: <product::MySql as Product>::OPTIONS,
            path: "/usr/bin:/bin".to_owned(),
            user: User::for_server("mysql")?,
            durable: environment.durable(),
        })
    }

    pub(super) fn launch(&self, port: u16) -> Result<LocalServer> {
        let scratch = Scratch::new(self.name)?;
        User::own(self.user, scratch.path())?;
        self.copy_template(scratch.path())?;
        let folder = scratch.path().display();
        let (program, arguments) = &self.server;
        let own = [
            format!("--datadir={}", data(scratch.path())),
            format!("--tmpdir={folder}"),
            format!("--pid-file={folder}/pid"),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            // The path of a socket is limited to about a hundred characters; the path of a temporary folder
            // is not.
            "--socket=".to_owned(),
        ];
        let options = options(self.options, self.durable).into_iter().map(str::to_owned);
        let arguments = arguments.iter().cloned().chain(own).chain(options).collect();
        LocalServer::start(vec![self.command(self.name, program, arguments)], scratch)
    }

    /// Puts a new data directory into the folder. Creating one takes seconds, so this process creates one and
    /// copies it.
    fn copy_template(&self, folder: &Path) -> Result<()> {
        static TEMPLATES: LazyLock<Mutex<HashMap<PathBuf, Scratch>>> = LazyLock::new(Mutex::default);

        let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
        let key = &self.installer.0;
        if !templates.contains_key(key) {
            templates.insert(key.clone(), self.make_template()?);
        }
        let template = data(templates.get(key).context("it was just put there")?.path());
        drop(templates);
        let arguments = vec!["-a".to_owned(), template, data(folder)];
        self.command("cp", Path::new("/bin/cp"), arguments).run(folder)?;
        Ok(())
    }

    fn make_template(&self) -> Result<Scratch> {
        let scratch = Scratch::new(self.name)?;
        User::own(self.user, scratch.path())?;
        // Host names are not resolved. If root were known only by such a name, no client could log in.
        let users = scratch.path().join("users.sql");
        std::fs::write(&users, USERS)?;
        let (program, arguments) = &self.installer;
        let own = [
            format!("--datadir={}", data(scratch.path())),
            format!("--tmpdir={}", scratch.path().display()),
            format!("--init-file={}", users.display()),
            "--skip-name-resolve".to_owned(),
        ];
        let arguments = arguments.iter().cloned().chain(own).collect();
        self.command("install", program, arguments).run(scratch.path())?;
        Ok(scratch)
    }

    fn command(&self, name: &'static str, program: &Path, arguments: Vec<String>) -> Launch {
        Launch {
            name,
            program: program.to_path_buf(),
            arguments,
            variables: vec![("PATH", self.path.clone()), ("LC_ALL", "C.UTF-8".to_owned())],
            user: self.user,
            port: None,
        }
    }
}

const USERS: &str = "CREATE USER IF NOT EXISTS 'root'@'%' IDENTIFIED BY '';\n\
                     GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;\n";

fn data(folder: &Path) -> String {
    folder.join("data").display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_named_must_hold_the_server() {
        let root = Scratch::new("bin").unwrap();
        let folder = root.path().to_str().unwrap();
        let error = |variable, locate: fn(&Environment) -> Result<Installation>| {
            locate(&Environment::from_pairs([(variable, folder)])).unwrap_err().to_string()
        };
        let text = error(MARIADB_BIN, Installation::mariadb);
        assert!(text.contains(MARIADB_BIN) && text.contains("no mariadbd"), "{text}");
        let text = error(MYSQL_ROOT, Installation::mysql);
        assert!(text.contains("no usr/sbin/mysqld"), "{text}");
    }
}
