//! The one error type of the workspace.
//!
//! A program reads the [`ErrorKind`] and the [`Verdict`]; a person reads the printed form. Adapters turn their
//! driver's errors into this type in one function each.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The result type of this workspace.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in terms both a store and a publisher share.
///
/// Each kind has one default [`Verdict`] and one [`Scope`], listed beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server cannot be reached, refused the connection, or is shutting down. Retry, endpoint.
    Unavailable,
    /// The server asks for fewer requests. Retry, endpoint. A publisher that knows that only some messages have to wait
    /// gives theirs the scope of a message; it never counts as an attempt.
    Throttled,
    /// No answer arrived in time, so the request may have taken effect. Unknown, endpoint.
    Timeout,
    /// The connection ended before the answer arrived, so the request may have taken effect. Unknown, endpoint.
    Interrupted,
    /// A conflict with concurrent work, such as a deadlock or a serialization failure. Retry, message.
    Conflict,
    /// The broker took the message but had nowhere to put it. Retry, message: a binding may be made later.
    Unroutable,
    /// The broker answered that it did not accept this message. Retry, message.
    Rejected,
    /// The destination the message names does not exist. Retry, message: it may be created later.
    NotFound,
    /// The message is larger than the broker or the database takes. Permanent, message.
    TooLarge,
    /// The message or a stored row cannot be understood. Permanent, message.
    Malformed,
    /// Settings are wrong. Permanent, endpoint.
    Config,
    /// The server knows us and says no. Retry, endpoint: rights are granted by people, while messages wait.
    Permission,
    /// The database's tables are missing, or are of a version this library does not know. Retry, endpoint.
    Schema,
    /// The backend does not offer the operation. Permanent, endpoint.
    Unsupported,
    /// Anything else, including a broken assumption of ours. Retry, message.
    Internal,
}

impl ErrorKind {
    /// The stable lowercase name used in logs, metrics and stored errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::Conflict => "conflict",
            Self::Unroutable => "unroutable",
            Self::Rejected => "rejected",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Config => "config",
            Self::Permission => "permission",
            Self::Schema => "schema",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }

    const fn verdict(self) -> Verdict {
        match self {
            Self::Timeout | Self::Interrupted => Verdict::Unknown,
            Self::TooLarge | Self::Malformed | Self::Config | Self::Unsupported => Verdict::Permanent,
            _ => Verdict::Retry,
        }
    }

    const fn scope(self) -> Scope {
        match self {
            Self::Unavailable
            | Self::Throttled
            | Self::Timeout
            | Self::Interrupted
            | Self::Config
            | Self::Permission
            | Self::Schema
            | Self::Unsupported => Scope::Endpoint,
            _ => Scope::Message,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether trying again makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It did not take effect, and a later attempt may succeed.
    Retry,
    /// It did not take effect, and no later attempt will succeed.
    Permanent,
    /// It may have taken effect. Trying again is right and may make a duplicate.
    Unknown,
}

/// Whom an error concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This message alone; the next one may well succeed. It counts as an attempt, unless the kind is
    /// [`Throttled`](ErrorKind::Throttled).
    Message,
    /// The whole broker or database. Of a publish, it opens the circuit and counts as no attempt, unless it turns out that
    /// one message fails like this while others are answered.
    Endpoint,
}

/// An error of a store, a publisher or the relay.
///
/// The printed form is lowercase, without a final stop, and holds no secrets: adapters put host names and table
/// names into the context, never connection strings.
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    verdict: Option<Verdict>,
    scope: Option<Scope>,
    retry_after: Option<Duration>,
    source: Option<Source>,
    driver: Option<Source>,
}

