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

/// A position and a serial number.
type Place = (Position, i64);

#[async_trait]
impl DeadLetters for MemoryStore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.perform(Operation::List, |state, now| {
            let mut matching =
                state.matching(filter, now).filter(|((position, _), _)| Some(*position) > after);
            let mut page: Vec<_> = matching.by_ref().take(limit).collect();
            // Those at the position of the last one belong to the page.
            let last = page.last().map(|((position, _), _)| *position);
            page.extend(matching.take_while(|((position, _), _)| Some(*position) == last));
            page.into_iter().map(|((position, _), dead)| describe(position, dead)).collect()
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
    ) -> impl Iterator<Item = (Place, &'a DeadRow)> + 'a {
        self.dead
            .iter()
            .map(|(place, dead)| (*place, dead))
            .filter(move |((position, _), dead)| matches(filter, *position, dead, now))
    }

    fn take_matching(
        &mut self,
        filter: &DeadLetterFilter,
        limit: usize,
        now: Timestamp,
    ) -> Vec<(Place, DeadRow)> {
        let places: Vec<_> = self.matching(filter, now).take(limit).map(|(place, _)| place).collect();
        places.into_iter().filter_map(|place| self.dead.remove(&place).map(|dead| (place, dead))).collect()
    }

    fn redrive(&mut self, filter: &DeadLetterFilter, limit: usize, now: Timestamp) -> u64 {
        let taken = self.take_matching(filter, limit, now);
        let count = taken.len() as u64;
        // The last one of a position has it if it is free. The others come before everything else, in their order.
        for (place, DeadRow { mut row, partition, blocks_key, .. }) in taken.into_iter().rev() {
            self.skip_position(place.0);
            let Some(slice) = self.slice_mut(partition) else { continue };
            if let (true, Some(key)) = (blocks_key, row.key()) {
                slice.unblock_by_dead_letter(key, place);
            }
            let position = slice.free_position(place.0);
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
        for (place, dead) in &taken {
            if let (true, Some(key)) = (dead.blocks_key, dead.row.key())
                && let Some(slice) = self.slice_mut(dead.partition)
            {
                slice.unblock_by_dead_letter(key, *place);
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
