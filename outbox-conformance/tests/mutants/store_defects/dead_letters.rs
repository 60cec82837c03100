//! What the broken stores do to dead letters.

use async_trait::async_trait;
use outbox_core::{Content, DeadLetter, DeadLetterFilter, DeadLetters, Position, Result};

use super::{Broken, Defect};

impl Broken {
    fn spoil_filter(&self, filter: &DeadLetterFilter) -> DeadLetterFilter {
        let mut filter = filter.clone();
        match self.defect {
            Defect::FiltersNoIds => filter.id = None,
            Defect::FiltersNoTopics => filter.topic = None,
            Defect::FiltersNoKeys => filter.key = None,
            Defect::FiltersNoErrors => filter.error_contains = None,
            Defect::FiltersNoPositions => filter.positions = None,
            Defect::FiltersNoAges => filter.older_than = None,
            _ => {}
        }
        filter
    }

    async fn first(&self, filter: &DeadLetterFilter, limit: usize) -> Result<Vec<DeadLetter>> {
        DeadLetters::list(&self.inner, filter, None, limit).await
    }
}

#[async_trait]
impl DeadLetters for Broken {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let filter = self.spoil_filter(filter);
        let after = if self.defect == Defect::ListsFromTheStart { None } else { after };
        let limit = if self.defect == Defect::ListsWithoutLimit { usize::MAX } else { limit };
        let mut listed = DeadLetters::list(&self.inner, &filter, after, limit).await?;
        for dead in &mut listed {
            match self.defect {
                Defect::ListsNoMessages => dead.message = None,
                Defect::ListsShortErrors => dead.error.truncate(10),
                _ => {}
            }
        }
        Ok(listed)
    }

    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        match self.defect {
            Defect::RedrivesToTheEnd => {
                let dead = self.first(filter, limit).await?;
                let count = self.inner.discard(filter, limit).await?;
                for message in dead.into_iter().filter_map(|dead| dead.message) {
                    self.inner.enqueue(&message);
                }
                Ok(count)
            }
            Defect::RedrivesOverMessages => {
                let dead = self.first(filter, limit).await?;
                for (position, content) in self.inner.undelivered() {
                    if let (true, Content::Message(message)) =
                        (dead.iter().any(|dead| dead.position == position), content)
                    {
                        self.inner.delete_by_hand(message.id());
                    }
                }
                self.inner.redrive(filter, limit).await
            }
            Defect::RedrivesBehindMessages => {
                let taken: Vec<_> =
                    self.inner.undelivered().into_iter().map(|(position, _)| position).collect();
                let dead = self.first(filter, limit).await?;
                let count = self.inner.redrive(filter, limit).await?;
                for message in dead.into_iter().filter(|dead| taken.contains(&dead.position)) {
                    if let Some(message) = message.message {
                        self.inner.delete_by_hand(message.id());
                        self.inner.enqueue(&message);
                    }
                }
                Ok(count)
            }
            // Whatever is in front of them goes out of the way.
            Defect::RedrivesAtTheirPeril => {
                let last = self.first(filter, limit).await?.pop().map(|dead| dead.position);
                for dead in self.first(&DeadLetterFilter::all(), usize::MAX).await? {
                    if Some(dead.position) < last {
                        self.inner.redrive(&DeadLetterFilter::all().positions([dead.position]), 1).await?;
                    }
                }
                self.inner.redrive(filter, limit).await
            }
            Defect::RedrivesWithoutLimit => self.inner.redrive(filter, usize::MAX).await,
            Defect::CountsRedrivesOnly => Ok(self.first(filter, limit).await?.len() as u64),
            _ => self.inner.redrive(filter, limit).await,
        }
    }

    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
        match self.defect {
            Defect::DiscardsNothing => Ok(self.first(filter, limit).await?.len() as u64),
            Defect::DiscardsWithoutRelease => {
                let dead = self.first(filter, limit).await?;
                for id in dead.iter().filter_map(|dead| dead.id) {
                    self.inner.delete_by_hand(id);
                }
                Ok(dead.len() as u64)
            }
            Defect::DiscardsWithoutLimit => self.inner.discard(filter, usize::MAX).await,
            _ => self.inner.discard(filter, limit).await,
        }
    }
}
