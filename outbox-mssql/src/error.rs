//! From tiberius' errors to ours.

use std::io;

use deadpool::managed::{PoolError, TimeoutType};
use outbox_core::{Error, ErrorKind};
use tiberius::error::TokenError;

/// What the outbox's own statements throw when `sp_getapplock` did not get the lock in time.
pub(crate) const LOCK_NOT_GRANTED: u32 = 51_222;
/// What Babelfish says where it has no number of SQL Server's.
const BABELFISH_OTHER: u32 = 33_557_097;

/// Turns an error of tiberius into one of this workspace.
///
/// For closures given to [`Outbox::transaction`](crate::Outbox::transaction) whose error type is
/// [`outbox_core::Error`]: `client.execute(…).await.map_err(outbox_mssql::map_error)?`.
///
/// What the server said is kept, unless it is one of the errors that quote values.
pub fn map_error(error: tiberius::error::Error) -> Error {
    use tiberius::error::Error as E;
    let (kind, message) = match &error {
        E::Server(server) => return from_server(server).with_driver_error(error),
        E::Io { kind, .. } => match kind {
            // Refused is the one thing that surely happened before anything was sent.
            io::ErrorKind::ConnectionRefused => (ErrorKind::Unavailable, "the server refused the connection"),
            io::ErrorKind::TimedOut => (ErrorKind::Timeout, "the server did not answer"),
            _ => (ErrorKind::Interrupted, "the connection to the server broke"),
        },
        // Among them the driver's refusal to go on with a connection on which a call was dropped.
        E::Protocol(_) | E::Encoding(_) | E::Utf8 | E::Utf16 => {
            (ErrorKind::Interrupted, "the server answered in a way that the driver does not understand")
        }
        E::Tls(_) => (ErrorKind::Unavailable, "no TLS connection to the server"),
        E::Routing { .. } => (ErrorKind::Unavailable, "the server sends its clients somewhere else"),
        E::Conversion(_) | E::ParseInt(_) => {
            (ErrorKind::Schema, "the tables are not what this library expects")
        }
        E::BulkInput(_) => (ErrorKind::Malformed, "a value cannot be sent to the database"),
        #[allow(unreachable_patterns, reason = "features of tiberius that others turn on bring more of them")]
        _ => (ErrorKind::Unavailable, "the server does not let us in"),
    };
    Error::new(kind, message).with_source(error)
}

/// The same for what happens while a connection is made, when no statement was sent.
pub(crate) fn map_connecting(error: tiberius::error::Error) -> Error {
    let mapped = map_error(error);
    match mapped.kind() {
        ErrorKind::Interrupted | ErrorKind::Timeout => {
            Error::new(ErrorKind::Unavailable, "no connection to the server").with_source(mapped)
        }
        _ => mapped,
    }
}

pub(crate) fn map_pool(error: PoolError<Error>) -> Error {
    let unavailable = |message| Error::new(ErrorKind::Unavailable, message);
    match error {
        PoolError::Backend(error) => error,
        PoolError::Timeout(TimeoutType::Wait) => {
            unavailable("no connection in time: the pool is too small for what uses it")
        }
        PoolError::Timeout(_) => unavailable("no connection in time: the server cannot be reached"),
        PoolError::Closed => unavailable("the pool of connections was closed"),
        PoolError::NoRuntimeSpecified => {
            Error::config("the pool has timeouts and no runtime; build it with one")
        }
        PoolError::PostCreateHook(_) => unavailable("a hook of the pool refused the connection"),
    }
}

fn from_server(error: &TokenError) -> Error {
    let (kind, message) = match error.code() {
        BABELFISH_OTHER => babelfish(error.message()),
        code => classify(code, error.class()),
    };
    let mapped = Error::new(kind, message).with("number", error.code()).with("state", error.state());
    if quotes_values(error.code()) {
        return mapped;
    }
    mapped.with("server", error.message())
}

/// Errors whose texts quote what was in a row: conversions, duplicate keys, truncated values.
fn quotes_values(code: u32) -> bool {
    matches!(code, 241 | 242 | 245 | 248 | 2601 | 2627 | 2628 | 8114 | 8115 | 8169)
}

