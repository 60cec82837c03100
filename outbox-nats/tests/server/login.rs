//! Getting in, and not getting in.

use integration_tests::{Nats, Server};
use outbox_core::{Error, ErrorKind, Publisher, Scope, Verdict};
use outbox_nats::NatsPublisherBuilder;

use crate::support::{SOON, assert_error, builder, confirmed, message, publish_one};

/// A key pair that is used nowhere else.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

fn users() -> String {
    format!(
        "accounts {{ SHOP: {{ jetstream: enabled, users: [
            {{ user: me, password: \"p/s3cret\" }}
            {{ user: anybody, password: unused }}
            {{ nkey: {PUBLIC} }}
        ] }} }}
        no_auth_user: anybody"
    )
}

/// What `connect` and a relay are told.
async fn refusal(builder: NatsPublisherBuilder) -> Error {
    let publisher = builder.build().unwrap();
    let asked = publisher.connect().await.unwrap_err();
    let error = publish_one(&publisher, message("t")).await.unwrap_err();
    assert_eq!(asked.report(), error.report());
    assert_eq!((error.verdict(), error.scope()), (Verdict::Retry, Scope::Endpoint));
    assert!(!format!("{error:?} {publisher:?} {}", error.report()).contains("s3cret"), "{error:?}");
    error
}

#[tokio::test]
async fn each_kind_of_login_lets_in_and_a_wrong_one_does_not() {
    let Some(nats) = Nats::start_with(&users()).await else { return };
    let stream = nats.stream().await;
    let address = nats.address();
    let logins = [
        builder(nats.url()),
        builder(&nats.url_of("me", "p%2Fs3cret")),
        builder(nats.url()).user_and_password("me", "p/s3cret"),
        // What a method sets takes the place of what the URL says.
        builder(&nats.url_of("me", "wrong")).user_and_password("me", "p/s3cret"),
        builder(nats.url()).nkey(SEED),
    ];
    for login in logins {
        confirmed(&publish_one(&login.build().unwrap(), message(stream.name())).await);
    }
    assert_eq!(stream.messages().await.len(), 5);

    for wrong in [
        builder(&nats.url_of("me", "s3cret")),
        builder(nats.url()).user_and_password("s3cret", "s3cret"),
        builder(nats.url()).token("s3cret"),
        builder(nats.url()).nkey("SUs3cret"),
    ] {
        let error = refusal(wrong).await;
        assert_eq!(error.kind(), ErrorKind::Permission, "{}", error.report());
        assert!(error.to_string().contains(&format!("server: {address}")), "{error}");
    }
}

#[tokio::test]
async fn a_token_lets_in() {
    // A server has either users or one token, and the harness connects without a login. So this one is fake.
    let server = crate::fake::Server::start(crate::fake::Info::default()).await;
    let publisher = builder(&format!("nats://t%2Fs3cret@{}", server.address())).build().unwrap();
    publisher.connect().await.unwrap();
    assert!(
        server.seen().iter().any(|line| line.contains(r#""auth_token":"t/s3cret""#)),
        "{:?}",
        server.seen()
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_reported_at_once() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let started = tokio::time::Instant::now();
    let error = refusal(builder(&format!("nats://me:s3cret@{closed}"))).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // No timeout was waited for.
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(
        refusal(builder("nats://me:s3cret@no-such-host.invalid")).await.kind(),
        ErrorKind::Unavailable
    );
}

#[tokio::test]
async fn the_next_server_of_a_cluster_is_tried() {
    let Some(nats) = Nats::shared().await else { return };
    let stream = nats.stream().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // In any order.
    for _ in 0..8 {
        let publisher = builder(&format!("nats://{closed}")).server(nats.url()).build().unwrap();
        confirmed(&publish_one(&publisher, message(stream.name())).await);
    }
}

#[tokio::test]
async fn something_that_is_not_nats_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let error = refusal(builder(&format!("nats://{address}"))).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    server.abort();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    // The system accepts connections for it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = builder(&format!("nats://{}", listener.local_addr().unwrap()));
    let publisher = builder.connect_timeout(std::time::Duration::from_millis(300)).build().unwrap();
    let outcomes = publisher.publish(&[message("t")]).await;
    let expected = (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint);
    assert_error(&outcomes[0], expected, "");
}
