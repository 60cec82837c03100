//! Which relay owns which partition.

use std::time::Duration;

use outbox_core::{Membership, Partition, RelayId, Result};
use outbox_sql::partitions::share;
use outbox_sql::text::{json_list, micros};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use crate::error::store_error;
use crate::sql::Sql;
use crate::store::impossible;
use crate::transaction::BEGIN_IMMEDIATE;

/// No lease runs for so long. One that does was given by a clock that was wrong, such as that of a device which has not asked
/// for the time yet, and its owner may be long gone.
const NEVER_SO_LONG: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn heartbeat(
    connection: &mut SqliteConnection,
    sql: &Sql,
    relay: RelayId,
    ttl: Duration,
    partitions: u16,
) -> Result<Membership> {
    let failed = |error| store_error("renewing leases", error);
    let me = relay.to_string();
    let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
    let now: i64 = sqlx::query_scalar(sql.now.sql()).fetch_one(&mut *transaction).await.map_err(failed)?;
    let expires = now.saturating_add(micros(ttl));
    let absurd = now.saturating_add(micros(NEVER_SO_LONG.max(ttl * 2)));
    sqlx::query(sql.forget_relays.sql())
        .bind(now)
        .bind(absurd)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    sqlx::query(sql.announce_relay.sql())
        .bind(&me)
        .bind(expires)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    // An own lease that has expired is still ours as long as nobody else has taken it.
    let held = sqlx::query(sql.renew_leases.sql())
        .bind(&me)
        .bind(expires)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?
        .rows_affected();
    let relays: Vec<String> =
        sqlx::query_scalar(sql.relays.sql()).fetch_all(&mut *transaction).await.map_err(failed)?;
    let rank = relays.iter().position(|id| *id == me).unwrap_or(0);
    let share = share(usize::from(partitions), relays.len(), rank);
    let wanted = share.saturating_sub(usize::try_from(held).unwrap_or(usize::MAX));
    if wanted > 0 {
        sqlx::query(sql.take_leases.sql())
            .bind(&me)
            .bind(expires)
            .bind(now)
            .bind(absurd)
            .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
    }
    let owned: Vec<i64> = sqlx::query_scalar(sql.owned_leases.sql())
        .bind(&me)
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    let owned = owned
        .into_iter()
        .map(|partition| {
            u16::try_from(partition).map(Partition).map_err(|_| impossible("partition", partition))
        })
        .collect::<Result<_>>()?;
    Ok(Membership { owned, share, relays: relays.len(), partitions: usize::from(partitions), joined: false })
}

pub(crate) async fn release(
    connection: &mut SqliteConnection,
    sql: &Sql,
    relay: RelayId,
    partitions: &[Partition],
) -> Result<()> {
    sqlx::query(sql.release_leases.sql())
        .bind(json_list(partitions.iter().map(|partition| i64::from(partition.0))))
        .bind(relay.to_string())
        .execute(connection)
        .await
        .map_err(|error| store_error("giving back leases", error))?;
    Ok(())
}

pub(crate) async fn leave(connection: &mut SqliteConnection, sql: &Sql, relay: RelayId) -> Result<()> {
    let failed = |error| store_error("leaving the group of relays", error);
    let me = relay.to_string();
    let mut transaction = connection.begin_with(BEGIN_IMMEDIATE).await.map_err(failed)?;
    for statement in [&sql.release_all_leases, &sql.leave] {
        sqlx::query(statement.sql()).bind(&me).execute(&mut *transaction).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}
