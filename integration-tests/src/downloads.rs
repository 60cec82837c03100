//! Servers that are not installed but unpacked in a folder by `scripts/test`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::environment::Environment;

/// The folder of all downloads, within a cache folder.
const FOLDER: &str = "outbox-servers";
/// The cache of the whole machine.
const SYSTEM_CACHE: &str = "/var/cache";

/// The folder into which `scripts/test` has unpacked `name`.
pub(crate) fn folder(environment: &Environment, name: &str) -> Result<PathBuf> {
    let caches = caches(environment, rustix::process::geteuid().is_root());
    let folders: Vec<_> = caches.into_iter().map(|cache| cache.join(FOLDER).join(name)).collect();
    let found = folders.iter().find(|folder| folder.is_dir()).cloned();
    found.with_context(|| {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!("it was not downloaded: there is no {}", folders.join(", nor "))
    })
}

/// The user's cache, then the machine's. As root, the servers run as another user, who cannot read root's
/// cache.
fn caches(environment: &Environment, root: bool) -> Vec<PathBuf> {
    let system = PathBuf::from(SYSTEM_CACHE);
    if root {
        return vec![system];
    }
    let home = || Some(Path::new(environment.get("HOME")?).join(".cache"));
    let user = environment.get("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    user.into_iter().chain([system]).collect()
}

/// Returns the program and its first arguments for running a program that was unpacked below `root` together
/// with its libraries, which are newer than the system's.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) fn with_libraries_of(root: &Path, program: &Path) -> Result<(PathBuf, Vec<String>)> {
    let (loader, triple) = match std::env::consts::ARCH {
        "x86_64" => ("usr/lib64/ld-linux-x86-64.so.2", "x86_64-linux-gnu"),
        "aarch64" => ("usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu"),
        other => anyhow::bail!("how to run programs of another release on {other} is not known here"),
    };
    let loader = root.join(loader);
    anyhow::ensure!(loader.exists(), "there is no {}", loader.display());
    let libraries = root.join("usr/lib").join(triple);
    let arguments = ["--library-path".into(), libraries.display().to_string(), program.display().to_string()];
    Ok((loader, arguments.to_vec()))
}

/// The checksum that the program `cksum` prints, which `scripts/fetch-servers` and `scripts/container-images`
/// use.
#[cfg(feature = "pubsub")]
pub(crate) fn cksum(bytes: &[u8]) -> u32 {
    // The length follows the bytes: as many bytes as it needs, the lowest one first.
    let length = std::iter::successors(Some(bytes.len()).filter(|&left| left > 0), |&left| {
        Some(left >> 8).filter(|&left| left > 0)
    });
    let length = length.map(|left| left.to_le_bytes()[0]);
    let mut sum = 0_u32;
    for byte in bytes.iter().copied().chain(length) {
        sum ^= u32::from(byte) << 24;
        for _ in 0..8 {
            sum = if sum & 0x8000_0000 == 0 { sum << 1 } else { (sum << 1) ^ 0x04c1_1db7 };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_no_cache_of_its_own() {
        let environment = Environment::from_pairs([("HOME", "/home/me")]);
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(caches(&environment, false), paths(&["/home/me/.cache", SYSTEM_CACHE]));
        assert_eq!(caches(&environment, true), paths(&[SYSTEM_CACHE]));
        let environment = environment.with("XDG_CACHE_HOME", "/cache");
        assert_eq!(caches(&environment, false), paths(&["/cache", SYSTEM_CACHE]));
    }

    #[test]
    fn what_was_not_downloaded_is_told_with_where_it_was_sought() {
        let error = folder(&Environment::default(), "nothing").unwrap_err().to_string();
        assert!(error.contains("/var/cache/outbox-servers/nothing"), "{error}");
    }

    #[cfg(feature = "pubsub")]
    #[test]
    fn the_checksum_is_that_of_cksum() {
        // printf '' | cksum, and so on.
        assert_eq!(cksum(b""), 4_294_967_295);
        assert_eq!(cksum(b"outbox\n"), 3_252_649_513);
        assert_eq!(cksum(&[b'x'; 300]), 3_786_917_833);
    }
}
