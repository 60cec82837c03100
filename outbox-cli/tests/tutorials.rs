//! The programs of the tutorials, in other languages, with a relay beside them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::{Postgres, RabbitMq, Server, Tool};
use serde_json::{Value, json};
use support::{DEADLINE, Place};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/other-languages")
}

/// The program commits order 17 and rolls back order 18, so a consumer sees the event of the first alone.
async fn delivers_what_was_committed(mut program: Command) {
    let (Some(postgres), Some(rabbitmq)) = (Postgres::shared().await, RabbitMq::shared().await) else {
        return;
    };
    let database = postgres.database().await;
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("order.paid").await;
    let place = Place::new(&format!(
        "\
[[route]]
name = \"orders\"

[route.store]
type = \"postgres\"
url = \"{}\"

[route.publisher]
type = \"amqp\"
url = \"{}\"
",
        database.url(),
        vhost.uri()
    ));
    place.run(&["migrate"]);

    let mut url = url::Url::parse(database.url()).unwrap();
    // The driver for Go insists on TLS otherwise.
    url.query_pairs_mut().append_pair("sslmode", "disable");
    program.env("DATABASE_URL", url.as_str()).env("TRACEPARENT", TRACEPARENT);
    let output = assert_cmd::Command::from_std(program).timeout(DEADLINE).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("order 18 is rolled back"), "{said}");
    let pool = database.pool(1).await;
    let orders: Vec<i64> = sqlx::query_scalar("SELECT id FROM orders").fetch_all(&pool).await.unwrap();
    assert_eq!(orders, [17]);
    // RabbitMQ has no place for the key: it decides the order, which is the relay's concern.
    let keys: Vec<String> =
        sqlx::query_scalar("SELECT key FROM outbox_message").fetch_all(&pool).await.unwrap();
    assert_eq!(keys, ["order-17"]);

    place.run(&["relay", "--until-empty"]);
    assert_eq!(vhost.queue_depth("order.paid").await, 1);
    let delivery = vhost.consume("order.paid", 1, DEADLINE).await.remove(0);
    let payload: Value = serde_json::from_slice(&delivery.data).unwrap();
    assert_eq!(payload, json!({ "order": 17, "customer": "Zoë 🦀" }));
    assert_eq!(delivery.properties.content_type().as_ref().unwrap().as_str(), "application/json");
    let headers = delivery.properties.headers().as_ref().unwrap();
    let header = |name: &str| {
        let value = headers.inner().get(name).unwrap_or_else(|| panic!("no {name} in {headers:?}"));
        String::from_utf8(value.as_long_string().unwrap().as_bytes().to_vec()).unwrap()
    };
    assert_eq!(header("tenant"), "acme");
    assert_eq!(header("customer"), "Zoë 🦀");
    assert_eq!(header("traceparent"), TRACEPARENT);
}

#[tokio::test]
async fn a_service_in_python() {
    let (Some(python), Some(driver)) = (Tool::Python3.find(), Tool::PythonPsycopg.find()) else { return };
    let mut program = Command::new(python);
    program.arg(programs().join("python/orders.py"));
    program.env("PYTHONPATH", driver).env("PYTHONDONTWRITEBYTECODE", "1");
    delivers_what_was_committed(program).await;
}

#[tokio::test]
async fn a_service_in_node() {
    let (Some(node), Some(driver)) = (Tool::Node.find(), Tool::NodePg.find()) else { return };
    // Node looks for packages beside the program.
    let folder = tempfile::tempdir().unwrap();
    for file in ["package.json", "orders.js"] {
        std::fs::copy(programs().join("node").join(file), folder.path().join(file)).unwrap();
    }
    std::os::unix::fs::symlink(driver.join("node_modules"), folder.path().join("node_modules")).unwrap();
    let mut program = Command::new(node);
    program.arg("orders.js").current_dir(folder.path());
    delivers_what_was_committed(program).await;
}

#[tokio::test]
async fn a_service_in_go() {
    let Some(go) = Tool::Go.find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(go);
    // With the driver that Debian has, and without a network.
    program.args(["run"]).arg(programs().join("go/main.go")).current_dir(folder.path());
    program.env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode").env("GOFLAGS", "");
    program.env("CGO_ENABLED", "0").env("GOCACHE", folder.path().join("cache"));
    delivers_what_was_committed(program).await;
}
