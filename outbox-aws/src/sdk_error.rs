//! What a failed call means.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use outbox_core::{Error, ErrorKind, Scope, Verdict};

use crate::meaning::Meaning;
use crate::transmission::Transmission;

/// No service says more than this in one error; a proxy in between may.
const MAX_TEXT: usize = 500;

/// The one place where the SDK's errors about a whole call are judged.
///
/// | what happened | kind | verdict | scope |
/// | --- | --- | --- | --- |
/// | the request could not be built | `Config` | retry | endpoint |
/// | credentials could not be loaded | `Permission` | retry | endpoint |
/// | anything else before the request began to leave, or no connection (refused, DNS, TLS, time over) | `Unavailable` | retry | endpoint |
/// | the time was over afterwards | `Timeout` | unknown | endpoint |
/// | the connection ended afterwards, or the answer could not be read | `Interrupted` | unknown | endpoint |
/// | the service asks for fewer requests | `Throttled` | retry | endpoint |
/// | the service refuses the credentials, or the action | `Permission` | retry | endpoint |
/// | the service is not available (503) | `Unavailable` | retry | endpoint |
/// | the service failed (other 5xx) | `Unavailable` | unknown | endpoint |
/// | the destination does not exist | `NotFound` | retry | message |
/// | the service does not take such a request | `Malformed` or `TooLarge` | permanent | message |
/// | the service refused it for a reason we do not know | `Rejected` | retry | message |
///
/// What concerns a message may concern one of several in the request only; it is for the caller to find out which.
///
/// The text holds the service's code, its own words and the id of the request, but nothing of the credentials: of
/// errors that may quote them, only what kind they are.
pub fn sdk_error<E>(error: &SdkError<E, HttpResponse>, transmission: &Transmission) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ConstructionFailure(_) => Error::config(
            "the request could not be built; look at the settings of the client, such as its region",
        )
        // Whatever it was, the messages are not to blame.
        .with_verdict(Verdict::Retry)
        .with("reason", chain_text(error)),
        SdkError::ServiceError(refusal) => answered(refusal.err(), refusal.raw()),
        SdkError::ResponseError(_) => {
            Error::new(ErrorKind::Interrupted, "the answer of the service could not be read")
                .with("reason", chain_text(error))
        }
        _ => not_answered(error, transmission),
    }
}

fn not_answered<E>(error: &SdkError<E, HttpResponse>, transmission: &Transmission) -> Error
where
    E: StdError + 'static,
{
    if !transmission.has_begun()
        && let Some(credentials) = chain(error).find_map(<dyn StdError>::downcast_ref::<CredentialsError>)
    {
        return Error::new(ErrorKind::Permission, "nothing was sent: there are no credentials")
            .with("reason", credentials);
    }
    let reason = chain_text(error);
    let timed_out = match error {
        SdkError::TimeoutError(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_timeout(),
        _ => false,
    };
    let judged = if !transmission.has_begun() {
        Error::new(
            ErrorKind::Unavailable,
            "nothing was sent: the request could not be prepared (credentials, region, endpoint)",
        )
    } else if chain(error).any(is_no_connection) {
        Error::new(ErrorKind::Unavailable, "the service cannot be reached")
    } else if timed_out {
        Error::new(ErrorKind::Timeout, "the service did not answer in time")
    } else {
        Error::new(ErrorKind::Interrupted, "the connection ended before the service answered")
    };
    judged.with("reason", reason)
}

/// Whether the answer to a harmless request, such as one for a list, shows that the service knows us. That we may not ask for it is
/// an answer, too, and one that is given to good credentials only.
///
/// # Errors
/// What [`sdk_error`] makes of any other one.
pub fn knows_us<T, E>(
    answer: Result<T, SdkError<E, HttpResponse>>,
    transmission: &Transmission,
) -> Result<(), Error>
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.code().and_then(Meaning::of_code) == Some(Meaning::Denied) => Ok(()),
        Err(error) => Err(sdk_error(&error, transmission)),
    }
}

fn answered(error: &impl ProvideErrorMetadata, response: &HttpResponse) -> Error {
    let code = error.code().unwrap_or_default();
    let status = response.status().as_u16();
    let meaning = Meaning::of_code(code).or_else(|| Meaning::of_status(status));
    let mut judged = match meaning {
        Some(meaning) => meaning.error(),
        None => Error::new(ErrorKind::Rejected, "the service refused the request"),
    };
    judged = judged.with("status", status);
    if !code.is_empty() {
        judged = judged.with("code", short(code));
    }
    // Of a wrong signature the service quotes what should have been signed, a session's token with it.
    if meaning != Some(Meaning::Credentials)
        && let Some(text) = error.message()
    {
        judged = judged.with("said", short(text));
    }
    let headers = response.headers();
    if let Some(id) = headers.get("x-amzn-requestid").or_else(|| headers.get("x-amz-request-id")) {
        judged = judged.with("request_id", short(id));
    }
    match retry_after(response) {
        Some(after) if judged.scope() == Scope::Endpoint => judged.with_retry_after(after),
        _ => judged,
    }
}

/// When the service wants to see us again: `x-amz-retry-after` in milliseconds, or the standard header in seconds.
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let number = |name| response.headers().get(name).and_then(|value| value.trim().parse().ok());
    number("x-amz-retry-after").map(Duration::from_millis).or(number("retry-after").map(Duration::from_secs))
}

/// Whether an error says that no connection was made: then nothing of the request can have arrived.
fn is_no_connection(error: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        return error.is_connect();
    }
    // For HTTP clients of other makes. A connection that was made cannot be refused any more.
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// An error and those below it. The source of an [`io::Error`] is not the error it was made of, but that one's source.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as _),
        None => error.source(),
    })
}

fn chain_text(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for error in chain(error) {
        let part = error.to_string();
        if text.contains(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
        if error.is::<CredentialsError>() {
            // Its sources are the provider's own, and may quote what they read.
            break;
        }
    }
    short(&text)
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "sdk_error_tests.rs"]
mod tests;
