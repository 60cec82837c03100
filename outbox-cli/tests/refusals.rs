//! Passwords that are wrong, and queues, streams and topics that are not there: one clear line each, and no secret in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions next to the tests are test code"
)]

mod support;

use integration_tests::{
    Kinesis, MariaDb, Nats, Postgres, PubSub, RabbitMq, Receiver, Server, Sqs, Subprocess, eventually,
};
use sqlx::AssertSqlSafe;
use support::{DEADLINE, ON_SQLITE, Place};
use url::Url;

const RIGHT: &str = "right-s3cret";
const WRONG: &str = "wrong-s3cret";

/// What a run said, and how it ended. It never says a secret.
struct Said {
    code: i32,
    data: String,
    rest: String,
}

fn run(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = place.command(arguments);
    command.envs(variables.iter().copied());
    let output = assert_cmd::Command::from_std(command).timeout(DEADLINE).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let said =
        Said { code: output.status.code().unwrap(), data: text(output.stdout), rest: text(output.stderr) };
    assert!(!format!("{}{}", said.data, said.rest).contains("s3cret"), "{}{}", said.data, said.rest);
    said
}

/// Runs the doctor, who finds one problem, and says what it is (`seen`) and what to do about it (`advice`).
fn finds(place: &Place, flags: &[&str], variables: &[(&str, &str)], seen: &str, advice: &str) {
    let said = run(place, &[&["doctor"], flags].concat(), variables);
    assert_eq!(said.code, 4, "{flags:?}: {}{}", said.data, said.rest);
    let lines: Vec<_> = said.data.lines().collect();
    let problems: Vec<_> =
        (0..lines.len()).filter(|&i| lines[i].trim_start().starts_with("problem")).collect();
    assert_eq!(problems.len(), 1, "{}", said.data);
    assert!(lines[problems[0]].contains(seen), "{seen} is not in {}", said.data);
    let told = lines.get(problems[0] + 1).is_some_and(|next| next.contains("-> ") && next.contains(advice));
    assert!(told, "{advice} is not in {}", said.data);
}

/// Every command that needs the database ends with the code for a refusal and one line that has `reason`.
async fn a_wrong_password_ends_every_command(settings: &str, reason: &str) {
    let place = Place::new(settings);
    let password = |password| [("OUTBOX__STORE__PASSWORD", password)];
    assert_eq!(run(&place, &["migrate"], &password(RIGHT)).code, 0);
    assert_eq!(run(&place, &["doctor"], &password(RIGHT)).code, 0);
    for command in [
        &["migrate"][..],
        &["status"],
        &["peek"],
        &["enqueue", "order.paid", "17"],
        &["dead-letters", "list"],
        &["purge", "--older-than", "1d"],
    ] {
        let said = run(&place, command, &password(WRONG));
        assert_eq!(said.code, 1, "{command:?}: {}", said.rest);
        assert_eq!(said.data, "", "{command:?}");
        assert_eq!(said.rest.lines().count(), 1, "{command:?}: {}", said.rest);
        assert!(said.rest.contains(reason), "{command:?}: {}", said.rest);
    }
    let said = run(&place, &["doctor"], &password(WRONG));
    assert_eq!(said.code, 4, "{}", said.data);
    assert!(
        said.data.contains(reason) && said.data.contains("-> check the user and password"),
        "{}",
        said.data
    );

    // It might be put right on the other side, so a relay goes on asking.
    let mut command = place.command(&["relay"]);
    command.envs(password(WRONG));
    let mut relay = Subprocess::start("outbox-relay", command);
    let complaint = "a call to the store failed";
    eventually(complaint, DEADLINE, || async { relay.log().contains(complaint).then_some(()) }).await;
    relay.terminate();
    relay.wait(DEADLINE).await;
    assert!(relay.log().contains(reason) && !relay.log().contains("s3cret"), "{}", relay.log());
}

fn on_database(kind: &str, url: &str, user: &str) -> String {
    let mut url = Url::parse(url).unwrap();
    url.set_username(user).unwrap();
    let store = format!("[route.store]\ntype = \"{kind}\"\nurl = \"{url}\"\nacquire_timeout = \"100s\"\n");
    format!("[[route]]\n{store}[route.publisher]\ntype = \"terminal\"\n")
}

#[tokio::test]
async fn a_wrong_password_of_postgresql() {
    // Of this test alone, since who is asked for a password is changed.
    let Some(postgres) = Postgres::start().await else { return };
    let database = postgres.database().await;
    let role = postgres.role_with_password(RIGHT).await;
    let reason = format!("password authentication failed for user \"{role}\"");
    a_wrong_password_ends_every_command(&on_database("postgres", database.url(), &role), &reason).await;
}

