//! Encrypted connections.

use std::path::{Path, PathBuf};

use integration_tests::Nats;
use outbox_core::{ErrorKind, Scope, Verdict};
use outbox_nats::Tls;

use crate::support::{assert_error, builder, confirmed, message, publish_one};

const SETTINGS: &str = r#"
tls { cert_file: server.pem, key_file: server.key, ca_file: authority.pem, verify: true }
allow_non_tls: true
"#;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../outbox-cli/tests/certificates")
}

fn pem(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

#[tokio::test]
async fn a_certificate_of_a_known_authority_opens_the_server() {
    let Some(nats) = Nats::start_with_files(SETTINGS, &folder()).await else { return };
    let stream = nats.stream().await;
    let url = nats.url().replace("nats://127.0.0.1", "tls://localhost");
    let (authority, identity) = (pem("authority.pem"), (pem("client.pem"), pem("client.key")));
    let known = Tls::new().authorities(&authority);
    let complete = known.clone().identity(&identity.0, &identity.1);
    let publisher = builder(&url).tls(complete).build().unwrap();
    confirmed(&publish_one(&publisher, message(stream.name())).await);
    assert_eq!(stream.messages().await.len(), 1);

    // The server wants a certificate, and the client wants to know its authority.
    for tls in [known, Tls::new().identity(&identity.0, &identity.1)] {
        let publisher = builder(&url).tls(tls).build().unwrap();
        let expected = (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
        assert_error(&publish_one(&publisher, message(stream.name())).await, expected, "server: localhost:");
    }
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_refused() {
    let mixed = Tls::new().identity(pem("client.pem"), pem("server.key"));
    let error = builder("tls://localhost").tls(mixed).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("cannot be used"), "{error}");
}
