//! What can be wrong with a database that has an outbox in it, and what to do about it.

use std::collections::BTreeSet;

use outbox_core::{Finding, Result};
use sqlx::AssertSqlSafe;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use crate::config::Names;
use crate::error::map_error;
use crate::row::Columns;

/// How many indexes the tables are made with: message, dead letter.
const INDEXES: [usize; 2] = [3, 3];
/// The number of the error for a statement that this user may not run on a table.
const DENIED: u16 = 1142;
/// The same for some columns only.
const COLUMN_DENIED: u16 = 1143;

/// The number of the error for a right of the whole server that this user has not: here PROCESS.
const NO_RIGHT: u16 = 1227;
/// A transaction as old as this keeps old versions of rows from being purged.
const LONG: i64 = 300;
/// How often MySQL is asked for its transactions.
const TRIES: usize = 20;

async fn rows(connection: &mut MySqlConnection, statement: String) -> Result<Vec<MySqlRow>, sqlx::Error> {
    // As text: not everything that shows or explains can be prepared everywhere.
    sqlx::raw_sql(AssertSqlSafe(statement)).fetch_all(&mut *connection).await
}

/// How old the oldest open transaction is.
pub(crate) async fn transactions(connection: &mut MySqlConnection) -> Result<Finding> {
    let statement = "SELECT CAST(COALESCE(MAX(TIMESTAMPDIFF(SECOND, trx_started, NOW())), 0) AS SIGNED)
        FROM information_schema.innodb_trx WHERE trx_mysql_thread_id <> CONNECTION_ID()";
    for _ in 0..TRIES {
        let age = match rows(connection, statement.to_owned()).await {
            Ok(rows) => rows.first().map_or(Ok(0), |row| Columns(row).required(0))?,
            Err(error) if is_one_of(&error, &[NO_RIGHT]) => {
                return Ok(Finding::unknown("transactions", "they cannot be seen without the right PROCESS"));
            }
            // MySQL cannot show a transaction while a statement of it has bytes that are no text, such as an id (3854).
            Err(sqlx::Error::Database(_)) => continue,
            Err(error) => return Err(map_error(error)),
        };
        let seen = format!("the oldest open one is {age} s old");
        return Ok(if age < LONG {
            Finding::good("transactions", seen)
        } else {
            let advice =
                "end it: it keeps old versions of rows, and messages it enqueued wait for its commit";
            Finding::warning("transactions", seen, advice)
        });
    }
    Ok(Finding::unknown("transactions", "the server could not show them at the moment; try again"))
}

/// Whether this user may do what a relay does. Roles and grants on parts of names would have to be worked out; so the
/// server is asked to explain statements, which needs the rights that running them would need.
pub(crate) async fn rights(connection: &mut MySqlConnection, names: &Names) -> Result<Finding> {
    let tables = [
        (&names.message, "position"),
        (&names.dead_letter, "position"),
        (&names.delivered, "position"),
        (&names.lease, "partition"),
        (&names.relay, "relay_id"),
    ];
    let mut lacking = Vec::new();
    for (table, column) in tables {
        let mut rights = Vec::new();
        for (right, statement) in [
            ("SELECT", format!("SELECT `{column}` FROM {table} LIMIT 1")),
            ("INSERT", format!("INSERT INTO {table} (`{column}`) VALUES (1)")),
            ("UPDATE", format!("UPDATE {table} SET `{column}` = 1 LIMIT 1")),
            ("DELETE", format!("DELETE FROM {table} LIMIT 1")),
        ] {
            match rows(connection, format!("EXPLAIN {statement}")).await {
                Ok(_) => {}
                Err(error) if is_one_of(&error, &[DENIED, COLUMN_DENIED]) => rights.push(right),
                Err(error) => return Err(map_error(error)),
            }
        }
        if !rights.is_empty() {
            lacking.push(format!("{} on {table}", rights.join(", ")));
        }
    }
    Ok(if lacking.is_empty() {
        Finding::good("rights", "this user may do everything that a relay does")
    } else {
        let advice = "grant SELECT, INSERT, UPDATE and DELETE on these tables to the relay's user";
        Finding::problem("rights", format!("this user lacks {}", lacking.join("; ")), advice)
    })
}

fn is_one_of(error: &sqlx::Error, numbers: &[u16]) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref());
    error.is_some_and(|error: &sqlx::mysql::MySqlDatabaseError| numbers.contains(&error.number()))
}

pub(crate) async fn indexes(connection: &mut MySqlConnection, names: &Names) -> Result<Finding> {
    let mut wrong = Vec::new();
    for (table, expected) in [&names.message, &names.dead_letter].into_iter().zip(INDEXES) {
        let rows = rows(connection, format!("SHOW INDEX FROM {table}")).await.map_err(map_error)?;
        let there: BTreeSet<_> = rows.iter().map(|row| Columns(row).lossy_text(2)).collect::<Result<_>>()?;
        if there.len() < expected {
            wrong.push(format!("{table} has {} of {expected}", there.len()));
        }
    }
    Ok(if wrong.is_empty() {
        Finding::good("indexes", "all there")
    } else {
        let advice = "make those again that `outbox migrate --print` shows and that are missing";
        Finding::problem("indexes", wrong.join("; "), advice)
    })
}

pub(crate) async fn isolation(connection: &mut MySqlConnection) -> Result<Finding> {
    // The one name is MySQL's and new in MariaDB, the other the old one.
    let statement =
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('transaction_isolation', 'tx_isolation')".to_owned();
    let rows = rows(connection, statement).await.map_err(map_error)?;
    let Some(level) = rows.first().map(|row| Columns(row).lossy_text(1)).transpose()?.flatten() else {
        return Ok(Finding::unknown("isolation level", "the server does not tell it"));
    };
    Ok(if level == "SERIALIZABLE" {
        let advice =
            "a relay sets its own; but services that enqueue at this level make whoever reads wait for them";
        Finding::warning("isolation level", format!("{level} by default"), advice)
    } else {
        Finding::good("isolation level", format!("{level} by default"))
    })
}

/// A proxy that hands each statement to another session is noticed when it does, which it need not while it is quiet.
pub(crate) async fn pooler(connection: &mut MySqlConnection) -> Result<Finding> {
    let mut sessions = Vec::new();
    for _ in 0..5 {
        let rows =
            rows(connection, "SELECT CAST(CONNECTION_ID() AS CHAR)".to_owned()).await.map_err(map_error)?;
        sessions.push(rows.first().map(|row| Columns(row).lossy_text(0)).transpose()?);
    }
    sessions.dedup();
    Ok(if sessions.len() == 1 {
        Finding::good("pooler", "the session stays the same from statement to statement")
    } else {
        let advice =
            "connect a relay to the server itself: its sessions have an isolation level of their own";
        Finding::warning("pooler", "a proxy changes the session between statements", advice)
    })
}
