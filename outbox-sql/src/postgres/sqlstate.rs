//! What the server's errors mean.

use outbox_core::{Error, ErrorKind};

/// Makes an error of what the server reported: its SQLSTATE, its message, and the table and the constraint if it named them.
///
/// The server's details and hints are left out, because they may quote rows.
pub fn server_error(code: &str, message: &str, table: Option<&str>, constraint: Option<&str>) -> Error {
    let (kind, meaning) = classify(code);
    let mut error = Error::new(kind, meaning).with("server", message).with("sqlstate", code);
    if let Some(table) = table {
        error = error.with("table", table);
    }
    if let Some(constraint) = constraint {
        error = error.with("constraint", constraint);
    }
    error
}

/// What the SQLSTATE means to us (<https://www.postgresql.org/docs/current/errcodes-appendix.html>). Whole codes come
/// before their classes.
fn classify(code: &str) -> (ErrorKind, &'static str) {
    use ErrorKind as K;
    match code {
        // lock_not_available: after lock_timeout.
        "55P03" => {
            (K::Conflict, "another session holds a lock for too long; see pg_locks and pg_blocking_pids()")
        }
        // serialization_failure, deadlock_detected: others were at the same rows.
        "40001" | "40P01" => (K::Conflict, "a conflict with concurrent work"),
        // statement_completion_unknown: the connection was lost during the commit.
        "40003" => (K::Interrupted, "the server does not know whether the transaction took effect"),
        // query_canceled, by statement_timeout or by a person. The server has rolled the statement back, but a
        // transaction around it may have got further.
        "57014" => (K::Timeout, "the statement was cancelled, perhaps by statement_timeout"),
        // idle_in_transaction_session_timeout, idle_session_timeout, transaction_timeout
        "25P03" | "57P05" | "25P04" => {
            (K::Unavailable, "the server ended the session because it took too long")
        }
        // undefined_table, undefined_column, undefined_function, undefined_object, invalid_schema_name
        "42P01" | "42703" | "42883" | "42704" | "3F000" => {
            (K::Schema, "the outbox's tables are missing or of another version; run migrate")
        }
        // insufficient_privilege
        "42501" => (K::Permission, "the role lacks a right; see the grants in the README of outbox-postgres"),
        // read_only_sql_transaction: a standby, or default_transaction_read_only. It passes when the standby is promoted.
        "25006" => (K::Unavailable, "the database is read-only; this may be a standby"),
        // feature_not_supported, e.g. a prepared statement whose result changed its type during a migration, where
        // trying again prepares it anew.
        "0A000" => (K::Schema, "the tables changed while a statement was prepared"),
        // undefined_pstatement, duplicate_pstatement: a pooler gave the session to somebody else.
        "26000" | "42P05" => (
            K::Unavailable,
            "a pooler does not keep prepared statements; see the section on poolers in the README of outbox-postgres",
        ),
        // program_limit_exceeded, e.g. a value of more than a gigabyte
        "54000" => (K::TooLarge, "a value is too large for PostgreSQL"),
        // too_many_connections; the other insufficient resources, such as a full disk, pass as well.
        "53300" => (K::Unavailable, "the server has no connection left"),
        // invalid_catalog_name: the database does not exist (yet).
        "3D000" => (K::Unavailable, "the database does not exist"),
        _ => match code.get(..2).unwrap_or_default() {
            // connection_exception
            "08" => (K::Unavailable, "the connection to the server failed"),
            // operator_intervention: shutdown, crash of another session, start-up not finished
            "57" => (K::Unavailable, "the server is starting, stopping, or ended the session"),
            // insufficient_resources, system_error
            "53" | "58" => (K::Unavailable, "the server is out of resources or has trouble with its system"),
            // invalid_authorization_specification
            "28" => (K::Permission, "the server does not accept the role or its password"),
            // data_exception, integrity_constraint_violation
            "22" | "23" => (K::Malformed, "the database does not take a value"),
            // transaction_rollback
            "40" => (K::Conflict, "the server rolled the transaction back"),
            _ => (K::Internal, "the database refused a statement"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_by_what_to_do_about_them() {
        use ErrorKind as K;
        for (code, kind) in [
            ("08006", K::Unavailable),
            ("08001", K::Unavailable),
            ("57P01", K::Unavailable),
            ("57P02", K::Unavailable),
            ("57P03", K::Unavailable),
            ("57P05", K::Unavailable),
            ("25P03", K::Unavailable),
            ("25006", K::Unavailable),
            ("53300", K::Unavailable),
            ("53100", K::Unavailable),
            ("58030", K::Unavailable),
            ("26000", K::Unavailable),
            ("3D000", K::Unavailable),
            ("40001", K::Conflict),
            ("40P01", K::Conflict),
            ("40002", K::Conflict),
            ("55P03", K::Conflict),
            ("40003", K::Interrupted),
            ("57014", K::Timeout),
            ("42P01", K::Schema),
            ("42703", K::Schema),
            ("42883", K::Schema),
            ("3F000", K::Schema),
            ("0A000", K::Schema),
            ("42501", K::Permission),
            ("28P01", K::Permission),
            ("28000", K::Permission),
            ("22021", K::Malformed),
            ("22P05", K::Malformed),
            ("23505", K::Malformed),
            ("23502", K::Malformed),
            ("54000", K::TooLarge),
            ("42601", K::Internal),
            ("XX000", K::Internal),
            ("", K::Internal),
        ] {
            assert_eq!(classify(code).0, kind, "{code}");
        }
    }

    #[test]
    fn the_server_s_words_are_kept() {
        let error = server_error("23502", "null value", Some("outbox_message"), None);
        assert_eq!(
            error.to_string(),
            "malformed: the database does not take a value \
             (server: null value, sqlstate: 23502, table: outbox_message)"
        );
    }
}
