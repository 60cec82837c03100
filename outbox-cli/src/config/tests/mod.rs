mod certificates;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NAME: &str = DEFAULT_FILE;

fn load(text: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Config, Vec<String>> {
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let sources = Sources { file: None, environment: &environment, flags: &flags };
    Config::of_text(text, &sources).map_err(|faults| faults.iter().map(Fault::to_string).collect())
}

fn faults(text: &str) -> Vec<String> {
    load(text, &[], &[]).err().unwrap_or_default()
}

const STORE: &str = "[route.store]\ntype = \"sqlite\"\npath = \"a.db\"\n";
const PUBLISHER: &str = "[route.publisher]\ntype = \"terminal\"\n";

fn store(kind: &str) -> &'static str {
    match kind {
        "postgres" => "[route.store]\ntype = \"postgres\"\nurl = \"postgres://me@db/shop\"\n",
        "mysql" => "[route.store]\ntype = \"mysql\"\nurl = \"mysql://me@db/shop\"\n",
        "mssql" => "[route.store]\ntype = \"mssql\"\nurl = \"mssql://me:pw@db/shop\"\n",
        _ => STORE,
    }
}

fn publisher(kind: &str) -> &'static str {
    match kind {
        "amqp" => "[route.publisher]\ntype = \"amqp\"\nurl = \"amqp://me@broker/orders\"\n",
        "sqs" => "[route.publisher]\ntype = \"sqs\"\n",
        "nats" => "[route.publisher]\ntype = \"nats\"\nurl = \"nats://me@broker\"\n",
        "pubsub" => "[route.publisher]\ntype = \"pubsub\"\n",
        "kinesis" => "[route.publisher]\ntype = \"kinesis\"\n",
        "webhook" => "[route.publisher]\ntype = \"webhook\"\nurl = \"http://receiver.example/hooks\"\n",
        _ => PUBLISHER,
    }
}

/// Settings with some lines at the end of one section, and the number of the first of these lines.
fn settings_with(section: &str, lines: &str) -> (String, usize) {
    let (part, kind) = section.split_once('/').unwrap_or((section, ""));
    let mut text = "[[route]]\n".to_owned();
    let parts = match part {
        "route" => [String::new(), STORE.to_owned(), PUBLISHER.to_owned()],
        "publisher" => [STORE.to_owned(), publisher(kind).to_owned(), String::new()],
        "store" => [PUBLISHER.to_owned(), store(kind).to_owned(), String::new()],
        section => {
            let head = match section {
                "log" => "[log]\n".to_owned(),
                "http" => "[http]\nlisten = \"127.0.0.1:1\"\n".to_owned(),
                "telemetry" => "[telemetry]\nendpoint = \"http://localhost:1\"\n".to_owned(),
                section => format!("[route.{section}]\n"),
            };
            [format!("{STORE}{PUBLISHER}"), head, String::new()]
        }
    };
    if part == "route" {
        let line = 2;
        return (format!("{text}{lines}\n{}{}", parts[1], parts[2]), line);
    }
    text.push_str(&parts[0]);
    text.push_str(&parts[1]);
    let line = text.lines().count() + 1;
    (format!("{text}{lines}\n{}", parts[2]), line)
}

const TIME: &str = "a time such as \"500ms\"";
const COUNT: &str = "a whole number of at least 1";
const BYTES: &str = "a number of bytes";

