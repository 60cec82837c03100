//! Writing what became of rows.

use std::borrow::Cow;
use std::collections::BTreeSet;

use outbox_core::{Error, ErrorKind, Partition, RelayId, Result, Settle};
use outbox_sql::settle::{Failure, Groups, Keys, Place, Target};
use sqlx::{PgConnection, SqlStr};

use crate::error::map_error;
use crate::group::numbers;
use crate::runs::Runs;
use crate::sessions::Lent;
use crate::sql::Statements;
use crate::store::PostgresStore;
use crate::targets::{Identities, Rows};

/// What a statement says about a row it has written: where, its key, whether it blocks now, and whether it did.
type Written = (i16, i64, Option<String>, bool, bool);

/// Where a row is that a statement has returned.
pub(crate) fn place(partition: i16, position: i64) -> Place {
    Place { partition: Partition(u16::try_from(partition).unwrap_or_default()), position }
}

impl PostgresStore {
    pub(crate) async fn write(&self, relay: RelayId, batch: &[Settle], keep_delivered: bool) -> Result<()> {
        let sql = self.sql().await?;
        let mut groups = Groups::of(batch);
        let encoding = self.encoding().await?;
        for failure in groups.retries.iter_mut().chain(&mut groups.dead) {
            if let Cow::Owned(error) = encoding.storable(&failure.error) {
                failure.error = Cow::Owned(error);
            }
        }
        if groups.only_delivered() && groups.delivered.is_empty() {
            return Ok(());
        }
        let mut lent = self.lend().await?;
        let written = if groups.only_delivered() {
            self.write_delivered(sql, groups.delivered, keep_delivered, &mut lent).await
        } else {
            let call = Call { sql, relay, groups, keep_delivered, impatient: self.rows_are_locked() };
            call.run(&mut lent).await
        };
        if let Err(error) = &written
            && error.kind() == ErrorKind::Conflict
        {
            self.note_locked_rows();
        }
        lent.end(written).await
    }

    /// Rows that another session has locked are left for a later call, and the call fails after the others have been written.
    /// Each of them is written alone, so that one lock costs one row and not the call.
    async fn write_delivered(
        &self,
        sql: &Statements,
        mut rows: Vec<Target>,
        keep: bool,
        lent: &mut Lent,
    ) -> Result<()> {
        let deliver = deliver_statement(sql, keep);
        if !self.rows_are_locked() {
            let written = async {
                let mut connection = lent.bounded().await?;
                if keep || !deliver_free(sql, &mut rows, &mut connection).await? {
                    run_deliver(deliver, &rows, &mut connection).await?;
                }
                connection.finish().await
            };
            match written.await {
                Err(error) if error.kind() == ErrorKind::Conflict => self.note_locked_rows(),
                written => return written,
            }
        }
        let mut tx = lent.begin_impatient().await?;
        let (ours, locked) = lock_rows(sql, &rows, &mut tx).await?;
        run_deliver(deliver, &ours, &mut tx).await?;
        tx.commit().await.map_err(map_error)?;
        if locked > 0 {
            return Err(Error::new(
                ErrorKind::Conflict,
                "other sessions hold locks on delivered messages; the rest of the call was written",
            )
            .with("locked", locked));
        }
        self.forget_locked_rows();
        Ok(())
    }
}

/// One call that writes more than deliveries. It takes effect as a whole or not at all.
struct Call<'a> {
    sql: &'a Statements,
    relay: RelayId,
    groups: Groups<'a>,
    keep_delivered: bool,
    impatient: bool,
}

