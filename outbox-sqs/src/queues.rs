//! The URLs of queues that are known by name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Builder as Overrides;
use outbox_aws::{Transmission, sdk_error};
use outbox_core::{Error, ErrorKind, Result, Verdict};
use tokio::time::Instant;

use crate::queue::Queue;

/// What has been looked up. Only successes are kept, so there are no more entries than queues.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    /// The account that owns the queues, if it is not the client's.
    pub(crate) owner: Option<String>,
    urls: Mutex<HashMap<String, String>>,
}

impl Queues {
    pub(crate) fn new(owner: Option<String>) -> Self {
        Self { owner, urls: Mutex::default() }
    }

    /// The URL of a queue, looked up if it is not known yet.
    ///
    /// # Errors
    /// Never [`Verdict::Unknown`]: nothing of a message has been sent.
    pub(crate) async fn url(
        &self,
        client: &Client,
        overrides: &Overrides,
        queue: &Queue,
        deadline: Instant,
    ) -> Result<String, LookupFailure> {
        if let Some(url) = queue.as_url() {
            return Ok(url.to_owned());
        }
        let name = queue.as_str();
        if let Some(url) = self.lock().get(name) {
            return Ok(url.clone());
        }
        let transmission = Transmission::new();
        let looking = client
            .get_queue_url()
            .queue_name(name)
            .set_queue_owner_aws_account_id(self.owner.clone())
            .customize()
            .config_override(overrides.clone())
            .interceptor(transmission.clone())
            .send();
        let found = match tokio::time::timeout_at(deadline, looking).await {
            Err(_) => return Err(LookupFailure::Late),
            Ok(Err(error)) => return Err(LookupFailure::Failed(Box::new(error), transmission)),
            Ok(Ok(found)) => found,
        };
        let url = found.queue_url.ok_or(LookupFailure::NoAnswer)?;
        self.lock().insert(name.to_owned(), url.clone());
        Ok(url)
    }

    /// Looks it up again next time: it is not there any more.
    pub(crate) fn forget(&self, queue: &Queue) {
        self.lock().remove(queue.as_str());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type GetQueueUrlError = aws_sdk_sqs::error::SdkError<
    aws_sdk_sqs::operation::get_queue_url::GetQueueUrlError,
    aws_sdk_sqs::config::http::HttpResponse,
>;

/// Why a queue's URL could not be had.
#[derive(Debug)]
pub(crate) enum LookupFailure {
    Failed(Box<GetQueueUrlError>, Transmission),
    Late,
    NoAnswer,
}

impl LookupFailure {
    pub(crate) fn to_error(&self) -> Error {
        let error = match self {
            Self::Failed(error, transmission) => sdk_error(error, transmission),
            Self::Late => {
                Error::new(ErrorKind::Timeout, "the URL of the queue could not be looked up in time")
            }
            Self::NoAnswer => Error::new(ErrorKind::Internal, "the service found the queue, and gave no URL"),
        };
        about_a_queue(error)
    }
}

/// What an error means that was the answer to a question about a queue, and not about a message.
pub(crate) fn about_a_queue(error: Error) -> Error {
    match (error.kind(), error.verdict()) {
        // Whether the question has arrived does not matter.
        (_, Verdict::Unknown) => error.with_verdict(Verdict::Retry),
        (ErrorKind::Malformed | ErrorKind::TooLarge, _) => {
            Error::new(ErrorKind::NotFound, "the service does not look up such a queue").with_source(error)
        }
        _ => error,
    }
}
