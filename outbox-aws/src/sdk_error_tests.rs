use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::error::ErrorMetadata;

use super::*;

type Sdk = SdkError<ErrorMetadata, HttpResponse>;

fn response(status: u16) -> HttpResponse {
    HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::empty())
}

fn refusal(status: u16, code: &str) -> Sdk {
    let error = ErrorMetadata::builder().code(code).message("token=s3cret").build();
    SdkError::service_error(error, response(status))
}

fn io(kind: io::ErrorKind) -> Sdk {
    SdkError::dispatch_failure(ConnectorError::io(io::Error::from(kind).into()))
}

fn credentials() -> Sdk {
    let error = CredentialsError::provider_error("the file holds s3cret");
    SdkError::dispatch_failure(ConnectorError::other(error.into(), None))
}

#[test]
fn the_table() {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, UnexpectedEof};
    use outbox_core::ErrorKind as Kind;

    use Scope::{Endpoint, Message};
    use Verdict::{Permanent, Retry, Unknown};

    let timeout = || Sdk::timeout_error("5 s");
    let connect_timeout = || Sdk::dispatch_failure(ConnectorError::timeout("3 s".into()));
    let (unsent, sent) = (Transmission::new, Transmission::begun);
    #[rustfmt::skip]
    let table = [
        (Sdk::construction_failure("no region"), unsent(), Kind::Config, Retry, Endpoint),

        (credentials(), unsent(), Kind::Permission, Retry, Endpoint),
        (timeout(), unsent(), Kind::Unavailable, Retry, Endpoint),
        (connect_timeout(), unsent(), Kind::Unavailable, Retry, Endpoint),
        (io(ConnectionReset), unsent(), Kind::Unavailable, Retry, Endpoint),

        (io(ConnectionRefused), sent(), Kind::Unavailable, Retry, Endpoint),
        (io(ConnectionReset), sent(), Kind::Interrupted, Unknown, Endpoint),
        (io(UnexpectedEof), sent(), Kind::Interrupted, Unknown, Endpoint),
        (credentials(), sent(), Kind::Interrupted, Unknown, Endpoint),
        (timeout(), sent(), Kind::Timeout, Unknown, Endpoint),
        (connect_timeout(), sent(), Kind::Timeout, Unknown, Endpoint),
        (Sdk::response_error("no JSON", response(200)), sent(), Kind::Interrupted, Unknown, Endpoint),
        (Sdk::response_error("no JSON", response(503)), sent(), Kind::Interrupted, Unknown, Endpoint),

        (refusal(400, "ThrottlingException"), sent(), Kind::Throttled, Retry, Endpoint),
        (refusal(403, "RequestThrottled"), sent(), Kind::Throttled, Retry, Endpoint),
        (refusal(400, "ProvisionedThroughputExceededException"), sent(), Kind::Throttled, Retry, Endpoint),
        (refusal(429, "SomethingNew"), sent(), Kind::Throttled, Retry, Endpoint),
        (refusal(400, "KmsThrottled"), sent(), Kind::Throttled, Retry, Endpoint),
        (refusal(403, "SignatureDoesNotMatch"), sent(), Kind::Permission, Retry, Endpoint),
        (refusal(400, "UnrecognizedClientException"), sent(), Kind::Permission, Retry, Endpoint),
        (refusal(400, "ExpiredTokenException"), sent(), Kind::Permission, Retry, Endpoint),
        (refusal(400, "KmsDisabled"), sent(), Kind::Permission, Retry, Endpoint),
        (refusal(500, "InternalFailure"), sent(), Kind::Unavailable, Unknown, Endpoint),
        (refusal(400, "RequestTimeout"), sent(), Kind::Unavailable, Unknown, Endpoint),
        (refusal(502, ""), sent(), Kind::Unavailable, Unknown, Endpoint),
        (refusal(503, "ServiceUnavailable"), sent(), Kind::Unavailable, Retry, Endpoint),
        (refusal(503, ""), sent(), Kind::Unavailable, Retry, Endpoint),
        (refusal(400, "QueueDoesNotExist"), sent(), Kind::NotFound, Retry, Message),
        (refusal(400, "AWS.SimpleQueueService.NonExistentQueue"), sent(), Kind::NotFound, Retry, Message),
        (refusal(400, "ResourceNotFoundException"), sent(), Kind::NotFound, Retry, Message),
        (refusal(400, "InvalidParameterValue"), sent(), Kind::Malformed, Permanent, Message),
        (refusal(400, "ValidationException"), sent(), Kind::Malformed, Permanent, Message),
        (refusal(400, "AWS.SimpleQueueService.BatchRequestTooLong"), sent(), Kind::TooLarge, Permanent, Message),
        (refusal(413, ""), sent(), Kind::TooLarge, Permanent, Message),
        (refusal(400, "SomethingNew"), sent(), Kind::Rejected, Retry, Message),
    ];
    for (error, transmission, kind, verdict, scope) in table {
        let judged = sdk_error(&error, &transmission);
        assert_eq!((judged.kind(), judged.verdict(), judged.scope()), (kind, verdict, scope), "{error:?}");
    }
    let denied = sdk_error(&refusal(403, "AccessDenied"), &sent());
    assert_eq!((denied.kind(), denied.scope()), (Kind::Permission, Endpoint));
}

#[test]
fn nothing_of_the_credentials_is_told() {
    for error in [credentials(), refusal(403, "SignatureDoesNotMatch"), refusal(403, "InvalidClientTokenId")]
    {
        for transmission in [Transmission::new(), Transmission::begun()] {
            let judged = sdk_error(&error, &transmission);
            let told = format!("{judged:?} {}", judged.report());
            assert!(!told.contains("s3cret"), "{told}");
        }
    }
}

#[test]
fn the_service_s_own_words_are_told_and_not_at_any_length() {
    let error = ErrorMetadata::builder().code("SomethingNew").message("é".repeat(10_000)).build();
    let report = sdk_error(&Sdk::service_error(error, response(400)), &Transmission::begun()).report();
    assert!(report.contains("SomethingNew") && report.contains("éé…"), "{report}");
    assert!(report.chars().count() < 700, "{report}");
}

#[test]
fn what_the_network_said_is_told_once() {
    let inner = io::Error::other(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens"));
    let error = Sdk::dispatch_failure(ConnectorError::io(inner.into()));
    let judged = sdk_error(&error, &Transmission::begun());
    assert_eq!(judged.kind(), ErrorKind::Unavailable, "found below other errors");
    assert_eq!(judged.report().matches("nobody listens").count(), 1, "{}", judged.report());
}

#[test]
fn the_service_s_wish_to_wait_is_passed_on() {
    for (header, value, expected) in [
        ("x-amz-retry-after", "1500", Some(Duration::from_millis(1500))),
        ("retry-after", "2", Some(Duration::from_secs(2))),
        ("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT", None),
    ] {
        let mut raw = response(429);
        raw.headers_mut().insert(header, value);
        let error = Sdk::service_error(ErrorMetadata::builder().code("SlowDown").build(), raw);
        assert_eq!(sdk_error(&error, &Transmission::begun()).retry_after(), expected);
    }
}
