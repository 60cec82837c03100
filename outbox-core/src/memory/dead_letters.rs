//! Looking after the memory store's dead letters.

use async_trait::async_trait;

use crate::dead_letter::{DeadLetter, DeadLetterFilter, DeadLetters};
use crate::error::Result;
use crate::store::{Content, Position};
use crate::time::Timestamp;

use super::faults::Operation;
use super::slice::{RELEASE_CHUNK, RowState};
use super::state::{DeadRow, State, content_id};
use super::store::MemoryStore;

#[async_trait]
impl DeadLetters for MemoryStore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.perform(Operation::List, |state, now| {
            let matching = state.matching(filter, now).filter(|(position, _)| Some(*position) > after);
            matching.take(limit).map(|(position, dead)| describe(position, dead)).collect()
        })
        .await
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let redriven =
            self.perform(Operation::Redrive, |state, now| state.redrive(filter, limit, now)).await?;
        self.wake();
        Ok(redriven)
    }

    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        let discarded =
            self.perform(Operation::Discard, |state, now| state.discard(filter, limit, now)).await?;
        self.wake();
        Ok(discarded)
    }
}

impl State {
    fn matching<'a>(
        &'a self,
        filter: &'a DeadLetterFilter,
        now: Timestamp,
    ) -> impl Iterator<Item = (Position, &'a DeadRow)> + 'a {
        self.dead
            .iter()
            .map(|(position, dead)| (*position, dead))
            .filter(move |(position, dead)| matches(filter, *position, dead, now))
    }

    fn take_matching(
        &mut self,
        filter: &DeadLetterFilter,
        limit: usize,
        now: Timestamp,
    ) -> Vec<(Position, DeadRow)> {
        let positions: Vec<_> =
            self.matching(filter, now).take(limit).map(|(position, _)| position).collect();
        positions
            .into_iter()
            .filter_map(|position| self.dead.remove(&position).map(|dead| (position, dead)))
            .collect()
    }

    fn redrive(&mut self, filter: &DeadLetterFilter, limit: usize, now: Timestamp) -> u64 {
        let taken = self.take_matching(filter, limit, now);
        let count = taken.len() as u64;
        for (position, DeadRow { mut row, partition, blocks_key, .. }) in taken {
            let Some(slice) = self.slice_mut(partition) else { continue };
            let key = row.key().map(str::to_owned);
            row.attempts = 0;
            row.state = if blocks_key && slice.is_blocked(key.as_deref(), position) {
                // An earlier message of the key still blocks it.
                RowState::Held { not_before: None }
            } else {
                RowState::Retrying { at: now, blocks: blocks_key }
            };
            slice.insert(position, row);
            if let (true, Some(key)) = (blocks_key, key) {
                slice.hold_later(&key, position);
            }
        }
        count
    }

    fn discard(&mut self, filter: &DeadLetterFilter, limit: usize, now: Timestamp) -> u64 {
        let taken = self.take_matching(filter, limit, now);
        for (position, dead) in &taken {
            if let (true, Some(key)) = (dead.blocks_key, dead.row.key())
                && let Some(slice) = self.slice_mut(dead.partition)
            {
                slice.unblock_by_dead_letter(key, *position);
                slice.release(key, now, RELEASE_CHUNK);
            }
        }
        taken.len() as u64
    }
}

fn topic(content: &Content) -> Option<&str> {
    match content {
        Content::Message(message) => Some(message.topic()),
        Content::Malformed { topic, .. } => topic.as_deref(),
    }
}

fn matches(filter: &DeadLetterFilter, position: Position, dead: &DeadRow, now: Timestamp) -> bool {
    let content = &dead.row.content;
    filter.positions.as_ref().is_none_or(|positions| positions.contains(&position))
        && filter.id.is_none_or(|id| content_id(content) == Some(id))
        && filter.topic.as_deref().is_none_or(|wanted| topic(content) == Some(wanted))
        && filter.key.as_deref().is_none_or(|key| dead.row.key() == Some(key))
        && filter.error_contains.as_ref().is_none_or(|text| dead.error.contains(text))
        && filter.older_than.is_none_or(|age| dead.died_at <= now.saturating_sub(age))
}

fn describe(position: Position, dead: &DeadRow) -> DeadLetter {
    let content = &dead.row.content;
    DeadLetter {
        position,
        id: content_id(content),
        topic: topic(content).map(str::to_owned),
        key: dead.row.key().map(str::to_owned),
        attempts: dead.row.attempts,
        error: dead.error.clone(),
        blocks_key: dead.blocks_key,
        enqueued_at: dead.row.enqueued_at,
        died_at: dead.died_at,
        message: match content {
            Content::Message(message) => Some(message.clone()),
            Content::Malformed { .. } => None,
        },
    }
}