impl Call<'_> {
    /// The leases are locked last, so that a heartbeat does not wait for a call that waits for locks of rows. If one has been lost
    /// by then, nothing has been written, and the call is repeated without its rows.
    async fn run(&self, lent: &mut Lent) -> Result<()> {
        let mut owned: Option<BTreeSet<Partition>> = None;
        loop {
            let mut tx = if self.impatient { lent.begin_impatient().await? } else { lent.begin().await? };
            let supposed = match owned.take() {
                Some(owned) => owned,
                None => leases(&self.sql.read_leases, self.relay, self.groups.partitions(), &mut tx).await?,
            };
            self.write(&supposed, &mut tx).await?;
            let locked = leases(&self.sql.lock_leases, self.relay, supposed.clone(), &mut tx).await?;
            if locked == supposed {
                return tx.commit().await.map_err(map_error);
            }
            tx.rollback().await.map_err(map_error)?;
            owned = Some(locked);
        }
    }

    async fn write(&self, owned: &BTreeSet<Partition>, connection: &mut PgConnection) -> Result<()> {
        let (sql, mut groups) = (self.sql, self.groups.clone());
        groups.retain(owned);
        let mut keys = Keys::default();
        if !groups.retries.is_empty() {
            note(&mut keys, retry(sql, &groups.retries, connection).await?);
        }
        if !groups.held.is_empty() {
            note(&mut keys, hold(sql, &groups.held, connection).await?);
        }
        if !groups.dead.is_empty() {
            note(&mut keys, bury(sql, &groups.dead, connection).await?);
        }
        hold_later(sql, &keys, connection).await?;
        if !groups.delivered.is_empty() {
            run_deliver(deliver_statement(sql, self.keep_delivered), &groups.delivered, connection).await?;
        }
        release(sql, &keys, connection).await
    }
}

fn deliver_statement(sql: &Statements, keep: bool) -> &SqlStr {
    if keep { &sql.deliver_and_keep } else { &sql.deliver }
}

fn note(keys: &mut Keys, written: Vec<Written>) {
    for (partition, position, key, blocks, did_block) in written {
        keys.note(place(partition, position), key, blocks, did_block);
    }
}

/// Those of the partitions that the relay owns.
async fn leases(
    statement: &SqlStr,
    relay: RelayId,
    partitions: BTreeSet<Partition>,
    connection: &mut PgConnection,
) -> Result<BTreeSet<Partition>> {
    let owned: Vec<i16> = sqlx::query_scalar(statement.clone())
        .bind(relay.0)
        .bind(numbers(&partitions.into_iter().collect::<Vec<_>>()))
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    Ok(owned.into_iter().filter_map(|number| u16::try_from(number).ok()).map(Partition).collect())
}

/// Locks those rows that no other session has locked. Returns them and the number of the others. Rows that are gone are neither.
async fn lock_rows(
    sql: &Statements,
    rows: &[Target],
    connection: &mut PgConnection,
) -> Result<(Vec<Target>, usize)> {
    let Rows { partitions, positions, identities } = Rows::of(rows);
    let found: Vec<(i16, i64, bool)> = sqlx::query_as(sql.lock_rows.clone())
        .bind(partitions)
        .bind(positions)
        .bind(identities.ids)
        .bind(identities.times)
        .bind(false)
        .fetch_all(connection)
        .await
        .map_err(map_error)?;
    let ours: BTreeSet<Place> = found
        .iter()
        .filter(|(_, _, ours)| *ours)
        .map(|(partition, position, _)| place(*partition, *position))
        .collect();
    let locked = found.len() - ours.len();
    Ok((rows.iter().filter(|row| ours.contains(&row.place)).copied().collect(), locked))
}

/// Deletes rows that nothing waits for. Says whether these were all; the others block their key, or are gone.
async fn deliver_free(
    sql: &Statements,
    rows: &mut Vec<Target>,
    connection: &mut PgConnection,
) -> Result<bool> {
    let runs = Runs::of(rows);
    let Identities { ids, times } = Identities::of(rows);
    let done = sqlx::query(sql.deliver_free.clone())
        .bind(&runs.partitions)
        .bind(&runs.first)
        .bind(&runs.last)
        .bind(&runs.taken)
        .bind(ids)
        .bind(times)
        .bind(false)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(done.rows_affected() >= runs.count)
}

