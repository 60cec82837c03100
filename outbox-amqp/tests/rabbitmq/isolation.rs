//! Messages over which the broker closes the channel must not fail others for ever.

use outbox_amqp::AmqpOptions;
use outbox_core::{ErrorKind, Message, Outcome, Publisher, Scope, Verdict};

use integration_tests::{RabbitMq, Server};

use crate::support::{
    all_confirmed, assert_error, builder, message, message_with, messages, publish_one, vhost,
};

/// Publishes the batch as a relay would, which sends no message again that was confirmed or failed for good, until all
/// innocent ones are confirmed. Gives the last outcome of each guilty one, and the number of calls.
async fn relay(
    publisher: &impl Publisher,
    batch: &[Message],
    guilty: impl Fn(&Message) -> bool,
) -> (Vec<Outcome>, usize) {
    let mut left: Vec<Message> = batch.to_vec();
    let mut convicted = Vec::new();
    // Each guilty message may spoil one window before it is known, and the end of that one the next.
    for call in 1..=4 {
        let outcomes = publisher.publish(&left).await;
        let (mut again, mut refused) = (Vec::new(), Vec::new());
        for (message, outcome) in left.into_iter().zip(outcomes) {
            match &outcome {
                Ok(()) => assert!(!guilty(&message), "confirmed, although the broker refused it"),
                Err(error) if guilty(&message) && error.verdict() == Verdict::Permanent => {
                    convicted.push(outcome)
                }
                Err(_) if guilty(&message) => refused.push((message, outcome)),
                Err(error) => {
                    assert_ne!(error.verdict(), Verdict::Permanent, "{}", error.report());
                    assert_eq!(
                        error.scope(),
                        Scope::Endpoint,
                        "no attempt may be counted: {}",
                        error.report()
                    );
                    again.push(message);
                }
            }
        }
        if again.is_empty() {
            convicted.extend(refused.into_iter().map(|(_, outcome)| outcome));
            return (convicted, call);
        }
        left = again.into_iter().chain(refused.into_iter().map(|(message, _)| message)).collect();
    }
    panic!("innocent messages still fail in the fourth call");
}

#[tokio::test]
async fn a_message_too_large_for_the_broker_is_found_and_the_others_pass() {
    let Some(rabbitmq) = RabbitMq::start().await else { return };
    rabbitmq.ctl(&["eval", "application:set_env(rabbit, max_message_size, 10000)."]).await;
    let vhost = rabbitmq.vhost().await;
    vhost.declare_queue("orders").await;
    let publisher = builder(vhost.uri()).build().unwrap();

    let guilty = |message: &Message| message.payload().len() > 10_000;
    let mut batch = messages("orders", 300);
    batch.insert(120, message("orders", vec![0; 20_000]));
    batch.insert(200, message("orders", vec![0; 30_000]));
    let (outcomes, _) = relay(&publisher, &batch, guilty).await;
    assert_eq!(outcomes.len(), 2);
    for outcome in outcomes {
        let error = assert_error(&outcome, ErrorKind::TooLarge, Verdict::Permanent, Scope::Message);
        assert!(error.report().contains("larger than configured max size 10000"), "{}", error.report());
    }
    all_confirmed(&publisher.publish(&messages("orders", 100)).await);
}

#[tokio::test]
async fn an_exchange_we_may_not_write_to_disturbs_others_once() {
    let Some(vhost) = vhost().await else { return };
    let rabbitmq = RabbitMq::shared().await.unwrap();
    vhost.declare_queue("orders").await;
    let user = vhost.name();
    rabbitmq.management("PUT", &format!("/api/users/{user}"), Some(r#"{"password":"p","tags":""}"#)).await;
    // Write access to the default exchange and nothing else: all that publishing needs.
    let rights = r#"{"configure":"","write":"^amq\\.default$","read":""}"#;
    rabbitmq.management("PUT", &format!("/api/permissions/{user}/{user}"), Some(rights)).await;
    let uri = vhost.uri().replace("guest:guest", &format!("{user}:p"));
    let publisher = builder(&uri).build().unwrap();

    let forbidden = || message_with("t", &AmqpOptions::new().exchange("amq.fanout"));
    let guilty = |message: &Message| !message.options().is_empty();
    let mut batch = messages("orders", 100);
    batch.insert(30, forbidden());
    batch.insert(60, forbidden());
    let (outcomes, _) = relay(&publisher, &batch, guilty).await;
    for outcome in &outcomes {
        assert_error(outcome, ErrorKind::Permission, Verdict::Retry, Scope::Message);
    }
    // New messages to the same exchange do not disturb anybody either.
    let mut batch = messages("orders", 100);
    batch.insert(50, forbidden());
    let (outcomes, calls) = relay(&publisher, &batch, guilty).await;
    assert_eq!(calls, 1);
    assert_error(&outcomes[0], ErrorKind::Permission, Verdict::Retry, Scope::Message);

    // Nor does one that wants to declare without the right to.
    let declaring = message_with("t", &AmqpOptions::new().exchange("own").exchange_type("topic"));
    let outcomes = publisher.publish(&[declaring, message("orders", "x")]).await;
    assert_error(&outcomes[0], ErrorKind::Permission, Verdict::Retry, Scope::Message);
    assert!(outcomes[1].is_ok());
    rabbitmq.management("DELETE", &format!("/api/users/{user}"), None).await;
}

#[tokio::test]
async fn alone_a_refused_message_is_known_at_once() {
    let Some(vhost) = vhost().await else { return };
    let channel = vhost.channel().await;
    let internal = lapin::options::ExchangeDeclareOptions { internal: true, ..Default::default() };
    let fanout = lapin::ExchangeKind::Fanout;
    channel.exchange_declare("internal".into(), fanout, internal, Default::default()).await.unwrap();
    let publisher = builder(vhost.uri()).build().unwrap();
    let outcome = publish_one(&publisher, message_with("t", &AmqpOptions::new().exchange("internal"))).await;
    let error = assert_error(&outcome, ErrorKind::Permission, Verdict::Retry, Scope::Message);
    assert!(error.report().contains("internal"), "{}", error.report());
}
