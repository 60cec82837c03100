//! Users who may not do everything.

use integration_tests::Nats;
use outbox_core::{ErrorKind, Publisher, Scope, Verdict};

use crate::support::{assert_error, builder, confirmed, message, publish_one, publisher};

const USERS: &str = r#"
accounts { SHOP: { jetstream: enabled, users: [
    { user: all, password: secret }
    { user: some, password: secret, permissions: { publish: { deny: ["*.forbidden.>"] } } }
    { user: unasking, password: secret, permissions: { publish: { deny: ["$JS.API.>"] } } }
    { user: unheard, password: secret, permissions: { subscribe: { deny: ["_INBOX.>"] } } }
] } }
no_auth_user: all
"#;

#[tokio::test]
async fn a_subject_that_the_user_may_not_publish_to_fails_alone() {
    let Some(nats) = Nats::start_with(USERS).await else { return };
    let stream = nats.stream().await;
    let publisher = publisher(&nats.url_of("some", "secret"));
    // More than the client library keeps of the server's errors, each for a subject of its own.
    let topic = |number: usize| match number % 2 {
        0 => stream.name().to_owned(),
        _ => format!("{}.forbidden.{number}", stream.name()),
    };
    let batch: Vec<_> = (0..500).map(|number| message(&topic(number))).collect();
    for _ in 0..2 {
        let outcomes = publisher.publish(&batch).await;
        for (number, outcome) in outcomes.iter().enumerate() {
            if number % 2 == 0 {
                confirmed(outcome);
            } else {
                let expected = (ErrorKind::Permission, Verdict::Retry, Scope::Message);
                let error = assert_error(outcome, expected, "allow it in the server's permissions");
                assert!(error.to_string().contains(&topic(number)), "{error}");
            }
        }
    }
    assert_eq!(stream.messages().await.len(), 250);
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_streams_learns_what_may_be_missing() {
    let Some(nats) = Nats::start_with(USERS).await else { return };
    let stream = nats.stream().await;
    let publisher = publisher(&nats.url_of("unasking", "secret"));
    let outcomes = publisher.publish(&[message(stream.name()), message("no.such.subject")]).await;
    confirmed(&outcomes[0]);
    let expected = (ErrorKind::NotFound, Verdict::Retry, Scope::Message);
    assert_error(&outcomes[1], expected, "allow the user to publish to $JS.API.STREAM.NAMES");
    let expected = (ErrorKind::Permission, Verdict::Retry, Scope::Endpoint);
    assert_error(&publisher.check().await, expected, "$JS.API.STREAM.NAMES");
}

#[tokio::test]
async fn a_user_who_receives_no_acknowledgements_is_told_so() {
    let Some(nats) = Nats::start_with(USERS).await else { return };
    let stream = nats.stream().await;
    let publisher = publisher(&nats.url_of("unheard", "secret"));
    let outcome = publish_one(&publisher, message(stream.name())).await;
    let expected = (ErrorKind::Permission, Verdict::Unknown, Scope::Endpoint);
    assert_error(&outcome, expected, "set an inbox_prefix");
    // The stream has the message, which is why its outcome is unknown.
    integration_tests::eventually("the message", crate::support::SOON, || async {
        (!stream.is_empty().await).then_some(())
    })
    .await;

    let prefixed = builder(&nats.url_of("unheard", "secret")).inbox_prefix("relay.acks").build().unwrap();
    confirmed(&publish_one(&prefixed, message(stream.name())).await);
}
