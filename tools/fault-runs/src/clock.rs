//! Wall clocks of relays that jump: libfaketime is loaded between the program and the system's clock. The
//! monotonic clock, which every measurement of a relay must use, is not changed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use integration_tests::Tool;
use tempfile::TempDir;

/// How far a clock jumps: the effect of a wrong setting, a corrected one, or a virtual machine that was
/// suspended.
const JUMPS: [i64; 8] = [-315_360_000, -86_400, -3_600, -10, 10, 3_600, 86_400, 315_360_000];

/// The tool for clocks that jump.
#[derive(Clone, Debug)]
pub struct Clocks {
    library: String,
}

impl Clocks {
    /// Returns `None` if libfaketime is not installed; the skip has been reported.
    ///
    /// # Panics
    /// If it is required, or cannot be used.
    pub fn find() -> Option<Self> {
        let faketime = Tool::Faketime.find()?;
        // It finds its library, whose path differs between systems.
        let output = Command::new(faketime).args(["-m", "-f", "+0", "printenv", "LD_PRELOAD"]).output();
        let output = output.expect("faketime can be run");
        let library = String::from_utf8(output.stdout).expect("the name of a file").trim().to_owned();
        assert!(
            output.status.success() && !library.is_empty(),
            "faketime does not print the path of its library"
        );
        Some(Self { library })
    }

    /// Gives a program that is about to start a separate clock, which is right at first.
    pub(crate) fn give(&self, command: &mut Command) -> Clock {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Clock { offset: folder.path().join("offset"), _folder: folder };
        clock.set(0);
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock.offset)
            // In seconds: how long it may take until a jump is noticed.
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            // Its older name.
            .env("DONT_FAKE_MONOTONIC", "1");
        clock
    }
}

/// The wall clock of one process.
#[derive(Debug)]
pub(crate) struct Clock {
    offset: PathBuf,
    _folder: TempDir,
}

impl Clock {
    /// Jumps by a random amount.
    pub(crate) fn jump(&self, dice: usize) {
        self.set(JUMPS[dice % JUMPS.len()]);
    }

    /// From now on it is wrong by this number of seconds.
    fn set(&self, seconds: i64) {
        // In one step, because the process may be reading it.
        let new = self.offset.with_extension("new");
        fs::write(&new, format!("{seconds:+}\n")).expect("a temporary file");
        fs::rename(new, &self.offset).expect("a temporary file");
    }

    /// Removes the files that the library leaves after a process was killed.
    pub(crate) fn forget(pid: u32) {
        for name in [format!("faketime_shm_{pid}"), format!("sem.faketime_sem_{pid}")] {
            // A process that exited has removed it.
            let _ = fs::remove_file(PathBuf::from("/dev/shm").join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use integration_tests::{Subprocess, eventually};

    use super::*;

    /// Prints both clocks repeatedly, until it is killed.
    const TELL: &str = "import time, select\n\
                        while True:\n print(int(time.time()), int(time.monotonic()), flush=True)\n select.select([], [], [], 0.05)";

    #[tokio::test]
    async fn a_wall_clock_jumps_while_its_process_runs_and_the_monotonic_one_goes_on() {
        let (Some(clocks), Some(python)) = (Clocks::find(), Tool::Python3.find()) else { return };
        let mut command = Command::new(python);
        command.args(["-c", TELL]);
        let clock = clocks.give(&mut command);
        let mut process = Subprocess::start("clock", command);
        let last = || {
            let log = process.log();
            let mut parts = log.trim_end().lines().last()?.split(' ').map(str::parse::<i64>);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        };
        let wait = |by: i64| {
            eventually("the clock to be so", Duration::from_secs(30), move || async move {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
                last().filter(|(wall, _)| (wall - now - by).abs() < 5)
            })
        };
        let (_, before) = wait(0).await;
        for dice in [0, 7, 1] {
            clock.jump(dice);
            let (_, after) = wait(JUMPS[dice]).await;
            assert!((before..before + 120).contains(&after), "{before} became {after}");
        }
        process.kill();
        Clock::forget(process.pid());
    }
}
