//! From the driver's errors to ours, in one place.

use std::borrow::Cow;

use outbox_core::{Error, ErrorKind, Scope};

/// What to do about a lock that did not come free within the busy timeout.
const BUSY: &str = "another connection kept the database locked for longer than the busy timeout; keep write \
                    transactions short, or set a longer busy_timeout";

/// [`map_error`], with what was being done.
pub(crate) fn store_error(doing: &'static str, error: sqlx::Error) -> Error {
    map_error(error).with("doing", doing)
}

/// Turns an error of sqlx into one of this workspace.
///
/// For closures given to [`Outbox::transaction`](crate::Outbox::transaction) whose error type is
/// [`outbox_core::Error`]: `query.execute(&mut *connection).await.map_err(outbox_sqlite::map_error)?`.
pub fn map_error(error: sqlx::Error) -> Error {
    let (kind, advice): (ErrorKind, Cow<'static, str>) = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse().ok()).unwrap_or(1);
            sqlite(code, database.message())
        }
        sqlx::Error::PoolTimedOut => (
            ErrorKind::Unavailable,
            "no connection of the pool came free in time; raise max_connections".into(),
        ),
        sqlx::Error::PoolClosed => (ErrorKind::Unavailable, "the pool is closed".into()),
        sqlx::Error::Io(_) => (ErrorKind::Unavailable, "the file system reported an error".into()),
        // The thread that ran the statement is gone, perhaps after it took effect.
        sqlx::Error::WorkerCrashed => (ErrorKind::Interrupted, "the connection's thread ended".into()),
        sqlx::Error::Configuration(_) => (ErrorKind::Config, "the connection settings are wrong".into()),
        sqlx::Error::Encode(_) => (ErrorKind::Malformed, "a value cannot be written".into()),
        sqlx::Error::InvalidSavePointStatement | sqlx::Error::BeginFailed => {
            (ErrorKind::Internal, "the connection was in an unexpected transaction state".into())
        }
        _ => (ErrorKind::Internal, "the driver reported an error".into()),
    };
    let error = Error::new(kind, advice).with_source(error);
    // A damaged file is not the fault of the message that was being handled.
    if kind == ErrorKind::Internal { error.with_scope(Scope::Endpoint) } else { error }
}

/// The table of SQLite's result codes (<https://www.sqlite.org/rescode.html>). The low byte is the primary code.
fn sqlite(code: i32, message: &str) -> (ErrorKind, Cow<'static, str>) {
    use ErrorKind::{
        Config, Conflict, Internal, Malformed, Permission, Schema, TooLarge, Unavailable, Unsupported,
    };
    // Extended codes that mean something else than their primary code.
    match code {
        // SQLITE_READONLY_DBMOVED: the file was moved or deleted under us; a new connection finds the new one.
        1032 => return (Unavailable, "the database file was moved or deleted while it was open".into()),
        // SQLITE_CONSTRAINT_PRIMARYKEY, _UNIQUE, _ROWID.
        1555 | 2067 | 2579 => return (Conflict, "a row with the same unique value is there already".into()),
        _ => {}
    }
    match code & 0xff {
        1 if missing(message) => (
            Schema,
            "the outbox tables are missing or of another version; run migrate() on this database".into(),
        ),
        3 | 23 => (Permission, "the database refused access".into()),
        // SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL (gave up the race for the write-ahead log).
        5 | 6 | 15 => (Conflict, BUSY.into()),
        // SQLITE_NOMEM, SQLITE_INTERRUPT, SQLITE_ABORT.
        4 | 7 | 9 => (Unavailable, "the statement was interrupted or ran out of memory".into()),
        8 => (
            Permission,
            "the database is read-only for this process; check the rights on the file and on its directory"
                .into(),
        ),
        10 => (Unavailable, "reading or writing the database file failed; check the disk".into()),
        11 => (
            Internal,
            "the database file is damaged; restore it, or recover it with sqlite3's .recover".into(),
        ),
        13 => (Unavailable, "the disk is full, or the database reached max_page_count".into()),
        14 => (
            Unavailable,
            "the database file cannot be opened; check that its directory exists and is writable".into(),
        ),
        // SQLITE_SCHEMA: the tables changed while a statement was prepared.
        17 => (Conflict, "the tables were changed at the same time".into()),
        18 => (TooLarge, "the row is larger than SQLite's limit of 1 000 000 000 bytes".into()),
        19 | 20 => (Malformed, "the row breaks a rule of its table".into()),
        22 => (Unsupported, "the operating system cannot handle a file of this size".into()),
        26 => (Config, "the file is not an SQLite database, or it is encrypted".into()),
        _ => (Internal, "SQLite reported an error".into()),
    }
}

