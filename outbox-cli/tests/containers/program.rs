//! The image under test.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use integration_tests::docker::{Docker, Image};

use crate::support::packaged::text;

/// Names an image of the whole Dockerfile, to be tested in place of a quick one.
const GIVEN: &str = "OUTBOX_TEST_IMAGE";

/// The image of the program.
///
/// It is the last stage of the Dockerfile, word for word, around the program that cargo has built for the tests. So it takes
/// seconds where the whole Dockerfile compiles for minutes, which `scripts/check-image` does.
///
/// `None` where the base image is missing; the skip has been reported already.
pub(crate) fn image(docker: &Docker) -> Option<&'static str> {
    // Kept until the end of the test process, which has both images removed.
    static BUILT: OnceLock<(Image, Image)> = OnceLock::new();
    static NAMED: OnceLock<String> = OnceLock::new();

    if let Ok(given) = std::env::var(GIVEN) {
        docker.inspect(&given, "{{.Id}}");
        return Some(NAMED.get_or_init(|| given));
    }
    docker.images(["runtime"])?;
    Some(BUILT.get_or_init(|| build(docker)).1.name())
}

/// Whether the image was built of the whole Dockerfile.
pub(crate) fn is_given() -> bool {
    std::env::var_os(GIVEN).is_some()
}

/// The last stage of the Dockerfile.
pub(crate) fn last_stage() -> String {
    let file = text("Dockerfile");
    file[file.rfind("\nFROM ").expect("more than one stage") + 1..].to_owned()
}

/// Builds an image with the program alone, and then the last stage, which copies the program from there.
fn build(docker: &Docker) -> (Image, Image) {
    let stage = last_stage();
    let copy = stage
        .lines()
        .find_map(|line| line.strip_prefix("COPY --from=build "))
        .expect("the program is copied");
    let (place, _) = copy.split_once(' ').expect("from and to");
    let stripped = tempfile::NamedTempFile::new().unwrap();
    strip(Path::new(env!("CARGO_BIN_EXE_outbox")), stripped.path());
    let program =
        docker.build(&format!("FROM scratch\nCOPY outbox {place}\n"), &[("outbox", stripped.path())]);
    let image = docker.build(&format!("FROM {} AS build\n{stage}", program.name()), &[]);
    let version = docker.try_run(&["run", "--rm", "--network", "none", image.name(), "--version"]);
    if let Err(said) = version {
        panic!(
            "the program does not run in the image: {said}\nIf the C library of this machine is newer than that of the image: \
             run scripts/check-image, which builds the program in a container."
        );
    }
    (program, image)
}

/// Copies a program without its symbols, as the Dockerfile leaves them out.
fn strip(from: &Path, to: &Path) {
    let status = Command::new("strip").arg("-o").arg(to).arg(from).status();
    assert!(
        status.expect("strip, which comes with the linker").success(),
        "{} cannot be stripped",
        from.display()
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(to, mode).unwrap();
}
