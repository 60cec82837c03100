//! What can be wrong with a database that has an outbox in it, and what to do about it.

use outbox_core::{Finding, Result};
use outbox_sql::postgres::Names;
use sqlx::PgConnection;

use crate::error::map_error;
use crate::sql::inspecting as sql;

/// A transaction as old as this holds back vacuum, and keeps late rows possible.
const LONG: f64 = 300.0;
/// Fewer dead rows than this do not matter, whatever share of the table they are.
const FEW: i64 = 50_000;
/// How many indexes the tables are made with: message, dead letter.
const INDEXES: [i64; 2] = [4, 2];

/// The server's own settings.
pub(crate) async fn settings(connection: &mut PgConnection, names: &Names) -> Result<Vec<Finding>> {
    type Row = (String, bool, String, bool, f64, i32, String);
    let (version, standby, isolation, vacuum, queue, prepared, encoding): Row =
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
    findings.push(if prepared == 0 || !names.wakeups {
        Finding::good("two-phase commit", if prepared == 0 { "off" } else { "on, and wake-ups are off" })
    } else {
        let advice = "if transactions that enqueue are prepared, turn the relay's wake-ups off (`wakeups = false`): PREPARE \
                      TRANSACTION fails after a notification; otherwise there is nothing to do";
        Finding::warning("two-phase commit", "on, and commits notify idle relays", advice)
    });
    findings.push(if encoding == "UTF8" {
        Finding::good("encoding", encoding)
    } else {
        let advice = "use a database in UTF8: messages with other characters cannot be enqueued, errors are stored without \
                      them, and a stored byte without a meaning in Unicode stops the relay";
        Finding::warning("encoding", encoding, advice)
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

/// What a relay needs, as the README grants it.
fn relay_rights(names: &Names) -> Vec<(&str, &'static str)> {
    let all = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let tables: [(&str, &[&'static str]); 6] = [
        (&names.message, &all),
        (&names.dead_letter, &all),
        (&names.delivered, &all),
        (&names.relay, &all),
        (&names.lease, &["SELECT", "UPDATE"]),
        (&names.meta, &["SELECT"]),
    ];
    tables.iter().flat_map(|(table, rights)| rights.iter().map(|right| (*table, *right))).collect()
}

pub(crate) async fn rights(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    let (tables, rights): (Vec<&str>, Vec<&str>) = relay_rights(names).into_iter().unzip();
    let lacking: Vec<(String, String)> = sqlx::query_as(sql::LACKING)
        .bind(tables)
        .bind(rights)
        .bind(vec![names.sleepers.as_str(); 2])
        .bind(vec!["SELECT", "UPDATE"])
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    if lacking.is_empty() {
        return Ok(Finding::good("rights", "this role may do everything that a relay does"));
    }
    let lacking: Vec<String> =
        lacking.into_iter().map(|(name, right)| format!("{right} on {name}")).collect();
    let advice =
        "grant these rights to the relay's role; the README of outbox-postgres lists all that it needs";
    Ok(Finding::problem("rights", format!("this role lacks {}", lacking.join(", ")), advice))
}

/// A dump without privileges, for example, loses the right of everybody to read the sequence.
pub(crate) async fn enqueueing(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    let failing: Vec<String> = sqlx::query_scalar(sql::INSERTING)
        .bind(&names.message)
        .bind(&names.sleepers)
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    Ok(if failing.is_empty() {
        Finding::good(
            "enqueueing",
            "every role that may insert messages may read the sequence of the trigger",
        )
    } else {
        let advice = format!("GRANT SELECT ON SEQUENCE {} TO PUBLIC", names.sleepers);
        let seen = format!(
            "inserting messages fails for {}, which may not read {}",
            failing.join(", "),
            names.sleepers
        );
        Finding::problem("enqueueing", seen, advice)
    })
}

pub(crate) async fn positions(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    let sequence: Option<(i64, i64, bool)> = sqlx::query_as(sql::POSITIONS)
        .bind(&names.message)
        .fetch_optional(connection)
        .await
        .map_err(map_error)?;
    Ok(match sequence {
        Some((1, 1.., false)) => Finding::good("positions", "drawn one by one, upwards"),
        Some((cache, step, cycle)) => {
            let seen = format!(
                "drawn {cache} at a time in steps of {step}{}",
                if cycle { ", in a cycle" } else { "" }
            );
            let advice = format!(
                "ALTER TABLE {} ALTER COLUMN position SET CACHE 1 SET INCREMENT 1 SET NO CYCLE: messages that are enqueued \
                 later must have higher positions, or a relay overlooks them",
                names.message
            );
            Finding::problem("positions", seen, advice)
        }
        None => {
            let advice = "make the table again as `outbox migrate --print` shows it";
            Finding::problem("positions", "the column position has no sequence", advice)
        }
    })
}

pub(crate) async fn publications(connection: &mut PgConnection, names: &Names) -> Result<Finding> {
    let (mut failing, mut identity) = (Vec::new(), false);
    for table in [&names.message, &names.dead_letter, &names.delivered, &names.lease, &names.relay] {
        let publications: Vec<(String, bool)> = sqlx::query_as(sql::UNPUBLISHABLE)
            .bind(table)
            .fetch_all(&mut *connection)
            .await
            .map_err(map_error)?;
        for (publication, lacks_identity) in publications {
            identity |= lacks_identity;
            failing.push(format!("{table} in {publication}"));
        }
    }
    Ok(if failing.is_empty() {
        Finding::good("publications", "none keeps rows from being updated and deleted")
    } else {
        let advice = if identity {
            "ALTER TABLE … REPLICA IDENTITY DEFAULT, or take the table out of the publication: PostgreSQL refuses to update and \
             delete rows that the publication cannot identify"
        } else {
            "ALTER PUBLICATION … SET (publish_generated_columns = stored), or take the table out of the publication: PostgreSQL \
             refuses to update and delete rows whose key has a generated column that is not published"
        };
        Finding::problem("publications", format!("nothing can be settled: {}", failing.join(", ")), advice)
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
