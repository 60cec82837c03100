//! Reading ready and due rows.
//!
//! SQL Server does not tell a plain user which transactions are open. So the reader looks twice, and
//! [`Sightings`](outbox_sql::sightings) makes sense of the two; and where the database keeps no versions of rows, each
//! committed read is made twice as well, see [`whole`].

mod fetch;
mod ranges;
pub(crate) mod whole;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{Batch, FetchLimit, Partition, Reader, Result, RowId};
use outbox_sql::sightings::Sightings;

use self::fetch::{Due, Fetch, Found, Limit};
use crate::call::again;
use crate::store::{Checked, MssqlStore};

/// How long a number that was handed out and has no row is looked at in every fetch. Between the two, an `INSERT` waits
/// for nothing but the server itself, such as for a file of the database to grow.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where there are no dirty reads, so that the rows of open transactions look like that. It is as long as
/// transactions may last.
const PATIENCE_WITHOUT_DIRTY_READS: Duration = Duration::from_secs(3600);
/// As many rows as one fetch brings at most, whatever the limit.
const MOST_ROWS: usize = 2000;
/// As many rows of all partitions as one fetch looks at.
const MOST_SCANNED: usize = 8000;
/// When to look again for rows that are due and did not come.
const SOON: Duration = Duration::from_millis(5);

pub(crate) struct MssqlReader {
    store: MssqlStore,
    /// `None` until it is known which patience the server needs. Nothing has been read until then.
    sightings: Option<Sightings>,
    assigned: Vec<Partition>,
}

impl MssqlReader {
    pub(crate) fn new(store: MssqlStore) -> Self {
        Self { store, sightings: None, assigned: Vec::new() }
    }
}

#[async_trait]
impl Reader for MssqlReader {
    fn assign(&mut self, partition: Partition) {
        match &mut self.sightings {
            Some(sightings) => sightings.assign(partition),
            None => self.assigned.push(partition),
        }
    }

    fn revoke(&mut self, partition: Partition) {
        match &mut self.sightings {
            Some(sightings) => sightings.revoke(partition),
            None => self.assigned.retain(|assigned| *assigned != partition),
        }
    }

    /// Works on a copy of the state and puts it in place at the very end, so that an error or a dropped future leaves
    /// everything to be read again.
    async fn fetch(&mut self, limit: FetchLimit, in_flight: &[RowId]) -> Result<Batch> {
        let Checked { pool, reads, facts, .. } = self.store.checked().await?;
        let sightings = self.sightings.get_or_insert_with(|| {
            let patience = if facts.is_babelfish { PATIENCE_WITHOUT_DIRTY_READS } else { PATIENCE };
            let mut sightings = Sightings::new(patience);
            self.assigned.drain(..).for_each(|partition| sightings.assign(partition));
            sightings
        });
        let own: Vec<Partition> = sightings.partitions().collect();
        if own.is_empty() {
            return Ok(Batch::default());
        }
        let sightings = &*sightings;
        let in_flight: BTreeSet<i64> = in_flight.iter().map(|row| row.position.0).collect();
        let limit = Limit { messages: limit.messages.clamp(1, MOST_ROWS), bytes: limit.bytes.max(1) };
        let scanned = limit.messages.saturating_mul(facts.partitions.div_ceil(own.len())).min(MOST_SCANNED);
        let (own, in_flight) = (own.as_slice(), &in_flight);
        let (next, batch) = again(|| async move {
            let mut next = sightings.clone();
            let mut client = pool.call().await?;
            let mut fetch = Fetch { client: &mut client, reads, facts, own, in_flight };
            let sight = fetch.look(&mut next, scanned).await?;
            let some_due = sight.waiting.is_some_and(|time| time <= sight.now);
            // Neither kind may starve the other: of ready rows at most half a batch is taken if due ones are there.
            let room = if some_due { limit.half() } else { limit };
            let Found { rows, left } = fetch.ready(&mut next, &sight, room).await?;
            let next_due = sight.waiting.map(|time| time.since(sight.now));
            let mut batch = Batch { more: next.more() || left, rows, next_due };
            if some_due {
                let mut rest = limit;
                rest.spend(&batch.rows);
                let Due { found, held_up, next: later } = fetch.due(&next, rest, sight.now).await?;
                batch.more |= found.left;
                batch.next_due = match (held_up, found.left) {
                    (true, _) => Some(SOON),
                    (false, true) => Some(Duration::ZERO),
                    (false, false) => later,
                };
                batch.rows.extend(found.rows);
            }
            client.give_back();
            batch.rows.sort_unstable_by_key(|row| row.position);
            Ok((next, batch))
        })
        .await?;
        self.sightings = Some(next);
        Ok(batch)
    }
}