impl Error {
    /// Makes an error of this kind. `message` says what happened and what to do about it.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            context: Vec::new(),
            verdict: None,
            scope: None,
            retry_after: None,
            source: None,
            driver: None,
        }
    }

    /// Settings that cannot work; `message` names the setting and what is allowed.
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// A message or a stored row that cannot be understood.
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Malformed, message)
    }

    /// Adds where it happened: a table, a queue, a host.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.context.push((name, value.to_string()));
        self
    }

    /// Attaches the driver's error as the source. [`report`](Self::report) prints it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Attaches the driver's error without printing it, because its own printed form may quote the values of a row.
    ///
    /// [`driver_error`](Self::driver_error) finds it. It is not a source, and no printed form contains it.
    #[must_use]
    pub fn with_driver_error(mut self, error: impl Into<Source>) -> Self {
        self.driver = Some(error.into());
        self
    }

    /// Returns the error of the database driver or of the broker's client if it has the type `E`, for a retry loop that
    /// decides by it.
    ///
    /// ```
    /// use std::io;
    /// use outbox_core::{Error, ErrorKind};
    ///
    /// let reset = io::Error::from(io::ErrorKind::ConnectionReset);
    /// let error = Error::new(ErrorKind::Interrupted, "the connection to the server broke").with_driver_error(reset);
    /// assert!(error.driver_error::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::ConnectionReset));
    /// assert!(error.driver_error::<std::fmt::Error>().is_none());
    /// ```
    pub fn driver_error<E: std::error::Error + 'static>(&self) -> Option<&E> {
        if let Some(found) = self.driver.as_ref().and_then(|driver| driver.downcast_ref()) {
            return Some(found);
        }
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            source = error.source();
        }
        None
    }

    /// Replaces the kind's own verdict, for a backend that knows better.
    #[must_use]
    pub fn with_verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }

    /// Replaces the kind's own scope, for a backend that knows better.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Passes on the server's own advice on when to come back.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether trying again makes sense.
    pub fn verdict(&self) -> Verdict {
        self.verdict.unwrap_or(self.kind.verdict())
    }

    /// Whether it concerns one message or the whole server.
    pub fn scope(&self) -> Scope {
        self.scope.unwrap_or(self.kind.scope())
    }

    /// How long the server asked us to wait, where it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The whole story on one line: this error and its sources, joined by colons.
    ///
    /// This is what is stored beside a retried or dead message.
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let part = error.to_string();
            // Many drivers repeat their source in their own text.
            if !text.contains(&part) {
                text.push_str(": ");
                text.push_str(&part);
            }
            source = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)?;
        for (i, (name, value)) in self.context.iter().enumerate() {
            f.write_str(if i == 0 { " (" } else { ", " })?;
            write!(f, "{name}: {value}")?;
        }
        if self.context.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("context", &self.context)
            .field("verdict", &self.verdict())
            .field("scope", &self.scope())
            .field("retry_after", &self.retry_after)
            .field("source", &self.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_printed_forms_are_stable() {
        let error = Error::new(ErrorKind::Unroutable, "no queue is bound for this routing key")
            .with("exchange", "orders")
            .with("routing_key", "order.placed");
        assert_eq!(
            error.to_string(),
            "unroutable: no queue is bound for this routing key (exchange: orders, routing_key: order.placed)"
        );
        assert_eq!(
            format!("{error:?}"),
            "Error { kind: Unroutable, message: \"no queue is bound for this routing key\", \
             context: [(\"exchange\", \"orders\"), (\"routing_key\", \"order.placed\")], verdict: Retry, \
             scope: Message, retry_after: None, source: None }"
        );
    }

    #[test]
    fn a_report_names_every_source_once() {
        let inner = Error::new(ErrorKind::Timeout, "no confirm");
        let outer = Error::new(ErrorKind::Internal, "publish failed").with_source(inner);
        assert_eq!(outer.report(), "internal: publish failed: timeout: no confirm");
    }

    #[test]
    fn a_driver_s_error_is_found_and_not_printed() {
        let io = || std::io::Error::other("row (42, secret)");
        let hidden = Error::new(ErrorKind::Malformed, "no").with_driver_error(io());
        assert_eq!(
            (hidden.report(), hidden.to_string()),
            ("malformed: no".to_owned(), "malformed: no".to_owned())
        );
        assert!(!format!("{hidden:?}").contains("secret") && std::error::Error::source(&hidden).is_none());
        let nested = Error::new(ErrorKind::Internal, "outer").with_source(io());
        for error in [&hidden, &nested] {
            assert_eq!(error.driver_error::<std::io::Error>().unwrap().to_string(), "row (42, secret)");
        }
    }

    #[test]
    fn an_override_wins_over_the_kind() {
        let error = Error::new(ErrorKind::Rejected, "no")
            .with_verdict(Verdict::Permanent)
            .with_scope(Scope::Endpoint);
        assert_eq!((error.verdict(), error.scope()), (Verdict::Permanent, Scope::Endpoint));
    }
}
