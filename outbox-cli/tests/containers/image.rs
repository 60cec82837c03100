//! What is in the image, and how it runs.

use std::collections::BTreeSet;
use std::process::Command;

use integration_tests::docker::Docker;
use integration_tests::eventually;
use serde_json::Value;

use crate::program::{image, is_given, last_stage};
use crate::support::DEADLINE;

/// Maximum size of what the image adds to its base.
const MOST_BYTES: u64 = 40_000_000;

/// Options that leave a container as little as can be.
const CONFINED: [&str; 6] =
    ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network=none"];

fn configuration(docker: &Docker, image: &str) -> Value {
    serde_json::from_str(&docker.inspect(image, "{{json .}}")).unwrap()
}

/// The layers of an image, the lowest one first.
fn layers(configuration: &Value) -> Vec<&str> {
    configuration["RootFS"]["Layers"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

/// The files of the uppermost layer of an image, as `tar --verbose` lists them, and the size of all of them.
fn uppermost_layer(docker: &Docker, image: &str) -> (Vec<String>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    docker.run(&["save", "--output", &path("image.tar"), image]);
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    tar(&["--extract", "--file", "image.tar"]);
    let manifest = std::fs::read(path("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest[0]["Layers"].as_array().unwrap().last().unwrap().as_str().unwrap();
    let listed = tar(&["--list", "--verbose", "--numeric-owner", "--file", layer]);
    (listed.lines().map(str::to_owned).collect(), std::fs::metadata(path(layer)).unwrap().len())
}

#[test]
fn the_image_holds_the_program_and_nothing_else() {
    let Some(docker) = Docker::find() else { return };
    let (Some([base]), Some(image)) = (docker.images(["runtime"]), image(&docker)) else { return };
    let (base, image_configuration) = (configuration(&docker, base), configuration(&docker, image));

    // One layer more than the base, with one file in it: no sources, no settings, no secrets.
    let (lower, all) = (layers(&base), layers(&image_configuration));
    assert_eq!((&all[..lower.len()], all.len()), (&lower[..], lower.len() + 1));
    let (files, size) = uppermost_layer(&docker, image);
    let folders = |line: &&String| line.starts_with('d');
    let others: Vec<_> = files.iter().filter(|line| !folders(line)).collect();
    let [program] = &others[..] else { panic!("{files:#?}") };
    assert!(
        program.starts_with("-rwxr-xr-x 0/0 ") && program.ends_with(" usr/local/bin/outbox"),
        "{program}"
    );
    println!("{size} bytes in the layer of the program");
    // The program that cargo builds for tests is not optimized, and larger.
    assert!(!is_given() || size < MOST_BYTES, "{size} bytes, more than {MOST_BYTES}");

    // Everyone who has the image can read its variables, so they must not hold a secret.
    assert_eq!(image_configuration["Config"]["Env"], base["Config"]["Env"]);
}

#[test]
fn the_image_says_how_to_run_it() {
    let Some(docker) = Docker::find() else { return };
    let Some(image) = image(&docker) else { return };
    let configuration = &configuration(&docker, image)["Config"];
    assert_eq!(configuration["User"], "65532:65532", "Kubernetes wants a number, and not that of root");
    assert_eq!(configuration["Entrypoint"], serde_json::json!(["/usr/local/bin/outbox"]));
    assert_eq!(configuration["Cmd"], serde_json::json!(["relay"]));
    assert_eq!(configuration["StopSignal"], "SIGTERM");
    let labels: BTreeSet<_> =
        configuration["Labels"].as_object().unwrap().keys().map(String::as_str).collect();
    for label in ["title", "description", "licenses"] {
        assert!(labels.contains(format!("org.opencontainers.image.{label}").as_str()), "{labels:?}");
        assert!(last_stage().contains(&format!("org.opencontainers.image.{label}=")));
    }
    for absent in ["ExposedPorts", "Volumes", "Healthcheck"] {
        assert!(configuration[absent].is_null(), "{absent}: {}", configuration[absent]);
    }
}

#[tokio::test]
async fn the_program_runs_without_root_rights_and_a_writable_file_system() {
    let Some(docker) = Docker::find() else { return };
    let Some(image) = image(&docker) else { return };
    let run = |arguments: &[&str]| docker.try_run(&[&["run", "--rm"][..], &CONFINED, arguments].concat());
    assert!(run(&[image, "--version"]).unwrap().starts_with("outbox "));
    let said = run(&["--entrypoint", "/bin/sh", image, "-c", "true"]).unwrap_err();
    assert!(said.contains("no such file or directory"), "there is a shell: {said}");
    // A relay waits for a database that is not there.
    let mut options = CONFINED.to_vec();
    for variable in [
        "OUTBOX__STORE__TYPE=postgres",
        "OUTBOX__STORE__URL=postgres://relay@database.invalid/shop",
        "OUTBOX__PUBLISHER__TYPE=terminal",
    ] {
        options.extend(["--env", variable]);
    }
    let container = docker.container(image, &options, &[]);
    container.start();
    eventually("the relay to ask for its database", DEADLINE, || async {
        container.log().contains("a call to the store failed").then_some(())
    })
    .await;
    let users = docker.run(&["top", container.name(), "-o", "pid,uid,gid"]);
    let users: Vec<_> =
        users.lines().skip(1).map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>()).collect();
    assert_eq!(users, [["65532", "65532"]]);
    assert_eq!(container.stop(60), 0, "{}", container.log());
}
