//! Looking at the memory store.

use async_trait::async_trait;

use crate::error::Result;
use crate::inspection::{Finding, Group, Inspection, Waiting};
use crate::store::{Partition, Position};
use crate::time::Timestamp;

use super::faults::Operation;
use super::slice::{Row, RowState, Slice};
use super::state::State;
use super::store::MemoryStore;

/// Of rows that wait for others, as in the SQL stores.
const NEVER: Timestamp = Timestamp::from_micros(i64::MAX);

#[async_trait]
impl Inspection for MemoryStore {
    async fn group(&self) -> Result<Option<Group>> {
        self.perform(Operation::Inspect, |state, now| Some(state.leases.group(now))).await
    }

    async fn peek(&self, after: Option<Position>, limit: usize) -> Result<Option<Vec<Waiting>>> {
        self.perform(Operation::Inspect, |state, _| Some(state.peek(after, limit))).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>> {
        self.perform(Operation::Inspect, |_, now| Some(now)).await
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.perform(Operation::Inspect, |_, _| {
            vec![Finding::good("server", "memory, which ends with this process")]
        })
        .await
    }
}

impl State {
    fn peek(&self, after: Option<Position>, limit: usize) -> Vec<Waiting> {
        let of_slice = |(partition, slice): (Partition, &Slice)| {
            let rows = slice.rows().filter(|(position, _)| Some(*position) > after);
            rows.map(|(position, row)| describe(position, partition, row)).collect::<Vec<_>>()
        };
        let mut found: Vec<_> = (0..).map(Partition).zip(&self.slices).flat_map(of_slice).collect();
        found.sort_unstable_by_key(|waiting| waiting.position);
        found.truncate(limit);
        found
    }
}

fn describe(position: Position, partition: Partition, row: &Row) -> Waiting {
    let mut waiting = Waiting::new(position, partition, row.enqueued_at);
    waiting.attempts = row.attempts;
    waiting.error.clone_from(&row.last_error);
    waiting.blocks_key = row.state.blocks();
    waiting.available_at = match row.state {
        RowState::Ready | RowState::Released => None,
        RowState::Scheduled { at } | RowState::Retrying { at, .. } => Some(at),
        RowState::Held { .. } => Some(NEVER),
    };
    waiting.with(row.content.clone())
}