#[tokio::test]
async fn a_wrong_password_of_mariadb() {
    let Some(mariadb) = MariaDb::shared().await else { return };
    let database = mariadb.database().await;
    let (pool, name) = (database.pool(1).await, database.name());
    for statement in
        [format!("CREATE USER {name} IDENTIFIED BY '{RIGHT}'"), format!("GRANT ALL ON {name}.* TO {name}")]
    {
        sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    let reason = "the server does not accept the user or its password";
    a_wrong_password_ends_every_command(&on_database("mysql", database.url(), name), reason).await;
    sqlx::query(AssertSqlSafe(format!("DROP USER {name}"))).execute(&pool).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_of_rabbitmq() {
    let Some(rabbitmq) = RabbitMq::shared().await else { return };
    let vhost = rabbitmq.vhost().await;
    let publisher = format!("[route.publisher]\ntype = \"amqp\"\nurl = \"{}\"\n", vhost.uri());
    let place = Place::new(&ON_SQLITE.replace("[route.publisher]\ntype = \"terminal\"\n", &publisher));
    place.run(&["migrate"]);
    place.run(&["enqueue", "order.paid", "17"]);
    let wrong = [("OUTBOX__PUBLISHER__PASSWORD", WRONG)];
    finds(&place, &[], &wrong, "ACCESS_REFUSED", "check the user and password");
    // What is waiting stays, until the password is right.
    let mut command = place.command(&["relay"]);
    command.envs(wrong);
    let mut relay = Subprocess::start("outbox-relay", command);
    let complaint = "the broker fails as a whole";
    eventually(complaint, DEADLINE, || async { relay.log().contains(complaint).then_some(()) }).await;
    relay.terminate();
    relay.wait(DEADLINE).await;
    assert!(relay.log().contains("ACCESS_REFUSED") && !relay.log().contains("s3cret"), "{}", relay.log());
    vhost.declare_queue("order.paid").await;
    place.run(&["relay", "--until-empty"]);
    assert_eq!(vhost.queue_depth("order.paid").await, 1);
}

/// An outbox in a file, to this publisher.
fn to(publisher: &str) -> Place {
    let place = Place::new(&ON_SQLITE.replace("type = \"terminal\"\n", publisher));
    place.run(&["migrate"]);
    place
}

/// Nobody's credentials; and no metadata service of the machine, which would have to be waited for.
const AWS: &[(&str, &str)] = &[
    ("AWS_ACCESS_KEY_ID", "test"),
    ("AWS_SECRET_ACCESS_KEY", "test-s3cret"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];
const NOBODY: &[(&str, &str)] = &[("AWS_EC2_METADATA_DISABLED", "true")];

/// What SQS and Kinesis have in common.
fn without_an_account(place: &Place) {
    finds(place, &[], NOBODY, "there are no credentials", "or the credentials");
    let nowhere = ["--set", "publisher.endpoint=http://127.0.0.1:1"];
    finds(place, &nowhere, AWS, "cannot be reached", "check the host and port");
}

#[tokio::test]
async fn the_doctor_looks_for_queues_of_sqs() {
    let Some(sqs) = Sqs::shared().await else { return };
    let (queue, fifo) = (sqs.queue().await, sqs.fifo_queue().await);
    let place = to(&format!(
        "type = \"sqs\"\nregion = \"us-east-1\"\nendpoint = \"http://{}\"\nqueue = \"{}\"\n\
         topics = {{ \"order.paid\" = \"{}\" }}\n",
        sqs.address(),
        queue.name(),
        fifo.url()
    ));
    let said = run(&place, &["doctor"], AWS);
    assert_eq!(said.code, 0, "{}", said.data);
    assert!(said.data.contains("everything that the settings name exists"), "{}", said.data);
    let make = "create the object named here";
    for (flag, seen) in [
        ("publisher.queue=nowhere", "queue: nowhere"),
        ("publisher.topics.bills=no-bills.fifo", "queue: no-bills.fifo"),
    ] {
        finds(&place, &["--set", flag], AWS, seen, make);
    }
    without_an_account(&place);
}

#[tokio::test]
async fn the_doctor_looks_for_streams_of_kinesis() {
    let kinesis = Kinesis::start().await;
    let stream = kinesis.stream(1).await;
    let place = to(&format!(
        "type = \"kinesis\"\nregion = \"us-east-1\"\nendpoint = \"http://{}\"\nstream = \"{stream}\"\n",
        kinesis.address()
    ));
    let said = run(&place, &["doctor"], AWS);
    assert_eq!(said.code, 0, "{}", said.data);
    for (flag, seen) in [
        ("publisher.stream=nowhere", "stream: nowhere"),
        ("publisher.topics.bills=no-bills", "stream: no-bills"),
    ] {
        finds(&place, &["--set", flag], AWS, seen, "create the object named here");
    }
    without_an_account(&place);
}

#[tokio::test]
async fn the_doctor_looks_for_streams_of_nats() {
    let users = format!(
        "accounts {{ SHOP: {{ jetstream: enabled, users: [ {{ user: anybody, password: unused }}
            {{ user: relay, password: {RIGHT} }} ] }} }}
        no_auth_user: anybody"
    );
    let Some(nats) = Nats::start_with(&users).await else { return };
    let stream = nats.stream().await;
    let place = to(&format!(
        "type = \"nats\"\nurl = \"nats://relay@{}\"\nsubject = \"{stream}.{{topic}}\"\nack_timeout = \"100s\"\n\
         topics = {{ \"order.paid\" = \"{stream}\" }}\n",
        nats.address(),
        stream = stream.name()
    ));
    let right = [("OUTBOX__PUBLISHER__PASSWORD", RIGHT)];
    let said = run(&place, &["doctor"], &right);
    assert_eq!(said.code, 0, "{}", said.data);
    assert!(said.data.contains("everything that the settings name exists"), "{}", said.data);
    let make = "create the object named here";
    let missing = ["--set", "publisher.topics.bills=no.such.subject"];
    finds(&place, &missing, &right, "subject: no.such.subject", make);
    finds(&place, &["--set", "publisher.expect_stream=BILLS"], &right, "expected: BILLS", make);
    let nowhere = ["--set", "publisher.url=nats://relay@127.0.0.1:1"];
    finds(&place, &nowhere, &right, "cannot be reached", "check the host and port");
    let wrong = [("OUTBOX__PUBLISHER__PASSWORD", WRONG)];
    finds(&place, &[], &wrong, "refused the login", "check the user and password");

    place.run(&["enqueue", "order.paid", "17"]);
    assert_eq!(run(&place, &["relay", "--until-empty"], &right).code, 0);
    assert_eq!(&stream.messages().await[0].payload[..], b"17");
}

