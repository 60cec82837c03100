//! From sqlx's errors to ours.

use std::io;

use outbox_core::{Error, ErrorKind};
use sqlx::mysql::MySqlDatabaseError;

/// Turns an error of sqlx into one of this workspace.
///
/// For closures given to [`Outbox::transaction`](crate::Outbox::transaction) whose error type is
/// [`outbox_core::Error`]: `query.execute(&mut *connection).await.map_err(outbox_mysql::map_error)?`.
pub fn map_error(error: sqlx::Error) -> Error {
    use sqlx::Error as E;
    let (kind, message) = match &error {
        E::Database(database) => match database.try_downcast_ref::<MySqlDatabaseError>() {
            Some(server) => return from_server(server).with_driver_error(error),
            None => (ErrorKind::Internal, "the database driver failed"),
        },
        // Refused is the one thing that surely happened before anything was sent.
        E::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
            (ErrorKind::Unavailable, "the server refused the connection")
        }
        E::Io(io) if io.kind() == io::ErrorKind::TimedOut => {
            (ErrorKind::Timeout, "the server did not answer")
        }
        E::Io(_) | E::WorkerCrashed => (ErrorKind::Interrupted, "the connection to the server broke"),
        E::PoolTimedOut => (
            ErrorKind::Unavailable,
            "no connection in time: the server cannot be reached, or the pool is too small for what uses it",
        ),
        E::PoolClosed => (ErrorKind::Unavailable, "the pool of connections was closed"),
        E::Tls(_) => (ErrorKind::Unavailable, "no TLS connection to the server"),
        E::Configuration(_) | E::InvalidArgument(_) => {
            (ErrorKind::Config, "the connection's settings are wrong")
        }
        E::Encode(_) => (ErrorKind::Malformed, "a value cannot be sent to the database"),
        // Another program's protocol, or a proxy that mixes up sessions.
        E::Protocol(_) | E::BeginFailed => (ErrorKind::Interrupted, "the server answered out of turn"),
        E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } | E::ColumnDecode { .. } => {
            (ErrorKind::Schema, "the tables are not what this library expects")
        }
        _ => (ErrorKind::Internal, "the database driver failed"),
    };
    // The driver's text for wrong settings may quote the connection string.
    match error {
        E::Configuration(_) => Error::new(kind, message),
        error => Error::new(kind, message).with_source(error),
    }
}

fn from_server(error: &MySqlDatabaseError) -> Error {
    let (kind, message) = classify(error.number(), error.code().unwrap_or_default());
    let mapped = Error::new(kind, message).with("number", error.number());
    // What the server says of values that it refuses quotes them.
    if kind == ErrorKind::Malformed { mapped } else { mapped.with("server", error.message()) }
}

