//! Temporary folders, and the promise that nothing outlives the test process.
//!
//! A test process keeps everything it creates below one folder: data directories, and a record of each
//! process, container, network and image it has created. Normally a value's `Drop` cleans up. But a static is
//! never dropped, and a process that is killed drops nothing. Therefore a small shell script waits at the end
//! of a pipe for the test process to end, whatever the cause, and then stops and removes everything that the
//! records name. If that script is killed too, the next test process runs it on the folders that have no
//! owner.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

const CLEANUP: &str = include_str!("cleanup.sh");
/// Folders of test processes begin with this. A folder that is not yet locked by its owner has another name.
const PREFIX: &str = "outbox-test-";
const LOCK: &str = "lock";

/// The folder of this test process.
#[derive(Debug)]
struct Owner {
    folder: PathBuf,
    /// Locked while this process lives.
    _lock: File,
    /// Its end is what the clean-up script waits for.
    _pipe: ChildStdin,
}

static OWNER: LazyLock<Owner> = LazyLock::new(|| {
    let parent = parent();
    sweep(&parent);
    Owner::new(&parent).unwrap_or_else(|error| panic!("cannot work in {}: {error}", parent.display()))
});

/// The parent of temporary folders: the one in the environment, otherwise the default. As root, servers run
/// as other users and must have access to it.
fn parent() -> PathBuf {
    if let Some(folder) = std::env::var_os("OUTBOX_TEST_TMPDIR") {
        return PathBuf::from(folder);
    }
    let folder = std::env::temp_dir();
    let unreachable = rustix::process::geteuid().is_root() && !open_to_everybody(&folder);
    if unreachable { PathBuf::from("/tmp") } else { folder }
}

/// Returns whether every user has access to this folder.
fn open_to_everybody(folder: &Path) -> bool {
    let enterable =
        |folder: &Path| fs::metadata(folder).is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    folder.ancestors().all(enterable)
}

impl Owner {
    fn new(parent: &Path) -> io::Result<Self> {
        let name = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
        let unlocked = parent.join(format!(".{PREFIX}{name}"));
        fs::create_dir(&unlocked)?;
        // Servers of other users must have access, whatever the umask is.
        fs::set_permissions(&unlocked, fs::Permissions::from_mode(0o755))?;
        let lock = File::create(unlocked.join(LOCK))?;
        lock.lock()?;
        let folder = parent.join(format!("{PREFIX}{name}"));
        fs::rename(unlocked, &folder)?;

        let mut guardian = cleanup(&folder)
            .arg("wait")
            .stdin(Stdio::piped())
            // In a separate process group, so that neither a Ctrl-C nor a runner that ends a process group
            // reaches it.
            .process_group(0)
            .spawn()?;
        let pipe = guardian.stdin.take().ok_or_else(|| io::Error::other("no pipe to the clean-up script"))?;
        Ok(Self { folder, _lock: lock, _pipe: pipe })
    }
}

pub(crate) fn cleanup(folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", CLEANUP, "cleanup"]).arg(folder).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Cleans up after test processes that could not do so, and whose script could not either.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !ours {
            continue;
        }
        // Another user's folder cannot be opened, a living process's cannot be locked.
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            let _ = cleanup(&entry.path()).status();
        }
    }
}