async fn run_deliver(statement: &SqlStr, rows: &[Target], connection: &mut PgConnection) -> Result<()> {
    let Rows { partitions, positions, identities } = Rows::of(rows);
    sqlx::query(statement.clone())
        .bind(partitions)
        .bind(positions)
        .bind(identities.ids)
        .bind(identities.times)
        .bind(false)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}

async fn retry(
    sql: &Statements,
    retries: &[Failure<'_>],
    connection: &mut PgConnection,
) -> Result<Vec<Written>> {
    let Rows { partitions, positions, identities } = targets(retries);
    sqlx::query_as(sql.retry.clone())
        .bind(partitions)
        .bind(positions)
        .bind(retries.iter().map(|retry| retry.after).collect::<Vec<_>>())
        .bind(attempts(retries))
        .bind(errors(retries))
        .bind(blocks(retries))
        .bind(identities.ids)
        .bind(identities.times)
        .bind(false)
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

fn targets(failures: &[Failure<'_>]) -> Rows {
    Rows::of(&failures.iter().map(|failure| failure.target).collect::<Vec<_>>())
}

fn attempts(failures: &[Failure<'_>]) -> Vec<i32> {
    failures.iter().map(|failure| i32::try_from(failure.attempts).unwrap_or(i32::MAX)).collect()
}

fn errors<'a>(failures: &'a [Failure<'_>]) -> Vec<&'a str> {
    failures.iter().map(|failure| &*failure.error).collect()
}

fn blocks(failures: &[Failure<'_>]) -> Vec<bool> {
    failures.iter().map(|failure| failure.block).collect()
}

/// Holds rows, or makes them due at once where nothing blocks them.
pub(crate) async fn hold(
    sql: &Statements,
    rows: &[Target],
    connection: &mut PgConnection,
) -> Result<Vec<Written>> {
    let Rows { partitions, positions, identities } = Rows::of(rows);
    sqlx::query_as(sql.hold.clone())
        .bind(partitions)
        .bind(positions)
        .bind(identities.ids)
        .bind(identities.times)
        .bind(false)
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

async fn bury(sql: &Statements, dead: &[Failure<'_>], connection: &mut PgConnection) -> Result<Vec<Written>> {
    let Rows { partitions, positions, identities } = targets(dead);
    sqlx::query_as(sql.bury.clone())
        .bind(partitions)
        .bind(positions)
        .bind(attempts(dead))
        .bind(errors(dead))
        .bind(blocks(dead))
        .bind(identities.ids)
        .bind(identities.times)
        .bind(false)
        .fetch_all(connection)
        .await
        .map_err(map_error)
}

/// Makes wait what is due behind the blocked positions.
pub(crate) async fn hold_later(sql: &Statements, keys: &Keys, connection: &mut PgConnection) -> Result<()> {
    if keys.blocked.is_empty() {
        return Ok(());
    }
    let partitions: Vec<Partition> = keys.blocked.keys().map(|(partition, _)| *partition).collect();
    sqlx::query(sql.hold_later.clone())
        .bind(numbers(&partitions))
        .bind(keys.blocked.keys().map(|(_, key)| key.as_str()).collect::<Vec<_>>())
        .bind(keys.blocked.values().copied().collect::<Vec<_>>())
        .bind(false)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}

/// Makes due what waits behind keys that were freed.
pub(crate) async fn release(sql: &Statements, keys: &Keys, connection: &mut PgConnection) -> Result<()> {
    if keys.freed.is_empty() {
        return Ok(());
    }
    let (partitions, names): (Vec<Partition>, Vec<&str>) =
        keys.freed.iter().map(|(partition, key)| (*partition, key.as_str())).unzip();
    sqlx::query(sql.release.clone())
        .bind(numbers(&partitions))
        .bind(names)
        .bind(false)
        .execute(connection)
        .await
        .map_err(map_error)?;
    Ok(())
}
