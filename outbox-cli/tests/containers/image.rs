//! The image of `packaging/Dockerfile`.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use integration_tests::Docker;

use crate::support::packaged::packaging;

/// The images that the Dockerfile starts from.
pub(crate) const BASES: [&str; 2] = ["rust:1.94-bookworm", RUNTIME];
const RUNTIME: &str = "gcr.io/distroless/cc-debian12:nonroot";
/// A program with all stores and publishers takes minutes more to build.
const FEATURES: &str = "postgres,amqp";
/// Bytes of the layer with the program.
const MOST_BYTES: u64 = 40_000_000;
/// With these a container of the image may do nothing but what the program needs.
pub(crate) const RESTRICTED: [&str; 5] =
    ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];

/// Builds the image, once per process, and returns its name.
pub(crate) fn built(docker: &Docker) -> &'static str {
    static BUILT: OnceLock<Result<String, String>> = OnceLock::new();
    match BUILT.get_or_init(|| build(docker)) {
        Ok(name) => name,
        Err(error) => panic!("the image cannot be built: {error}"),
    }
}

fn build(docker: &Docker) -> Result<String, String> {
    let (root, started) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), Instant::now());
    let mut command = Command::new("docker");
    command.args(["build", "--build-arg", &format!("FEATURES={FEATURES}"), "--file"]);
    command.arg(packaging().join("Dockerfile")).args(["--tag", "outbox-test"]).arg(root);
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        let log = [output.stdout, output.stderr].concat();
        let log = String::from_utf8_lossy(&log[log.len().saturating_sub(6_000)..]).into_owned();
        return Err(log);
    }
    // A name of this very image: a build in another checkout moves the tag.
    let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", "outbox-test"]);
    let name = format!("outbox-test:{}", id.trim_start_matches("sha256:").split_at(12).0);
    docker.run(&["tag", &id, &name]);
    println!("{name} with {FEATURES}: built in {:.0} s", started.elapsed().as_secs_f64());
    Ok(name)
}

fn bytes(docker: &Docker, image: &str) -> u64 {
    docker.run(&["image", "inspect", "--format", "{{.Size}}", image]).parse().unwrap()
}

#[test]
fn the_image_is_small_and_needs_no_rights() {
    let Some(docker) = Docker::with_images(&BASES) else { return };
    let image = built(&docker);

    let added = bytes(&docker, image) - bytes(&docker, RUNTIME);
    println!("the program and its layer: {:.1} MB", added as f64 / 1e6);
    assert!(added < MOST_BYTES, "{added} bytes");

    let settings = "{{.Config.User}} {{.Config.StopSignal}} {{.Config.Entrypoint}} {{.Config.Cmd}}";
    let settings = docker.run(&["image", "inspect", "--format", settings, image]);
    assert_eq!(settings, "65532:65532 SIGTERM [/usr/local/bin/outbox] [relay]");

    let label = docker.label();
    let run = |arguments: &[&str]| {
        let start = ["run", "--rm", "--network", "none", "--label", &label];
        docker.run(&[&start, &RESTRICTED[..], arguments].concat())
    };
    assert_eq!(run(&[image, "--version"]), format!("outbox {}", env!("CARGO_PKG_VERSION")));
    let refused = docker.try_run(&["run", "--rm", "--label", &label, "--entrypoint", "/bin/sh", image]);
    assert!(refused.is_err(), "the image has a shell");
}

#[test]
fn dependencies_are_compiled_before_the_sources_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let (manifests, sources) = (folder.path().join("manifests"), folder.path().join("sources"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let script = packaging().join("image-sources");
    let split = Command::new(script).arg(&root).arg(&manifests).arg(&sources).status().unwrap();
    assert!(split.success());
    for tree in [&manifests, &sources] {
        // Reads every manifest, and fails if a member has no target or the lock file does not fit.
        let mut metadata = Command::new(env!("CARGO"));
        metadata.args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]);
        let output = metadata.current_dir(tree).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let program = "outbox-cli/src/main.rs";
    assert_eq!(read(sources.join(program)), read(root.join(program)));
    for empty in [manifests.join("outbox-cli/src/lib.rs"), sources.join("integration-tests/src/lib.rs")] {
        assert_eq!(read(empty), "");
    }
    assert!(!sources.join("outbox-cli/tests").exists(), "a change of a test would build the image again");
}