/// What the number means to us
/// (<https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-events-and-errors>; those of
/// Azure at <https://learn.microsoft.com/azure/azure-sql/database/troubleshoot-common-errors-issues>).
fn classify(code: u32, class: u8) -> (ErrorKind, &'static str) {
    use ErrorKind as K;
    match code {
        // Deadlock victim, lock timeout, data moved under a dirty read, update conflicts of SNAPSHOT, and a
        // transaction that an earlier one of these has doomed.
        1205 | 1222 | 601 | 605 | 3960 | 3961 | 3930 | LOCK_NOT_GRANTED => {
            (K::Conflict, "a conflict with concurrent work")
        }
        // COMMIT or ROLLBACK without a transaction: an error before has ended it.
        3902 | 3903 => (K::Conflict, "the server has rolled the transaction back"),
        208 | 207 | 2812 | 4104 | 213 | 15151 | 15197 => {
            (K::Schema, "the outbox's tables are missing or of another version; run migrate")
        }
        1934 => (
            K::Config,
            "the session's SET options do not allow it; see the section on enqueueing in the README of outbox-mssql",
        ),
        229 | 230 | 262 | 297 | 300 | 916 | 1088 | 2760 | 15247 => {
            (K::Permission, "the user lacks a right; see the grants in the README of outbox-mssql")
        }
        18456 | 18452 | 18470 | 18486 | 18487 | 18488 => {
            (K::Permission, "the server does not accept the user or the password")
        }
        40532 | 40615 | 47073 => (K::Permission, "Azure SQL does not let this user or this address in"),
        4060 | 911 => (K::Unavailable, "the database does not exist, or cannot be opened now"),
        // Of a fail-over, a start or a stop.
        40197 | 40613 | 40143 | 40166 | 40540 | 42108 | 42109 | 64 | 233 | 596 | 6005 | 10053 | 10054
        | 10060 | 17142 | 18401 | 921 | 922 | 924 | 927 | 942 | 945 | 952 | 976 | 978 | 979 | 982 | 983 => {
            (K::Unavailable, "the database is starting, stopping, or moving")
        }
        40501 | 10928 | 10929 | 49918 | 49919 | 49920 | 10936 | 40549 | 40550 | 40551 | 40552 | 40553 => {
            (K::Throttled, "Azure SQL asks for fewer requests")
        }
        // Memory, workers, sessions.
        701 | 802 | 8645 | 8651 | 8628 | 17189 | 17809 | 17888 | 17300 => {
            (K::Unavailable, "the server is out of resources")
        }
        9002 | 1105 | 1101 | 3257 | 40544 | 3958 | 3966 | 3967 => {
            (K::Unavailable, "the database, its log or tempdb is full")
        }
        3906 | 3908 | 15562 => (K::Unavailable, "the database is read-only; this may be a secondary replica"),
        // The client of another driver has cancelled it, or it took too long.
        3617 | 4_294_967_294 => (K::Timeout, "the statement was cancelled, or took too long"),
        102 | 156 | 319 | 195 => {
            (K::Unsupported, "the server does not know the statement; it may be too old")
        }
        8623 | 8632 => (K::Internal, "the server finds the statement too complex"),
        // Too long for a column, or for a row.
        8152 | 2628 | 511 | 7119 => (K::TooLarge, "a value is too large for its column"),
        // Violated constraints, and values that cannot be converted.
        2601 | 2627 | 515 | 547 | 241 | 242 | 245 | 248 | 8114 | 8115 | 8169 | 13608 | 13609 => {
            (K::Malformed, "the database does not take a value")
        }
        _ => match class {
            // Severities from 17 on are about the server, those from 20 on end the connection:
            // <https://learn.microsoft.com/sql/relational-databases/errors-events/database-engine-error-severities>.
            20.. => (K::Interrupted, "the server ended the session"),
            17..=19 => (K::Unavailable, "the server is out of resources or has trouble with its system"),
            13 => (K::Conflict, "a conflict with concurrent work"),
            14 => (K::Permission, "the user lacks a right; see the grants in the README of outbox-mssql"),
            _ => (K::Internal, "the database refused a statement"),
        },
    }
}

