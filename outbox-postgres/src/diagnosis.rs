//! What can be wrong with a database that has an outbox in it, and what to do about it.

use outbox_core::{Finding, Result};
use sqlx::PgConnection;

use crate::config::Names;
use crate::error::map_error;
use crate::sql::inspecting as sql;

/// A transaction as old as this holds back vacuum, and keeps late rows possible.
const LONG: f64 = 300.0;
/// Fewer dead rows than this do not matter, whatever share of the table they are.
const FEW: i64 = 50_000;
/// How many indexes the tables are made with: message, dead letter.
const INDEXES: [i64; 2] = [3, 2];

/// The server's own settings.
pub(crate) async fn settings(connection: &mut PgConnection) -> Result<Vec<Finding>> {
    let (version, standby, isolation, vacuum, queue): (String, bool, String, bool, f64) =
        sqlx::query_as(sql::SETTINGS).fetch_one(connection).await.map_err(map_error)?;
    let mut findings = Vec::new();
    findings.push(if standby {
        let advice = "connect to the primary: a relay writes, and a standby is read-only";
        Finding::problem("server", format!("PostgreSQL {version}, a standby"), advice)
    } else {
        Finding::good("server", format!("PostgreSQL {version}, a primary"))
    });
    findings.push(if isolation == "read committed" {
        Finding::good("isolation level", format!("{isolation} by default"))
    } else {
        let advice = "a relay sets its own; but services that enqueue at this level have to repeat transactions that \
                      the server refuses to serialize";
        Finding::warning("isolation level", format!("{isolation} by default"), advice)
    });
    findings.push(if vacuum {
        Finding::good("autovacuum", "on")
    } else {
        let advice = "set autovacuum = on and track_counts = on: rows come and go all the time, and nothing else \
                      cleans up after them";
        Finding::problem("autovacuum", "off", advice)
    });
    let seen = format!("the server's queue of notifications is {:.0} % full", queue * 100.0);
    findings.push(if queue < 0.5 {
        Finding::good("notifications", seen)
    } else {
        let advice = "find the session that has listened and not finished its transaction: commits that notify fail \
                      when the queue is full";
        Finding::problem("notifications", seen, advice)
    });
    Ok(findings)
}

pub(crate) async fn rights(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    let mut lacking = Vec::new();
    for table in [&names.message, &names.dead_letter, &names.delivered, &names.lease, &names.relay] {
        let may: bool = sqlx::query_scalar(sql::RIGHTS)
            .bind(table)
            .fetch_one(&mut *connection)
            .await
            .map_err(map_error)?;
        if !may {
            lacking.push(table.as_str());
        }
    }
    let may: bool = sqlx::query_scalar(sql::SEQUENCE_RIGHTS)
        .bind(&names.sleepers)
        .fetch_one(connection)
        .await
        .map_err(map_error)?;
    if !may {
        lacking.push(&names.sleepers);
    }
    Ok(if lacking.is_empty() {
        Finding::good("rights", "this role may do everything that a relay does")
    } else {
        let advice = "grant SELECT, INSERT, UPDATE and DELETE on these tables, and SELECT and UPDATE on the sequence, to the relay's role";
        Finding::problem("rights", format!("this role lacks rights on {}", lacking.join(", ")), advice)
    })
}

pub(crate) async fn indexes(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    let mut wrong = Vec::new();
    for (table, expected) in [&names.message, &names.dead_letter].into_iter().zip(INDEXES) {
        let (valid, invalid): (i64, i64) =
            sqlx::query_as(sql::INDEXES).bind(table).fetch_one(&mut *connection).await.map_err(map_error)?;
        if valid < expected || invalid > 0 {
            wrong.push(format!("{table} has {valid} of {expected} and {invalid} that are invalid"));
        }
    }
    Ok(if wrong.is_empty() {
        Finding::good("indexes", "all there and valid")
    } else {
        let advice = "make those again that `outbox migrate --print` shows and that are missing or invalid";
        Finding::problem("indexes", wrong.join("; "), advice)
    })
}

pub(crate) async fn trigger(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    let enabled: i64 = sqlx::query_scalar(sql::TRIGGER)
        .bind(&names.message)
        .fetch_one(connection)
        .await
        .map_err(map_error)?;
    Ok(if enabled > 0 {
        Finding::good("wake-ups", "the trigger is there and enabled")
    } else {
        let advice = "make the trigger again that `outbox migrate --print` shows; until then, messages wait up to the \
                      poll interval";
        Finding::warning("wake-ups", "the trigger that notifies relays is missing or disabled", advice)
    })
}

pub(crate) async fn transactions(connection: &mut PgConnection) -> Result<Finding> {
    let (age, pid, hidden): (f64, Option<i32>, i64) =
        sqlx::query_as(sql::TRANSACTIONS).fetch_one(connection).await.map_err(map_error)?;
    let mut seen = match pid {
        Some(pid) => format!("the oldest is {age:.0} s old (process {pid})"),
        None => "none is open".to_owned(),
    };
    if hidden > 0 {
        seen.push_str(&format!(
            "; {hidden} sessions of other roles cannot be seen without pg_read_all_stats"
        ));
    }
    Ok(if age >= LONG {
        let advice =
            "end it: it holds back vacuum in all tables, and messages it enqueued wait for its commit";
        Finding::warning("transactions", seen, advice)
    } else if hidden > 0 {
        Finding::unknown("transactions", seen)
    } else {
        Finding::good("transactions", seen)
    })
}

pub(crate) async fn bloat(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    type Row = (i64, i64, i64, Option<f64>, bool);
    let row: Option<Row> = sqlx::query_as(sql::BLOAT)
        .bind(&names.message)
        .fetch_optional(connection)
        .await
        .map_err(map_error)?;
    let Some((live, dead, bytes, vacuumed, tuned)) = row else {
        return Ok(Finding::unknown("vacuum", "the server keeps no statistics of the table of messages"));
    };
    let ago = vacuumed.map_or("never vacuumed".to_owned(), |ago| format!("vacuumed {ago:.0} s ago"));
    let seen = format!("{live} rows, {dead} dead ones, {} MiB, {ago}", bytes >> 20);
    Ok(if !tuned {
        let advice = "set the storage parameters that `outbox migrate --print` shows: with the server's own, vacuum \
                      comes too seldom for a queue";
        Finding::warning("vacuum", seen, advice)
    } else if dead > FEW && dead > live {
        let advice = "look for long transactions, replication slots and prepared transactions, which keep vacuum from \
                      removing dead rows";
        Finding::warning("vacuum", seen, advice)
    } else {
        Finding::good("vacuum", seen)
    })
}

/// A pooler that hands each transaction to another session is noticed when it does, which it need not while it is quiet; or by
/// what became of the settings of a session of our own.
pub(crate) async fn pooler(connection: &mut PgConnection, has_its_own: bool) -> Result<Finding> {
    let mut backends = Vec::new();
    for _ in 0..5 {
        let backend: i32 =
            sqlx::query_scalar(sql::BACKEND).fetch_one(&mut *connection).await.map_err(map_error)?;
        backends.push(backend);
    }
    backends.dedup();
    let seen = if backends.len() > 1 {
        "a pooler changes the session between statements"
    } else if !has_its_own {
        "a pooler takes no settings for a session"
    } else {
        return Ok(Finding::good("pooler", "the session stays the same from statement to statement"));
    };
    let advice = "connect a relay to the server itself, if messages are to be found before its poll interval is over: \
                  wake-ups need a session of their own";
    Ok(Finding::warning("pooler", seen, advice))
}
