//! A cluster of which too few servers run.

use integration_tests::Nats;
use outbox_core::{ErrorKind, Scope, Verdict};

use crate::support::{assert_error, message, publish_one, publisher};

/// Two of three servers do not exist, so this one can never be the leader.
const ALONE: &str = "
cluster {
    name: shop
    listen: 127.0.0.1:-1
    routes: [ nats://127.0.0.1:1, nats://127.0.0.1:2 ]
}
";

#[tokio::test]
async fn a_cluster_without_a_majority_is_unavailable() {
    let Some(nats) = Nats::start_with(ALONE).await else { return };
    let publisher = publisher(nats.url());
    publisher.connect().await.unwrap();
    let expected = (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
    assert_error(
        &publish_one(&publisher, message("orders")).await,
        expected,
        "check that most servers of the cluster run",
    );
    assert_error(&publisher.check().await, expected, "check that most servers of the cluster run");
}