#[tokio::test]
async fn the_doctor_looks_for_topics_of_pubsub_and_their_subscriptions() {
    let Some(pubsub) = PubSub::shared().await else { return };
    let topic = pubsub.topic().await;
    let place = to(&format!(
        "type = \"pubsub\"\nproject = \"outbox-test\"\nemulator = \"{}\"\ncall_timeout = \"100s\"\n\
         topics = {{ \"order.paid\" = \"{}\" }}\n",
        pubsub.address(),
        topic.id()
    ));
    let said = run(&place, &["doctor"], &[]);
    assert_eq!(said.code, 0, "{}", said.data);
    assert!(!said.data.contains("warning"), "{}", said.data);
    let lost = "topic: projects/outbox-test/topics/nowhere";
    finds(&place, &["--set", "publisher.topics.bills=nowhere"], &[], lost, "create the object named here");
    let nowhere = ["--set", "publisher.emulator=127.0.0.1:1"];
    finds(&place, &nowhere, &[], "cannot be reached", "check the host and port");

    let unordered = topic.subscribe_without_order().await;
    let said = run(&place, &["doctor"], &[]);
    assert_eq!(said.code, 0, "a warning is no problem: {}", said.data);
    let line = format!("without message ordering: {unordered}");
    assert!(said.data.contains("warning") && said.data.contains(&line), "{}", said.data);
    let said = run(&place, &["doctor", "--set", "publisher.ordering_keys=false"], &[]);
    assert!(!said.data.contains("warning"), "{}", said.data);

    // No emulator, but the service itself, which asks who we are.
    let real = to("type = \"pubsub\"\nproject = \"outbox-test\"\ncall_timeout = \"10s\"\n");
    let file = [("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/s3cret.json")];
    finds(&real, &[], &file, "no credentials for Google were found", "correct the settings");
    finds(&real, &[], &[], "the credentials give no token", "check the host and port");
}

#[tokio::test]
async fn the_doctor_connects_to_the_endpoints_of_webhooks() {
    let (receiver, away) = (Receiver::start().await, Receiver::start().await);
    away.kill().await;
    let secret = [("SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
    let publisher = format!(
        "type = \"webhook\"\nurl = \"{}\"\nsecret_env = \"SECRET\"\nallowed_networks = [\"127.0.0.1\"]\n\
         connect_timeout = \"100s\"\n",
        receiver.url("/s3cret")
    );
    let place = Place::new(&ON_SQLITE.replace("type = \"terminal\"\n", &publisher));
    assert_eq!(run(&place, &["migrate"], &secret).code, 0);
    let said = run(&place, &["doctor"], &secret);
    assert_eq!(said.code, 0, "{}", said.data);
    let plain = said.data.contains("requests are not encrypted: default");
    assert!(plain && !said.data.contains("signatures"), "{}", said.data);
    assert_eq!(receiver.requests(), 0, "the doctor sends nothing");
    let url = format!("publisher.endpoints.billing.url={}", away.url("/s3cret"));
    finds(&place, &["--set", &url], &secret, "endpoint: billing", "check the host and port");
    // What is refused by the settings is refused before anything connects.
    let private = "publisher.endpoints.billing.url=http://169.254.169.254/s3cret";
    let said = run(&place, &["doctor", "--set", private], &secret);
    assert!(said.code == 2 && said.rest.contains("169.254.169.254 is not a public one"), "{}", said.rest);

    // The relay signs what it delivers.
    assert_eq!(run(&place, &["enqueue", "order.paid", "17"], &secret).code, 0);
    assert_eq!(run(&place, &["relay", "--until-empty"], &secret).code, 0);
    let deliveries = receiver.deliveries();
    assert_eq!(deliveries.len(), 1);
    assert!(&*deliveries[0].body == b"17" && deliveries[0].is_signed_by(secret[0].1), "{deliveries:?}");
}