/// A folder for one server or one test. It is removed when this value is dropped, or otherwise when the
/// process ends.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);

        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = OWNER.folder.join(format!("{name}-{count}"));
        fs::create_dir(&folder)?;
        Ok(Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Registers the process to be killed, with its descendants, when the test process ends.
    pub(crate) fn record_process(&self, name: &str, pid: u32) -> io::Result<Record> {
        let started = crate::signal::start_time(pid)
            .ok_or_else(|| io::Error::other(format!("process {pid} ({name}) is gone")))?;
        self.record(&format!("{name}.process"), &format!("{pid} {started}\n"))
    }

    /// Registers the container to be removed when the test process ends.
    #[cfg(feature = "containers")]
    pub(crate) fn record_container(&self, id: &str) -> io::Result<Record> {
        self.record(&format!("{id}.container"), &format!("{id}\n"))
    }

    /// Registers the network to be removed when the test process ends.
    #[cfg(feature = "containers")]
    pub(crate) fn record_network(&self, name: &str) -> io::Result<Record> {
        self.record(&format!("{name}.network"), &format!("{name}\n"))
    }

    /// Registers the image to be removed when the test process ends.
    #[cfg(feature = "containers")]
    pub(crate) fn record_image(&self, name: &str) -> io::Result<Record> {
        self.record(&format!("{}.image", name.replace(['/', ':'], "-")), &format!("{name}\n"))
    }

    /// Registers the containers, networks and volumes of a Docker Compose project to be removed when the test
    /// process ends.
    #[cfg(feature = "containers")]
    pub(crate) fn record_project(&self, name: &str) -> io::Result<Record> {
        self.record(&format!("{name}.project"), &format!("{name}\n"))
    }

    /// Leaves the folder and its records to the script that cleans up after the test process.
    #[cfg(feature = "containers")]
    pub(crate) fn leave(self, record: Record) {
        std::mem::forget(record);
        std::mem::forget(self);
    }

    fn record(&self, file: &str, text: &str) -> io::Result<Record> {
        let path = self.folder.join(file);
        fs::write(&path, text)?;
        Ok(Record { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A server that is shutting down may still write; the remaining files are removed when this process
        // ends.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The entry of an object that must not outlive the test process. Dropped when the object has ended.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
}

impl Drop for Record {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::eventually::poll_until_blocking;

    const DEADLINE: Duration = Duration::from_secs(120);

    /// A process with a child, neither of which exits unless it is killed. The child announces itself in a file.
    fn family(folder: &Path) -> (std::process::Child, u32) {
        let file = folder.join("child");
        let parent = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $! >child.new; mv child.new child; wait"])
            .current_dir(folder)
            .process_group(0)
            .spawn()
            .unwrap();
        let child = poll_until_blocking(DEADLINE, || fs::read_to_string(&file).ok()).unwrap();
        (parent, child.trim().parse().unwrap())
    }

    /// A folder as another test process would have created it, outside the one of this process.
    fn folder_of_another(name: &str) -> PathBuf {
        let folder = parent().join(format!(".outbox-other-{name}-{:016x}", fastrand::u64(..)));
        fs::create_dir_all(folder.join("server-0")).unwrap();
        folder
    }

    #[test]
    fn processes_and_folders_end_with_their_owner() {
        let folder = folder_of_another("ends");
        let (mut parent, child) = family(&folder.join("server-0"));
        let started = crate::signal::start_time(parent.id()).unwrap();
        fs::write(folder.join("server-0/server.process"), format!("{} {started}\n", parent.id())).unwrap();

        let mut guardian = cleanup(&folder).arg("wait").stdin(Stdio::piped()).spawn().unwrap();
        assert!(parent.try_wait().unwrap().is_none());
        drop(guardian.stdin.take());
        assert!(guardian.wait().unwrap().success());
        assert!(!parent.wait().unwrap().success());
        assert!(crate::signal::wait_until_gone(&[child]));
        assert!(!folder.exists());
    }

    #[test]
    fn a_process_that_only_has_the_number_of_ours_is_left_alone() {
        let folder = folder_of_another("reuse");
        let (mut parent, child) = family(&folder.join("server-0"));
        fs::write(folder.join("server-0/server.process"), format!("{} 1\n", parent.id())).unwrap();
        assert!(cleanup(&folder).status().unwrap().success());
        assert!(parent.try_wait().unwrap().is_none());
        assert!(!folder.exists());
        crate::signal::kill_tree(parent.id());
        parent.wait().unwrap();
        assert!(crate::signal::wait_until_gone(&[child]));
    }

    #[test]
    fn a_folder_is_as_closed_as_those_above_it() {
        let scratch = Scratch::new("closed").unwrap();
        let (outer, inner) = (scratch.path().join("outer"), scratch.path().join("outer/inner"));
        fs::create_dir_all(&inner).unwrap();
        for folder in [scratch.path(), &outer, &inner] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert!(open_to_everybody(&inner));
        fs::set_permissions(&outer, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!open_to_everybody(&inner));
    }

    #[test]
    fn only_folders_without_an_owner_are_swept() {
        let parent = Scratch::new("sweep").unwrap();
        let [living, dead, unrelated] = ["outbox-test-1", "outbox-test-2", "else"].map(|name| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            (File::create(folder.join(LOCK)).unwrap(), folder)
        });
        living.0.lock().unwrap();
        drop(dead.0);
        sweep(parent.path());
        assert!(living.1.exists() && unrelated.1.exists());
        assert!(!dead.1.exists());
    }
}