/// Babelfish has one number for most of what PostgreSQL says, so that the text has to tell. It is in English, unless
/// somebody has changed `lc_messages`; then it is an internal error, which the relay tries again.
fn babelfish(text: &str) -> (ErrorKind, &'static str) {
    let has = |part| text.contains(part);
    if has("lock timeout") || has("could not serialize") || has("deadlock") {
        (ErrorKind::Conflict, "a conflict with concurrent work")
    } else if has("permission denied") {
        classify(229, 14)
    } else if has("relation") && has("does not exist") || has("column") && has("does not exist") {
        classify(208, 16)
    } else if has("terminating connection") || has("shutting down") || has("starting up") {
        (ErrorKind::Unavailable, "the server is starting, stopping, or ended the session")
    } else {
        (ErrorKind::Internal, "the database refused a statement")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sorted_by_what_to_do_about_them() {
        use ErrorKind as K;
        for (kind, codes) in [
            (K::Conflict, &[1205, 1222, 601, 3960, 3930, 3902, 3903, LOCK_NOT_GRANTED][..]),
            (K::Schema, &[208, 207, 2812]),
            (K::Config, &[1934]),
            (K::Permission, &[229, 230, 262, 916, 18456, 40532, 40615]),
            (K::Unavailable, &[4060, 40613, 40197, 9002, 1105, 3906, 701, 8645, 976, 6005]),
            (K::Throttled, &[40501, 10928, 10929, 49918, 49919, 49920]),
            (K::Timeout, &[3617, 4_294_967_294]),
            (K::TooLarge, &[8152, 2628]),
            (K::Malformed, &[2601, 2627, 515, 547, 245, 8114]),
            (K::Unsupported, &[102, 156]),
            (K::Internal, &[8134, 50_000, 0]),
        ] {
            for code in codes {
                assert_eq!(classify(*code, 16).0, kind, "{code}");
            }
        }
    }

    #[test]
    fn an_unknown_number_is_judged_by_its_severity() {
        use ErrorKind as K;
        for (class, kind) in [
            (13, K::Conflict),
            (14, K::Permission),
            (16, K::Internal),
            (17, K::Unavailable),
            (20, K::Interrupted),
            (25, K::Interrupted),
        ] {
            assert_eq!(classify(99_999, class).0, kind, "{class}");
        }
    }

    #[test]
    fn babelfish_is_understood_by_its_texts() {
        use ErrorKind as K;
        for (text, kind) in [
            ("canceling statement due to lock timeout", K::Conflict),
            ("could not serialize access due to concurrent update", K::Conflict),
            ("permission denied for table outbox_message", K::Permission),
            ("relation \"x_dbo.outbox_meta\" does not exist", K::Schema),
            ("terminating connection due to administrator command", K::Unavailable),
            ("something else", K::Internal),
        ] {
            assert_eq!(babelfish(text).0, kind, "{text}");
        }
    }

    #[test]
    fn errors_of_the_driver_are_told_apart() {
        use tiberius::error::Error as E;
        let io = |kind| E::Io { kind, message: "x".to_owned() };
        for (error, kind, connecting) in [
            (io(io::ErrorKind::ConnectionRefused), ErrorKind::Unavailable, ErrorKind::Unavailable),
            (io(io::ErrorKind::ConnectionReset), ErrorKind::Interrupted, ErrorKind::Unavailable),
            (io(io::ErrorKind::UnexpectedEof), ErrorKind::Interrupted, ErrorKind::Unavailable),
            (io(io::ErrorKind::TimedOut), ErrorKind::Timeout, ErrorKind::Unavailable),
            (E::Protocol("x".into()), ErrorKind::Interrupted, ErrorKind::Unavailable),
            (E::Tls("x".to_owned()), ErrorKind::Unavailable, ErrorKind::Unavailable),
            (E::Utf16, ErrorKind::Interrupted, ErrorKind::Unavailable),
            (E::Conversion("x".into()), ErrorKind::Schema, ErrorKind::Schema),
            (E::BulkInput("x".into()), ErrorKind::Malformed, ErrorKind::Malformed),
            (E::Routing { host: "h".to_owned(), port: 1 }, ErrorKind::Unavailable, ErrorKind::Unavailable),
        ] {
            assert_eq!(map_error(error.clone()).kind(), kind, "{error}");
            assert_eq!(map_connecting(error.clone()).kind(), connecting, "{error}");
        }
    }

    #[test]
    fn a_pool_that_has_nothing_to_give_is_unavailable() {
        for error in [
            PoolError::Timeout(TimeoutType::Wait),
            PoolError::Timeout(TimeoutType::Create),
            PoolError::Timeout(TimeoutType::Recycle),
            PoolError::Closed,
        ] {
            assert_eq!(map_pool(error).kind(), ErrorKind::Unavailable);
        }
    }

    #[test]
    fn texts_that_quote_rows_are_not_kept() {
        assert!(quotes_values(2627) && quotes_values(2628) && !quotes_values(1205));
    }
}
