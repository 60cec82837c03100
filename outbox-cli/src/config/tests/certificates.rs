//! Files with certificates and keys, and lists of URLs, of the AMQP publisher.

use super::*;

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");

fn amqp(lines: &str) -> String {
    format!("[[route]]\n{STORE}[route.publisher]\ntype = \"amqp\"\n{lines}\n")
}

fn encrypted(lines: &str) -> String {
    amqp(&format!("url = \"amqps://me@broker/orders\"\n{lines}"))
}

#[test]
fn a_certificate_file_is_read_before_anything_connects() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let given = |name: &str| format!("{CERTIFICATES}/{name}");
    let (empty, nonsense) = (file("empty", " \n"), file("nonsense", "nonsense"));
    let broken = file("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let open = file("open", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let both = file(
        "both",
        &[given("authority.pem"), given("server.key")]
            .map(|path| std::fs::read_to_string(path).unwrap())
            .concat(),
    );
    for (path, expected) in [
        (&given("authority.pem"), None),
        (&empty, Some("the file is empty")),
        (&nonsense, Some("the file does not hold a certificate in PEM format")),
        (&broken, Some("the file holds a certificate that cannot be read")),
        (&open, Some("the file is not valid PEM")),
        (&given("server.key"), Some("the file holds a private key")),
        (&both, Some("the file holds a private key")),
    ] {
        let found = faults(&encrypted(&format!("ca_file = {path:?}")));
        match expected {
            None => assert_eq!(found, [""; 0]),
            Some(expected) => {
                let expected = format!("{NAME}:8: route.default.publisher.ca_file: {expected}");
                assert!(found.len() == 1 && found[0].starts_with(&expected), "{found:?}");
            }
        }
    }
    for (certificate, key, field, expected) in [
        (given("client.pem"), given("client.key"), "", ""),
        (given("client.key"), given("client.key"), "client_certificate_file", "does not hold a certificate"),
        (empty.clone(), given("client.key"), "client_certificate_file", "is empty"),
        (given("client.pem"), given("client.pem"), "client_key_file", "does not hold a private key"),
        (given("client.pem"), empty.clone(), "client_key_file", "is empty"),
        (given("client.pem"), given("server.key"), "client_key_file", "does not belong to the certificate"),
    ] {
        let lines = format!("client_certificate_file = {certificate:?}\nclient_key_file = {key:?}");
        let found = faults(&encrypted(&lines));
        if field.is_empty() {
            assert_eq!(found, [""; 0]);
        } else {
            let fits = found.len() == 1 && found[0].contains(&format!("{field}: the file {expected}"));
            assert!(fits, "{field}: {expected} is not in {found:?}");
        }
    }
}

#[test]
fn certificates_are_refused_where_nothing_is_encrypted() {
    let ca = format!("ca_file = \"{CERTIFICATES}/authority.pem\"");
    let identity = format!(
        "client_certificate_file = \"{CERTIFICATES}/client.pem\"\nclient_key_file = \"{CERTIFICATES}/client.key\""
    );
    for (urls, lines, field) in [
        ("url = \"amqp://me@broker\"", &ca, "ca_file"),
        ("url = \"amqp://me@broker\"", &identity, "client_certificate_file"),
        ("urls = [\"amqps://me@one\", \"amqp://me@two\"]", &ca, "ca_file"),
    ] {
        let found = faults(&amqp(&format!("{urls}\n{lines}")));
        let expected = format!("publisher.{field}: has no effect on an amqp:// URL");
        assert!(found.len() == 1 && found[0].contains(&expected), "{found:?}");
    }
}

#[test]
fn several_urls_are_read_from_a_list_a_variable_or_a_file_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("urls");
    std::fs::write(&file, "amqp://me:s3cret@one/shop\namqp://me:s3cret@two:5673/shop\n").unwrap();
    let environment = [("URLS", "amqp://me:s3cret@one/shop, amqp://me:s3cret@two:5673/shop")];
    for lines in [
        "urls = [\"amqp://me:s3cret@one/shop\", \"amqp://me:s3cret@two:5673/shop\"]".to_owned(),
        "urls = [\"amqp://me@one/shop\", \"amqp://me@two:5673/shop\"]\npassword = \"s3cret\"".to_owned(),
        "urls_env = \"URLS\"".to_owned(),
        format!("urls_file = {:?}", file.to_str().unwrap()),
    ] {
        let config = load(&amqp(&lines), &environment, &[]).unwrap();
        let place = config.routes[0].publisher.place();
        assert_eq!(place, "amqp at one:5672, two:5673, virtual host shop");
        let shown = format!("{config:?} {}", config.explanation);
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    for (lines, expected) in [
        ("urls = []", "publisher.urls: is empty"),
        ("urls = [1]", "publisher.urls: must be a list of strings"),
        ("urls = [\"amqp://me:s3cret@one\", \"http://s3cret\"]", "publisher.urls: is invalid"),
        ("urls = [\"amqp://me:1/s3cret@one/shop\"]", "publisher.urls: has an @ behind its host"),
    ] {
        let found = faults(&amqp(lines));
        assert!(found.len() == 1 && found[0].contains(expected) && !found[0].contains("s3cret"), "{found:?}");
    }
}

#[test]
fn certificates_of_webhooks_need_an_encrypted_endpoint() {
    let ca = format!("ca_file = \"{CERTIFICATES}/authority.pem\"\n");
    let webhook = |url: &str| {
        faults(&format!("[[route]]\n{STORE}[route.publisher]\ntype = \"webhook\"\nurl = {url:?}\n{ca}"))
    };
    assert_eq!(webhook("https://receiver.example/hooks"), [""; 0]);
    let found = webhook("http://receiver.example/hooks");
    assert!(
        found.len() == 1 && found[0].contains("publisher.ca_file: has no effect on http://"),
        "{found:?}"
    );
}