/// Every field there is: its section, itself, something wrong, and what is said to be allowed.
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("log", "format", "\"xml\"", "\"text\" or \"json\""),
    ("log", "filter", "\"a=b=c\"", "a level (error, warn, info, debug, trace)"),
    ("http", "listen", "\"localhost\"", "an address and a port"),
    ("http", "payloads", "1", "true or false"),
    ("http", "token", "\"short\"", "at least 16 characters"),
    ("http", "token_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("http", "token_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("telemetry", "endpoint", "\"localhost:4317\"", "a URL such as"),
    ("telemetry", "protocol", "\"http/protobuf\"", "\"grpc\""),
    ("telemetry", "headers", "\"s3cret\"", "must be name=value"),
    ("telemetry", "headers_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("telemetry", "headers_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("telemetry", "traces", "1", "true or false"),
    ("telemetry", "metrics", "\"no\"", "true or false"),
    ("telemetry", "sampling_ratio", "1.5", "a number from 0 to 1"),
    ("telemetry", "service_name", "\"\"", "a string that is not empty"),
    ("telemetry", "interval", "\"1ms\"", TIME),
    ("telemetry", "timeout", "5", TIME),
    ("telemetry", "resource", "\"a=b\"", "must be a table"),
    ("route", "name", "\"a b\"", "1 to 40 letters, digits, hyphens and underscores"),
    ("route", "store", "1", "must be a table"),
    ("route", "publisher", "\"amqp\"", "must be a table"),
    ("route", "relay", "true", "must be a table"),
    ("relay", "max_in_flight", "0", COUNT),
    ("relay", "max_bytes_in_flight", "\"many\"", BYTES),
    ("relay", "fetch_batch", "-1", COUNT),
    ("relay", "publish_batch", "\"1\"", COUNT),
    ("relay", "publish_concurrency", "1.5", COUNT),
    ("relay", "publish_timeout", "10", TIME),
    ("relay", "publish_timeout", "\"19s\"", "lease_ttl is too short"),
    ("relay", "store_timeout", "\"0s\"", TIME),
    ("relay", "lease_ttl", "\"1s\"", "lease_ttl is too short"),
    ("relay", "heartbeat_interval", "\"0s\"", TIME),
    ("relay", "poll_interval", "\"2 days\"", "to \"1day\""),
    ("relay", "min_poll_interval", "\"5s\"", "longer than poll_interval"),
    ("relay", "circuit_pause", "\"11s\"", "shorter than circuit_pause"),
    ("relay", "circuit_max_pause", "\"x\"", TIME),
    ("relay", "retention", "\"0s\"", "or \"never\""),
    ("relay", "purge_interval", "false", TIME),
    ("relay", "purge_batch", "0", COUNT),
    ("relay", "stats_interval", "\"ever\"", "or \"never\""),
    ("relay", "stats_limit", "0", COUNT),
    ("relay", "shutdown_timeout", "\"\"", TIME),
    ("relay", "key_order", "\"none\"", "\"strict\" or \"skip_dead\" or \"progress\""),
    ("relay", "retry", "3", "must be a table"),
    ("relay.retry", "max_attempts", "0", "a whole number from 1 to 4294967295"),
    ("relay.retry", "initial", "2", TIME),
    ("relay.retry", "max", "\"1ms\"", "shorter than retry.initial"),
    ("relay.retry", "factor", "0.5", "a number of at least 1"),
    ("relay.retry", "jitter", "\"yes\"", "true or false"),
    ("store/sqlite", "type", "\"oracle\"", "\"sqlite\""),
    ("store/sqlite", "path", "\":memory:\"", "the path of a file"),
    ("store/sqlite", "prefix", "\"1st\"", "the table prefix must be"),
    ("store/sqlite", "partitions", "0", "from 1 to 1024"),
    ("store/sqlite", "wakeup_interval", "\"2m\"", "to \"1m\""),
    ("store/sqlite", "durability", "\"some\"", "\"full\" or \"normal\""),
    ("store/sqlite", "max_connections", "0", "from 1 to 1000"),
    ("store/sqlite", "busy_timeout", "\"1ms\"", "from \"100ms\""),
    ("store/postgres", "type", "1", "\"postgres\""),
    ("store/postgres", "url", "\"mysql://me@db/shop\"", "expected postgres://"),
    ("store/postgres", "url_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("store/postgres", "url_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("store/postgres", "password", "1", "must be a string"),
    ("store/postgres", "password_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("store/postgres", "password_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("store/postgres", "schema", "\"\"", "a string that is not empty"),
    (
        "store/postgres",
        "prefix",
        "\"0123456789012345678901234567890123456789012345678901234567\"",
        "63 bytes",
    ),
    ("store/postgres", "partitions", "1025", "from 1 to 1024"),
    ("store/postgres", "wakeups", "1", "true or false"),
    ("store/postgres", "max_connections", "1001", "from 1 to 1000"),
    ("store/postgres", "acquire_timeout", "\"1h\"", "to \"10m\""),
    ("store/mysql", "type", "1", "\"mysql\""),
    ("store/mysql", "url", "\"postgres://me@db/shop\"", "expected mysql://"),
    ("store/mysql", "url_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("store/mysql", "url_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("store/mysql", "password", "1", "must be a string"),
    ("store/mysql", "password_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("store/mysql", "password_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("store/mysql", "database", "\"a \"", "ends with a space"),
    ("store/mysql", "prefix", "1", "a string that is not empty"),
    ("store/mysql", "partitions", "0", "from 1 to 1024"),
    ("store/mysql", "max_connections", "0", "from 1 to 1000"),
    ("store/mysql", "acquire_timeout", "1", TIME),
    ("store/mssql", "type", "1", "\"mssql\""),
    ("store/mssql", "url", "\"mssql://me@db\"", "expected mssql://"),
    ("store/mssql", "url_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("store/mssql", "url_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("store/mssql", "password", "1", "must be a string"),
    ("store/mssql", "password_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("store/mssql", "password_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("store/mssql", "schema", "\"\"", "a string that is not empty"),
    ("store/mssql", "prefix", "\"\"", "a string that is not empty"),
    ("store/mssql", "partitions", "0", "from 1 to 1024"),
    ("store/mssql", "max_connections", "0", "from 1 to 1000"),
    ("store/mssql", "encryption", "\"maybe\"", "\"required\" or \"strict\" or \"login\" or \"none\""),
    ("store/mssql", "trust_server_certificate", "1", "true or false"),
    ("store/mssql", "ca_file", "\"\"", "a string that is not empty"),
    ("publisher/terminal", "type", "\"printer\"", "\"terminal\""),
    ("publisher/terminal", "payloads", "\"no\"", "true or false"),
    ("publisher/terminal", "refuse", "\"a\"", "a list of strings"),
    ("publisher/amqp", "type", "\"kafka\"", "\"amqp\""),
    ("publisher/amqp", "url", "\"http://broker\"", "expected amqp://"),
    ("publisher/amqp", "url_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/amqp", "url_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/amqp", "password", "1", "must be a string"),
    ("publisher/amqp", "password_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/amqp", "password_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/amqp", "ca_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/amqp", "urls", "[\"amqp://b\"]", "is given beside url"),
    ("publisher/amqp", "urls_env", "\"URLS\"", "is given beside url"),
    ("publisher/amqp", "urls_file", "\"/not/there\"", "is given beside url"),
    ("publisher/amqp", "client_certificate_file", "\"a.pem\"", "has no effect without client_key_file"),
    ("publisher/amqp", "client_key_file", "\"a.key\"", "has no effect without client_certificate_file"),
    ("publisher/amqp", "not_mandatory", "[1]", "a list of strings"),
    ("publisher/amqp", "connection_name", "\"\"", "a string that is not empty"),
    ("publisher/amqp", "exchange", "1", "a string of at most 255 bytes"),
    ("publisher/amqp", "channels", "257", "from 1 to 256"),
    ("publisher/amqp", "heartbeat", "\"1500ms\"", "a whole number of seconds"),
    ("publisher/amqp", "connect_timeout", "1", TIME),
    ("publisher/amqp", "confirm_timeout", "\"0s\"", TIME),
    ("publisher/amqp", "max_message_bytes", "0", BYTES),
    ("publisher/amqp", "max_batch_messages", "0", COUNT),
    ("publisher/amqp", "max_batch_bytes", "\"1 MoB\"", BYTES),
    ("publisher/amqp", "topics", "\"a\"", "must be a table"),
    ("publisher/amqp", "exchanges", "\"a\"", "must be a list of tables"),
    ("publisher/amqp", "queues", "1", "must be a list of tables"),
    ("publisher/amqp", "bindings", "{}", "must be a list of tables"),
    ("publisher/sqs", "type", "\"kafka\"", "\"sqs\""),
    ("publisher/sqs", "region", "1", "a string that is not empty"),
    ("publisher/sqs", "profile", "\"\"", "a string that is not empty"),
    ("publisher/sqs", "endpoint", "\"localhost:4566\"", "a URL"),
    ("publisher/sqs", "queue", "\"order.placed\"", "a queue is named by"),
    ("publisher/sqs", "queue_owner", "\"me\"", "12 digits"),
    ("publisher/sqs", "topics", "\"a\"", "must be a table"),
    ("publisher/sqs", "requests_in_flight", "0", "from 1 to 256"),
    ("publisher/sqs", "call_timeout", "8", TIME),
    ("publisher/sqs", "max_message_bytes", "\"2MiB\"", "max_message_bytes"),
    ("publisher/sqs", "max_request_bytes", "\"2MiB\"", "max_request_bytes"),
    ("publisher/sqs", "max_batch_messages", "0", COUNT),
    ("publisher/sqs", "max_batch_bytes", "0", BYTES),
    ("publisher/kinesis", "type", "\"kafka\"", "\"kinesis\""),
    ("publisher/kinesis", "region", "1", "a string that is not empty"),
    ("publisher/kinesis", "profile", "\"\"", "a string that is not empty"),
    ("publisher/kinesis", "endpoint", "\"localhost:4566\"", "a URL"),
    ("publisher/kinesis", "stream", "\"a stream\"", "stream"),
    ("publisher/kinesis", "topics", "\"a\"", "must be a table"),
    ("publisher/kinesis", "format", "\"json\"", "\"envelope\" or \"raw\""),
    ("publisher/kinesis", "requests_in_flight", "0", "from 1 to 256"),
    ("publisher/kinesis", "call_timeout", "8", TIME),
    ("publisher/kinesis", "throttle_patience", "8", TIME),
    ("publisher/kinesis", "max_record_bytes", "\"11MiB\"", "max_record_bytes"),
    ("publisher/kinesis", "max_request_bytes", "\"11MiB\"", "max_request_bytes"),
    ("publisher/kinesis", "max_batch_messages", "0", COUNT),
    ("publisher/kinesis", "max_batch_bytes", "0", BYTES),
    ("publisher/nats", "type", "\"kafka\"", "\"nats\""),
    ("publisher/nats", "url", "\"http://broker\"", "expected nats://"),
    ("publisher/nats", "url_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/nats", "url_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/nats", "urls", "[\"nats://b\"]", "is given beside url"),
    ("publisher/nats", "urls_env", "\"URLS\"", "is given beside url"),
    ("publisher/nats", "urls_file", "\"/not/there\"", "is given beside url"),
    ("publisher/nats", "password", "1", "must be a string"),
    ("publisher/nats", "password_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/nats", "password_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/nats", "token", "1", "must be a string"),
    ("publisher/nats", "token_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/nats", "token_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/nats", "nkey", "1", "must be a string"),
    ("publisher/nats", "nkey_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/nats", "nkey_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/nats", "credentials", "\"nonsense\"", "expected the contents of a .creds file"),
    ("publisher/nats", "credentials_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/nats", "credentials_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/nats", "ca_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/nats", "client_certificate_file", "\"a.pem\"", "has no effect without client_key_file"),
    ("publisher/nats", "client_key_file", "\"a.key\"", "has no effect without client_certificate_file"),
    ("publisher/nats", "connection_name", "\"\"", "a string that is not empty"),
    ("publisher/nats", "inbox_prefix", "\"_INBOX.>\"", "without wildcards"),
    ("publisher/nats", "subject", "\"shop.>\"", "without the wildcards"),
    ("publisher/nats", "topics", "\"a\"", "must be a table"),
    ("publisher/nats", "expect_stream", "\"a.b\"", "no stream can have this name"),
    ("publisher/nats", "connections", "65", "from 1 to 64"),
    ("publisher/nats", "connect_timeout", "1", TIME),
    ("publisher/nats", "ack_timeout", "\"0s\"", TIME),
    ("publisher/nats", "max_message_bytes", "\"65MiB\"", "max_message_bytes"),
    ("publisher/nats", "max_batch_messages", "0", COUNT),
    ("publisher/nats", "max_batch_bytes", "\"1 MoB\"", BYTES),
    ("publisher/pubsub", "type", "\"kafka\"", "\"pubsub\""),
    ("publisher/pubsub", "project", "\"\"", "a string that is not empty"),
    ("publisher/pubsub", "endpoint", "\"http://localhost\"", "must be https"),
    ("publisher/pubsub", "emulator", "\"a host\"", "a host and a port"),
    ("publisher/pubsub", "topics", "\"a\"", "must be a table"),
    ("publisher/pubsub", "ordering_keys", "1", "true or false"),
    ("publisher/pubsub", "requests_in_flight", "0", "from 1 to 1000"),
    ("publisher/pubsub", "connect_timeout", "1", TIME),
    ("publisher/pubsub", "call_timeout", "1", TIME),
    ("publisher/pubsub", "max_request_messages", "1001", "from 1 to 1000"),
    ("publisher/pubsub", "max_request_bytes", "\"11MB\"", "max_request_bytes"),
    ("publisher/pubsub", "max_batch_messages", "0", COUNT),
    ("publisher/pubsub", "max_batch_bytes", "0", BYTES),
    ("publisher/webhook", "type", "\"kafka\"", "\"webhook\""),
    ("publisher/webhook", "url", "\"ftp://receiver.example\"", "unknown scheme"),
    ("publisher/webhook", "url_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/webhook", "url_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/webhook", "secret", "\"s3cret\"", "whsec_"),
    ("publisher/webhook", "secret_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/webhook", "secret_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/webhook", "old_secret", "1", "must be a string"),
    ("publisher/webhook", "old_secret_env", "\"NOT_THERE\"", "the variable NOT_THERE is not set"),
    ("publisher/webhook", "old_secret_file", "\"/not/there\"", "the file /not/there cannot be read"),
    ("publisher/webhook", "headers", "\"a\"", "must be a table"),
    ("publisher/webhook", "endpoints", "\"a\"", "must be a table"),
    ("publisher/webhook", "message_urls", "true", "must be a table"),
    ("publisher/webhook", "topics", "\"a\"", "must be a table"),
    ("publisher/webhook", "allowed_networks", "[\"10.0.0.0/33\"]", "a network is invalid"),
    ("publisher/webhook", "ca_file", "\"/not/there\"", "the file /not/there cannot be read"),
    (
        "publisher/webhook",
        "client_certificate_file",
        "\"/not/there\"",
        "has no effect without client_key_file",
    ),
    (
        "publisher/webhook",
        "client_key_file",
        "\"/not/there\"",
        "has no effect without client_certificate_file",
    ),
    ("publisher/webhook", "requests_in_flight", "0", "from 1 to 256"),
    ("publisher/webhook", "connect_timeout", "1", TIME),
    ("publisher/webhook", "call_timeout", "1", TIME),
    ("publisher/webhook", "idle_timeout", "1", TIME),
    ("publisher/webhook", "max_message_bytes", "0", BYTES),
    ("publisher/webhook", "max_batch_messages", "0", COUNT),
    ("publisher/webhook", "max_batch_bytes", "0", BYTES),
];

/// The path of a section in messages.
fn path(section: &str) -> String {
    match section.split_once('/').map_or(section, |(part, _)| part) {
        part @ ("log" | "http" | "telemetry") => part.to_owned(),
        "route" => "route.default".to_owned(),
        part => format!("route.default.{part}"),
    }
}

/// A field replaces the valid one that the settings of the tests have.
fn replaced(text: &str, line: usize, field: &str) -> (String, usize) {
    let mut kept = Vec::new();
    let mut removed = 0;
    let family = field.strip_suffix("_env").or(field.strip_suffix("_file")).unwrap_or(field);
    for (number, content) in text.lines().enumerate() {
        let mine = content.split(" = ").next() == Some(family);
        // Only within the section, which ends where the line is.
        let section = text.lines().take(line - 1).collect::<Vec<_>>();
        let start = section.iter().rposition(|line| line.starts_with('[')).unwrap_or(0);
        if mine && number > start && number < line - 1 {
            removed += 1;
        } else {
            kept.push(content);
        }
    }
    (kept.join("\n"), line - removed)
}

#[test]
fn every_field_that_is_wrong_is_named_with_its_line_and_what_is_allowed() {
    for (section, field, wrong, allowed) in WRONG {
        let (text, line) = settings_with(section, &format!("{field} = {wrong}"));
        let (mut text, line) = replaced(&text, line, field);
        if *section == "route" && *field != "name" {
            // A section is either a table of its own, or this.
            text = text.replace(&format!("[route.{field}]\n"), "[route.other]\n");
        }
        let found = faults(&text);
        let at = if *field == "name" { "route[1]".to_owned() } else { path(section) };
        let expected = format!("{NAME}:{line}: {at}.{field}: ");
        assert!(
            found.iter().any(|fault| fault.starts_with(&expected) && fault.contains(allowed)),
            "expected {expected}…{allowed}, got {found:#?} for\n{text}"
        );
        if *section != "route" {
            assert_eq!(found.len(), 1, "{found:#?} for\n{text}");
        }
    }
}

#[test]
fn there_is_no_field_that_is_not_tried() {
    let tried: BTreeSet<(&str, &str)> = WRONG.iter().map(|(section, field, ..)| (*section, *field)).collect();
    let sections: BTreeSet<&str> = WRONG.iter().map(|(section, ..)| *section).collect();
    for section in sections {
        let (text, _) = settings_with(section, "nonsense = 1");
        let found = faults(&text);
        let told = found.iter().find(|fault| fault.contains("unknown setting")).unwrap();
        assert!(told.contains(&format!("{}.nonsense", path(section))), "{told}");
        let fields = told.split_once("expected one of ").unwrap().1.split(", ");
        for field in fields {
            assert!(tried.contains(&(section, field)), "{section} {field} is not in the table of this test");
        }
    }
}

#[test]
fn what_is_missing_is_named_with_its_section() {
    let cases = [
        (
            "[[route]]\n[route.store]\n[route.publisher]\ntype = \"terminal\"\n",
            "route.default.store: type is missing",
        ),
        (
            "[[route]]\n[route.store]\ntype = \"postgres\"\n",
            "route.default.store: url is missing; write url, url_env",
        ),
        ("[[route]]\n[route.store]\ntype = \"sqlite\"\n", "route.default.store: path is missing"),
        ("", "no route is configured; write [[route]]"),
        ("route = 1", "route: must be a list of tables"),
        ("route = [1]", "route[1]: must be a table"),
    ];
    for (text, expected) in cases {
        let found = faults(text);
        assert!(found.iter().any(|fault| fault.contains(expected)), "{expected} is not in {found:#?}");
    }
    let found = faults(&format!("[[route]]\n{STORE}[route.publisher]\ntype = \"amqp\"\n"));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("outbox.toml:5: route.default.publisher: url is missing"), "{found:?}");
}

#[test]
fn lists_and_topics_of_a_publisher_are_read_and_refused_field_by_field() {
    let text = r##"
        topics = { "order.placed" = { exchange = "orders", routing_key = "placed" } }
        exchanges = [{ name = "orders", type = "topic" }]
        queues = [{ name = "q", type = "quorum" }]
        bindings = [{ exchange = "orders", queue = "q", routing_key = "#" }]"##;
    let (right, _) = settings_with("publisher/amqp", text);
    assert_eq!(faults(&right), [""; 0]);
    for (lines, expected) in [
        ("topics = { t = { exchange = 1 } }", "publisher.topics.t.exchange: must be a string"),
        ("topics = { t = { mandatory = \"no\" } }", "publisher.topics.t.mandatory: must be true or false"),
        ("topics = { t = { key = \"k\" } }", "publisher.topics.t.key: unknown setting"),
        ("exchanges = [{ name = \"x\" }]", "publisher.exchanges[1]: type is missing"),
        (
            "exchanges = [{ name = \"x\", type = \"topic\", durable = 1 }]",
            "exchanges[1].durable: must be true",
        ),
        ("queues = [{ name = \"q\" }]", "publisher.queues[1]: type is missing; \"quorum\" is"),
        ("queues = [{ name = \"q\", type = \"lazy\" }]", "queues[1].type: must be \"quorum\" or \"classic\""),
        ("bindings = [{ queue = \"q\" }]", "publisher.bindings[1]: exchange is missing"),
    ] {
        let (text, line) = settings_with("publisher/amqp", lines);
        let found = faults(&text);
        assert!(
            found.len() == 1
                && found[0].starts_with(&format!("{NAME}:{line}: "))
                && found[0].contains(expected),
            "{expected} is not in {found:?}"
        );
    }
    let (text, line) = settings_with("publisher/sqs", "topics = { t = \"\" }");
    assert_eq!(
        faults(&text),
        [format!(
            "{NAME}:{line}: route.default.publisher.topics.t: must be a string that is not empty, not \"\""
        )]
    );
}

#[test]
fn endpoints_of_webhooks_are_read_and_refused_field_by_field() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let right = format!(
        r#"
        secret = "{secret}"
        old_secret = "{secret}"
        headers = {{ x-api-key = "17", authorization_env = "TOKEN" }}
        endpoints = {{ billing = {{ url = "http://10.1.2.3/hooks", secret_env = "SECRET" }} }}
        topics = {{ "order.paid" = "billing" }}
        allowed_networks = ["10.1.0.0/16"]
        message_urls = {{ plaintext = true, secret = "{secret}" }}"#
    );
    let environment = [("TOKEN", "Bearer s3cret"), ("SECRET", secret)];
    let (text, _) = settings_with("publisher/webhook", &right);
    let config = load(&text, &environment, &[]).unwrap();
    let shown = format!("{config:?} {}", config.explanation);
    assert!(!shown.contains("s3cret") && !shown.contains(secret) && !shown.contains("/hooks"), "{shown}");
    let place = config.routes[0].publisher.place();
    assert_eq!(place, "webhook to 10.1.2.3, receiver.example, URLs of messages");
    for (lines, expected) in [
        ("endpoints = { billing = { } }", "publisher.endpoints.billing: url is missing"),
        (
            "endpoints = { billing = { url = \"http://10.1.2.3/s3cret\" } }",
            "endpoints.billing.url: config: the URL's address",
        ),
        (
            "endpoints = { billing = { url = \"http://b\", secret = \"s3cret\" } }",
            "endpoints.billing.secret: config: a secret",
        ),
        (
            "endpoints = { billing = { url = \"http://b\", key = 1 } }",
            "endpoints.billing.key: unknown setting",
        ),
        ("headers = { host = \"s3cret\" }", "publisher.headers: config: an endpoint cannot set this header"),
        ("old_secret = \"whsec_s3cret\"", "publisher: old_secret has no effect without secret"),
        ("topics = { t = \"nowhere\" }", "publisher.topics: config: a route of topics"),
        ("message_urls = { secret = \"s3cret\" }", "publisher.message_urls.secret: config: a secret"),
        ("message_urls = { plaintext = 1 }", "publisher.message_urls.plaintext: must be true or false"),
        ("message_urls = { url = \"http://b\" }", "publisher.message_urls.url: unknown setting"),
    ] {
        let (text, line) = settings_with("publisher/webhook", lines);
        let found = faults(&text);
        let at = found.len() == 1 && found[0].contains(expected) && !found[0].contains("s3cret");
        assert!(at, "{expected} is not in {found:?} for line {line}");
    }
    let text = format!("[[route]]\n{STORE}[route.publisher]\ntype = \"webhook\"\n");
    let found = faults(&text);
    assert!(found.len() == 1 && found[0].contains("publisher: url is missing"), "{found:?}");
    // What messages name is enough.
    let found = faults(&format!("{text}message_urls = {{ plaintext = true }}\nca_file = \"/not/there\"\n"));
    assert!(found.len() == 1 && found[0].contains("ca_file: the file"), "{found:?}");
}

#[test]
fn a_variable_goes_over_the_file_and_a_flag_over_both() {
    let text = format!(
        "[log]\nformat = \"text\"\n[[route]]\nname = \"a-b\"\n{STORE}{PUBLISHER}[route.relay]\nfetch_batch = 1\n"
    );
    let settings = |environment: &[(&str, &str)], flags: &[&str]| {
        let config = load(&text, environment, flags).unwrap();
        (config.log.format, config.routes[0].settings.fetch_batch)
    };
    assert_eq!(settings(&[], &[]), (Format::Text, 1));
    let environment = [("OUTBOX__LOG__FORMAT", "json"), ("OUTBOX__ROUTE__A_B__RELAY__FETCH_BATCH", "2")];
    assert_eq!(settings(&environment, &[]), (Format::Json, 2));
    assert_eq!(settings(&environment, &["relay.fetch_batch=3", "log.format=text"]), (Format::Text, 3));
    assert_eq!(settings(&[], &["route.a-b.relay.fetch_batch=4", "relay.fetch_batch=5"]), (Format::Text, 5));
}

#[test]
fn without_a_file_the_environment_makes_the_only_route() {
    let environment = [
        ("OUTBOX__STORE__TYPE", "sqlite"),
        ("OUTBOX__STORE__PATH", "a.db"),
        ("OUTBOX__PUBLISHER__TYPE", "terminal"),
        ("OUTBOX__PUBLISHER__PAYLOADS", "false"),
        ("OUTBOX__RELAY__RETRY__FACTOR", "1.5"),
        // What Kubernetes makes of a service called outbox-relay.
        ("OUTBOX_RELAY_PORT", "tcp://10.0.0.1:80"),
    ];
    let config = load("", &environment, &[]).unwrap();
    assert_eq!(config.routes[0].name, "default");
    assert_eq!(config.routes[0].settings.retry.factor, 1.5);
}

#[test]
fn faults_of_variables_and_flags_are_told_as_such() {
    let text = format!("[[route]]\n{STORE}{PUBLISHER}");
    for (environment, flags, expected) in [
        (
            &[("OUTBOX__RELAY__FETCH_BATCH", "0")][..],
            &[][..],
            "variable OUTBOX__RELAY__FETCH_BATCH: route.default.relay.fetch_batch: must be a whole number of at least \
             1, not \"0\"",
        ),
        (
            &[],
            &["relay.lease_ttl=soon"],
            "flag --set relay.lease_ttl: route.default.relay.lease_ttl: must be a time",
        ),
        (&[], &["relay"], "flag --set: must be a field and a value"),
        (&[], &["relay=1"], "flag --set relay: route.default.relay: must be a table"),
        (&[], &["store.path.x=1"], "flag --set store.path.x: store.path.x: names no setting"),
        (&[], &["route.other.relay.fetch_batch=1"], "unknown route; the routes are default"),
        (&[("OUTBOX__NONSENSE", "1")], &[], "variable OUTBOX__NONSENSE: nonsense: unknown setting"),
    ] {
        let found = load(&text, environment, flags).unwrap_err();
        assert!(
            found[0].starts_with(expected) || found[0].ends_with(expected),
            "{expected} is not {found:?}"
        );
    }
}

#[test]
fn several_routes_need_names_and_outboxes_of_their_own() {
    let route = |name: &str, path: &str| {
        format!("[[route]]\n{name}\n[route.store]\ntype = \"sqlite\"\npath = \"{path}\"\n{PUBLISHER}")
    };
    let (first, second) = (route("name = \"a\"", "a.db"), route("name = \"b\"", "b.db"));
    let config =
        load(&format!("{first}{second}"), &[("OUTBOX__ROUTE__B__RELAY__FETCH_BATCH", "7")], &[]).unwrap();
    let batches: Vec<_> = config.routes.iter().map(|route| route.settings.fetch_batch).collect();
    assert_eq!(batches, [1_000, 7]);

    for (second, expected) in [
        (route("", "b.db"), "name is missing; with several routes"),
        (route("name = \"A\"", "b.db"), "is that of route 1 as well"),
        (route("name = \"b\"", "a.db"), "reads the same tables as route a"),
    ] {
        let found = faults(&format!("{first}{second}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{expected} is not in {found:?}");
    }
    let found = load(&format!("{first}{second}"), &[], &["relay.fetch_batch=1"]).unwrap_err();
    assert!(
        found[0].contains("there are several routes (a, b); write route.NAME instead of route"),
        "{found:?}"
    );
}