/// SQLITE_ERROR is the code of everything wrong in a statement. Ours are constant, so that only the tables can be.
fn missing(message: &str) -> bool {
    ["no such table", "no such column", "no such index", "has no column named"]
        .iter()
        .any(|part| message.contains(part))
}

#[cfg(test)]
mod tests {
    use outbox_core::Verdict;

    use super::*;

    #[test]
    fn every_result_code_has_its_kind() {
        use ErrorKind::*;
        for (code, message, kind) in [
            (1, "no such table: outbox_message", Schema),
            (1, "table outbox_message has no column named topic", Schema),
            (1, "no such index: outbox_message_ready", Schema),
            (1, "near \"x\": syntax error", Internal),
            (2, "", Internal),
            (3, "", Permission),
            (4, "", Unavailable),
            (5, "database is locked", Conflict),
            (261, "database is locked", Conflict),
            (517, "database is locked", Conflict),
            (6, "database table is locked", Conflict),
            (262, "", Conflict),
            (7, "", Unavailable),
            (8, "attempt to write a readonly database", Permission),
            (1032, "attempt to write a readonly database", Unavailable),
            (9, "", Unavailable),
            (10, "disk I/O error", Unavailable),
            (4618, "disk I/O error", Unavailable),
            (11, "database disk image is malformed", Internal),
            (13, "database or disk is full", Unavailable),
            (14, "unable to open database file", Unavailable),
            (15, "locking protocol", Conflict),
            (17, "", Conflict),
            (18, "string or blob too big", TooLarge),
            (19, "", Malformed),
            (275, "CHECK constraint failed", Malformed),
            (1299, "NOT NULL constraint failed", Malformed),
            (1555, "UNIQUE constraint failed", Conflict),
            (2067, "UNIQUE constraint failed", Conflict),
            (20, "datatype mismatch", Malformed),
            (21, "", Internal),
            (22, "", Unsupported),
            (23, "", Permission),
            (26, "file is not a database", Config),
        ] {
            assert_eq!(sqlite(code, message).0, kind, "{code} {message}");
        }
    }

    #[test]
    fn the_drivers_own_errors_have_their_kinds() {
        use ErrorKind::*;
        let io = || std::io::Error::other("x");
        for (error, kind) in [
            (sqlx::Error::PoolTimedOut, Unavailable),
            (sqlx::Error::PoolClosed, Unavailable),
            (sqlx::Error::Io(io()), Unavailable),
            (sqlx::Error::WorkerCrashed, Interrupted),
            (sqlx::Error::Configuration("x".into()), Config),
            (sqlx::Error::Encode("x".into()), Malformed),
            (sqlx::Error::BeginFailed, Internal),
            (sqlx::Error::RowNotFound, Internal),
        ] {
            assert_eq!(store_error("testing", error).kind(), kind);
        }
    }

    #[test]
    fn a_crashed_connection_leaves_the_outcome_unknown() {
        assert_eq!(store_error("testing", sqlx::Error::WorkerCrashed).verdict(), Verdict::Unknown);
    }
}
