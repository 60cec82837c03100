//! What a service's error code means.

use outbox_core::{Error, ErrorKind, Verdict};

/// What an error code means to an outbox, whichever service gave it.
///
/// The codes are those that all services share
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html>,
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/CommonErrors.html>), those the SDK itself counts as
/// throttling, and those of `SendMessageBatch` and `PutRecords`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Meaning {
    /// The service asks for fewer requests.
    Throttled,
    /// Credentials are missing, wrong or expired, or the clock is.
    Credentials,
    /// The credentials are good, and may not do this; or a key of KMS cannot be used.
    Denied,
    /// The queue or stream does not exist.
    NotFound,
    /// The request, or a message in it, is not what the service takes.
    Invalid,
    /// The same, because of its size.
    TooLarge,
    /// The service did not take the request, through no fault of it.
    Unavailable,
    /// The service failed, and whether it has taken the request is not known.
    Broken,
}

impl Meaning {
    /// Looks a code up; `None` for one that is not in the table. A namespace before the code, as in
    /// `com.amazonaws.sqs#QueueDoesNotExist` or `AWS.SimpleQueueService.NonExistentQueue`, does not matter.
    pub fn of_code(code: &str) -> Option<Self> {
        let code = code.rsplit(['#', '.']).next().unwrap_or(code);
        Some(match code {
            "BandwidthLimitExceeded"
            | "EC2ThrottledException"
            | "KMSThrottlingException"
            | "KmsThrottled"
            | "OverLimit"
            | "PriorRequestNotComplete"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "SlowDown"
            | "ThrottledException"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequestsException" => Self::Throttled,

            "AuthFailure"
            | "ExpiredToken"
            | "ExpiredTokenException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "InvalidClientTokenId"
            | "InvalidSecurity"
            | "InvalidSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "RequestExpired"
            | "RequestTimeTooSkewed"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException" => Self::Credentials,

            "AccessDenied"
            | "AccessDeniedException"
            | "KMSAccessDeniedException"
            | "KMSDisabledException"
            | "KMSInvalidStateException"
            | "KMSNotFoundException"
            | "KMSOptInRequired"
            | "KmsAccessDenied"
            | "KmsDisabled"
            | "KmsInvalidKeyUsage"
            | "KmsInvalidState"
            | "KmsNotFound"
            | "KmsOptInRequired"
            | "NotAuthorized"
            | "OptInRequired" => Self::Denied,

            "InvalidAddress"
            | "NonExistentQueue"
            | "QueueDeletedRecently"
            | "QueueDoesNotExist"
            | "ResourceNotFoundException" => Self::NotFound,

            "BatchRequestTooLong" | "RequestEntityTooLarge" | "RequestTooLarge" => Self::TooLarge,

            "InvalidArgumentException"
            | "InvalidAttributeValue"
            | "InvalidMessageContents"
            | "InvalidParameterCombination"
            | "InvalidParameterValue"
            | "InvalidQueryParameter"
            | "MalformedQueryString"
            | "MissingParameter"
            | "SerializationException"
            | "UnsupportedOperation"
            | "ValidationError"
            | "ValidationException" => Self::Invalid,

            "ServiceUnavailable" | "ServiceUnavailableException" => Self::Unavailable,

            "InternalError"
            | "InternalFailure"
            | "InternalServiceError"
            | "RequestTimeout"
            | "RequestTimeoutException" => Self::Broken,

            _ => return None,
        })
    }

    /// What remains to be told from an HTTP status, where the code says nothing.
    pub fn of_status(status: u16) -> Option<Self> {
        Some(match status {
            429 => Self::Throttled,
            401 => Self::Credentials,
            403 => Self::Denied,
            413 => Self::TooLarge,
            503 => Self::Unavailable,
            408 | 500..=599 => Self::Broken,
            _ => return None,
        })
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Throttled => ErrorKind::Throttled,
            Self::Credentials | Self::Denied => ErrorKind::Permission,
            Self::NotFound => ErrorKind::NotFound,
            Self::Invalid => ErrorKind::Malformed,
            Self::TooLarge => ErrorKind::TooLarge,
            Self::Unavailable | Self::Broken => ErrorKind::Unavailable,
        }
    }

    /// The error to report, with the kind's own scope and the right verdict. Add where it happened.
    pub fn error(self) -> Error {
        let error = Error::new(self.kind(), self.text());
        if self == Self::Broken { error.with_verdict(Verdict::Unknown) } else { error }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Throttled => "the service asks for fewer requests; it has quotas, which can be raised",
            Self::Credentials => {
                "the service refused the credentials; check that they are current, and the clock of this machine"
            }
            Self::Denied => {
                "the credentials do not allow this; grant the action on the resource, and the use of its KMS key"
            }
            Self::NotFound => "the destination does not exist; create it, or correct name, region or account",
            Self::Invalid => "the service does not take this message",
            Self::TooLarge => "the message is larger than the service takes",
            Self::Unavailable => "the service is not available",
            Self::Broken => "the service failed, and may have taken the message all the same",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_does_not_matter() {
        for code in [
            "QueueDoesNotExist",
            "com.amazonaws.sqs#QueueDoesNotExist",
            "AWS.SimpleQueueService.NonExistentQueue",
        ] {
            assert_eq!(Meaning::of_code(code), Some(Meaning::NotFound), "{code}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(Meaning::of_code("SomethingNew"), None);
        assert_eq!(Meaning::of_code(""), None);
        assert_eq!(Meaning::of_status(400), None);
    }
}
