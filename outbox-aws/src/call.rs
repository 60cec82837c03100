//! One publish call: its requests, until something says that further ones are of no use.

use std::error::Error as StdError;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use outbox_core::{Error, ErrorKind, Scope};
use tokio::time::{Instant, timeout_at};

use crate::sdk_error::sdk_error;
use crate::transmission::Transmission;

/// What the requests of one publish call share: when it has to end, and whether one of them has found out that the
/// service cannot be used now. Then no further one is begun.
#[derive(Debug)]
pub struct Call {
    deadline: Instant,
    stop: Mutex<Option<Stop>>,
}

/// Why no further request of a call is begun.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    kind: ErrorKind,
    retry_after: Option<Duration>,
}

/// Why a request has no answer that could be read.
#[derive(Debug)]
pub enum Failure<E> {
    /// The SDK says so.
    Sdk(Box<SdkError<E, HttpResponse>>, Transmission),
    /// The call had to end.
    Late(Transmission),
    /// It was not begun.
    NotBegun(Stop),
}

impl Call {
    /// A call that ends at `deadline` at the latest.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, stop: Mutex::default() }
    }

    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Sends a request, unless there is no use in it any more. `request` gets what the operation has to have as an
    /// interceptor.
    ///
    /// # Errors
    /// See [`Failure`].
    ///
    /// # Cancel safety
    /// A dropped call drops the request; it may have been sent.
    pub async fn send<T, E, F>(&self, request: impl FnOnce(Transmission) -> F) -> Result<T, Failure<E>>
    where
        E: ProvideErrorMetadata + StdError + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        if let Some(stop) = *self.lock() {
            return Err(Failure::NotBegun(stop));
        }
        if Instant::now() >= self.deadline {
            return Err(Failure::NotBegun(Stop { kind: ErrorKind::Unavailable, retry_after: None }));
        }
        let transmission = Transmission::new();
        let failure = match timeout_at(self.deadline, request(transmission.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::Sdk(Box::new(error), transmission),
            Err(_) => Failure::Late(transmission),
        };
        let error = failure.to_error();
        if error.scope() == Scope::Endpoint {
            *self.lock() = Some(Stop { kind: error.kind(), retry_after: error.retry_after() });
        }
        Err(failure)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stop>> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: ProvideErrorMetadata + StdError + 'static> Failure<E> {
    /// The error for each message of the request.
    pub fn to_error(&self) -> Error {
        match self {
            Self::Sdk(error, transmission) => sdk_error(error, transmission),
            Self::Late(transmission) if transmission.has_begun() => {
                Error::new(ErrorKind::Timeout, "the service did not answer in time")
            }
            Self::Late(_) => Error::new(
                ErrorKind::Unavailable,
                "the message was not sent: there were no credentials or no endpoint in time",
            ),
            Self::NotBegun(stop) => stop.to_error(),
        }
    }

    /// Whether one message of the request may be to blame for the refusal of all of them.
    pub fn may_be_one_of_them(&self) -> bool {
        let error = self.to_error();
        error.scope() == Scope::Message && error.kind() != ErrorKind::NotFound
    }
}

impl Stop {
    fn to_error(self) -> Error {
        let text =
            "the message was not sent, because another request of its call has failed or time was over";
        // What is unknown of the other one is known of this.
        let kind = match self.kind {
            ErrorKind::Throttled | ErrorKind::Permission => self.kind,
            _ => ErrorKind::Unavailable,
        };
        let error = Error::new(kind, text);
        match self.retry_after {
            Some(after) => error.with_retry_after(after),
            None => error,
        }
    }
}

#[cfg(test)]
#[allow(clippy::result_large_err, reason = "errors of the SDK are as large as they are")]
mod tests {
    use aws_smithy_runtime_api::http::StatusCode;
    use aws_smithy_types::body::SdkBody;
    use aws_smithy_types::error::ErrorMetadata;
    use outbox_core::Verdict;

    use super::*;

    type Answer = Result<u32, SdkError<ErrorMetadata, HttpResponse>>;

    fn refusal(status: u16, code: &str) -> Answer {
        let error = ErrorMetadata::builder().code(code).build();
        Err(SdkError::service_error(
            error,
            HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::empty()),
        ))
    }

    fn soon() -> Call {
        Call::until(Instant::now() + Duration::from_secs(5))
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_of_the_service_nothing_more_is_begun() {
        let call = soon();
        assert_eq!(call.send(async |_| Ok::<_, SdkError<ErrorMetadata, _>>(7)).await.unwrap(), 7);
        let failure = call.send(async |_| refusal(400, "ThrottlingException")).await.unwrap_err();
        assert_eq!(failure.to_error().kind(), ErrorKind::Throttled);
        let next = call.send(async |_| -> Answer { panic!("it was begun") }).await.unwrap_err().to_error();
        assert_eq!(
            (next.kind(), next.verdict(), next.scope()),
            (ErrorKind::Throttled, Verdict::Retry, Scope::Endpoint)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_message_does_not_end_the_call() {
        let call = soon();
        let failure = call.send(async |_| refusal(400, "ValidationException")).await.unwrap_err();
        assert!(failure.may_be_one_of_them());
        assert!(
            !call
                .send(async |_| refusal(400, "ResourceNotFoundException"))
                .await
                .unwrap_err()
                .may_be_one_of_them()
        );
        assert_eq!(call.send(async |_| Ok::<_, SdkError<ErrorMetadata, _>>(7)).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_in_time_is_not_unknown() {
        let call = soon();
        let failure = call.send(async |_| std::future::pending::<Answer>().await).await.unwrap_err();
        assert_eq!(failure.to_error().verdict(), Verdict::Retry);
        let call = soon();
        call.send(async |_| Ok::<_, SdkError<ErrorMetadata, _>>(7)).await.unwrap();
        tokio::time::advance(Duration::from_secs(6)).await;
        let late = call.send(async |_| -> Answer { panic!("it was begun") }).await.unwrap_err();
        assert_eq!(
            (late.to_error().kind(), late.to_error().verdict()),
            (ErrorKind::Unavailable, Verdict::Retry)
        );
    }
}