/// What the error's number means to us, or else the class of its SQLSTATE
/// (<https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>,
/// <https://mariadb.com/kb/en/mariadb-error-code-reference/>).
fn classify(number: u16, sqlstate: &str) -> (ErrorKind, &'static str) {
    use ErrorKind as K;
    match number {
        // ER_LOCK_DEADLOCK, ER_LOCK_WAIT_TIMEOUT, ER_LOCK_NOWAIT, ER_CHECKREAD, ER_XA_RBDEADLOCK, and
        // ER_QUERY_INTERRUPTED by another node of a cluster
        1213 | 1205 | 3572 | 1020 | 1614 => (K::Conflict, "a conflict with concurrent work"),
        // ER_NET_PACKET_TOO_LARGE, ER_WARN_ALLOWED_PACKET_OVERFLOWED
        1153 | 1301 => (
            K::TooLarge,
            "a message is larger than the server's max_allowed_packet; raise that setting or send less",
        ),
        // ER_TOO_BIG_ROWSIZE, ER_DATA_TOO_LONG, ER_TOO_LONG_STRING
        1118 | 1406 | 1162 => (K::TooLarge, "a value is too large for its column"),
        // ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED
        1040 | 1203 | 1226 => (K::Unavailable, "the server has no connection left"),
        // ER_BAD_DB_ERROR: the database does not exist (yet). ER_NO_DB_ERROR: none was chosen.
        1049 => (K::Unavailable, "the database does not exist"),
        1046 => {
            (K::Config, "the connection is in no database; name one in its URL or in the outbox's settings")
        }
        // ER_ACCESS_DENIED, and the same without a password
        1045 | 1698 => (K::Permission, "the server does not accept the user or its password"),
        // ER_DBACCESS_DENIED, ER_TABLEACCESS_DENIED, ER_COLUMNACCESS_DENIED, ER_PROCACCESS_DENIED,
        // ER_SPECIFIC_ACCESS_DENIED
        1044 | 1142 | 1143 | 1370 | 1227 => {
            (K::Permission, "the user may not do this; see the grants in the README of outbox-mysql")
        }
        // ER_NO_SUCH_TABLE, ER_BAD_FIELD, ER_BAD_TABLE, ER_UNKNOWN_TABLE, ER_KEY_DOES_NOT_EXISTS
        1146 | 1054 | 1051 | 1109 | 1176 => {
            (K::Schema, "the outbox's tables are missing or of another version; run migrate")
        }
        // ER_TABLE_DEF_CHANGED, ER_NEED_REPREPARE
        1412 | 1615 => (K::Conflict, "the tables changed while a statement was run"),
        // ER_OPTION_PREVENTS_STATEMENT (--read-only), ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION, ER_READ_ONLY_MODE
        1290 | 1792 | 1836 => (K::Unavailable, "the server is read-only; this may be a replica"),
        // ER_SERVER_SHUTDOWN, ER_NORMAL_SHUTDOWN, ER_ABORTING_CONNECTION, ER_NEW_ABORTING_CONNECTION, ER_FORCING_CLOSE,
        // ER_CONNECTION_KILLED, ER_UNKNOWN_COM_ERROR of a node that is not ready
        1053 | 1077 | 1152 | 1184 | 1080 | 1927 | 1047 => {
            (K::Unavailable, "the server is starting, stopping, or ended the session")
        }
        // ER_QUERY_INTERRUPTED, ER_QUERY_TIMEOUT, ER_STATEMENT_TIMEOUT. The statement was rolled back, but a
        // transaction around it may have got further.
        1317 | 3024 | 1969 => (K::Timeout, "the statement was cancelled, perhaps by a time limit"),
        // ER_RECORD_FILE_FULL, ER_DISK_FULL, ER_OUTOFMEMORY, ER_OUT_OF_SORTMEMORY, ER_OUT_OF_RESOURCES
        1114 | 1021 | 1037 | 1038 | 1041 | 3 => {
            (K::Unavailable, "the server is out of resources or has trouble with its system")
        }
        _ => match sqlstate.get(..2).unwrap_or_default() {
            "08" => (K::Unavailable, "the connection to the server failed"),
            "28" => (K::Permission, "the server does not accept the user or the password"),
            // data exceptions, broken constraints
            "21" | "22" | "23" => (K::Malformed, "the database does not take a value"),
            "40" => (K::Conflict, "the server rolled the transaction back"),
            "70" => (K::Timeout, "the statement was cancelled"),
            // ER_CONSTRAINT_FAILED of MariaDB, ER_CHECK_CONSTRAINT_VIOLATED of MySQL, ER_INVALID_JSON_TEXT
            _ if matches!(number, 4025 | 3819 | 3140) => (K::Malformed, "the database does not take a value"),
            _ => (K::Internal, "the database refused a statement"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sorted_by_what_to_do_about_them() {
        use ErrorKind as K;
        for (number, sqlstate, kind) in [
            (1213, "40001", K::Conflict),
            (1205, "HY000", K::Conflict),
            (3572, "HY000", K::Conflict),
            (1153, "08S01", K::TooLarge),
            (1406, "22001", K::TooLarge),
            (1040, "08004", K::Unavailable),
            (1203, "42000", K::Unavailable),
            (1049, "42000", K::Unavailable),
            (1046, "3D000", K::Config),
            (1044, "42000", K::Permission),
            (1045, "28000", K::Permission),
            (1142, "42000", K::Permission),
            (1227, "42000", K::Permission),
            (1146, "42S02", K::Schema),
            (1054, "42S22", K::Schema),
            (1412, "HY000", K::Conflict),
            (1290, "HY000", K::Unavailable),
            (1792, "25006", K::Unavailable),
            (1836, "HY000", K::Unavailable),
            (1053, "08S01", K::Unavailable),
            (1927, "70100", K::Unavailable),
            (1317, "70100", K::Timeout),
            (3024, "HY000", K::Timeout),
            (1969, "70100", K::Timeout),
            (1114, "HY000", K::Unavailable),
            (1021, "HY000", K::Unavailable),
            (1062, "23000", K::Malformed),
            (1366, "HY000", K::Internal),
            (1366, "22007", K::Malformed),
            (1048, "23000", K::Malformed),
            (4025, "23000", K::Malformed),
            (3819, "HY000", K::Malformed),
            (3140, "22032", K::Malformed),
            (1064, "42000", K::Internal),
            (9999, "", K::Internal),
        ] {
            assert_eq!(classify(number, sqlstate).0, kind, "{number} {sqlstate}");
        }
    }

    #[test]
    fn errors_of_the_driver_are_told_apart() {
        let io = |kind| sqlx::Error::Io(io::Error::from(kind));
        for (error, kind) in [
            (io(io::ErrorKind::ConnectionRefused), ErrorKind::Unavailable),
            (io(io::ErrorKind::ConnectionReset), ErrorKind::Interrupted),
            (io(io::ErrorKind::UnexpectedEof), ErrorKind::Interrupted),
            (io(io::ErrorKind::TimedOut), ErrorKind::Timeout),
            (sqlx::Error::PoolTimedOut, ErrorKind::Unavailable),
            (sqlx::Error::PoolClosed, ErrorKind::Unavailable),
            (sqlx::Error::ColumnNotFound("x".into()), ErrorKind::Schema),
            (sqlx::Error::RowNotFound, ErrorKind::Internal),
        ] {
            assert_eq!(map_error(error).kind(), kind);
        }
    }

    #[test]
    fn wrong_settings_are_not_quoted() {
        let error = map_error(sqlx::Error::Configuration("mysql://me:secret@host".into()));
        assert!(!format!("{error:?} {}", error.report()).contains("secret"));
    }
}
