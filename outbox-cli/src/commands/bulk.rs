//! Redriving and discarding, a few hundred at a time.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use outbox_core::{DeadLetterFilter, DeadLetters, Position, Result};

/// Dead letters of one transaction. Larger ones hold locks that a relay waits for.
pub(crate) const BATCH: usize = 500;

/// What is to be done with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Redrive,
    Discard,
}

impl Action {
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Redrive => "redriven",
            Self::Discard => "discarded",
        }
    }
}

/// Does it with every dead letter that matches now, once: one that dies again meanwhile is not redriven again.
pub(crate) async fn run(
    letters: &dyn DeadLetters,
    action: Action,
    filter: &DeadLetterFilter,
    mut done: impl FnMut(u64),
) -> Result<u64> {
    let (mut total, mut after) = (0, None);
    loop {
        let page: Vec<Position> =
            letters.list(filter, after, BATCH).await?.iter().map(|letter| letter.position).collect();
        let Some(last) = page.last() else { return Ok(total) };
        after = Some(*last);
        // All dead letters of the last position belong to the page.
        let (full, most) = (page.len() >= BATCH, page.len().max(BATCH));
        // With the other conditions as well, because somebody else may have been here in between.
        let these = filter.clone().positions(page);
        total += match action {
            Action::Redrive => letters.redrive(&these, most).await?,
            Action::Discard => letters.discard(&these, most).await?,
        };
        done(total);
        if !full {
            return Ok(total);
        }
    }
}

/// How far it is, on the standard error if that is a terminal.
pub(crate) fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len}, {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use outbox_core::{DeadLetter, Timestamp};

    use super::*;

    /// Dead letters that die again as soon as they are redriven.
    struct Undead {
        redriven: Mutex<Vec<i64>>,
    }

    #[async_trait]
    impl DeadLetters for Undead {
        async fn list(
            &self,
            _: &DeadLetterFilter,
            after: Option<Position>,
            limit: usize,
        ) -> Result<Vec<DeadLetter>> {
            let first = after.map_or(1, |after| after.0 + 1);
            let letter = |position| DeadLetter {
                position: Position(position),
                id: None,
                topic: None,
                key: None,
                attempts: 1,
                error: String::new(),
                blocks_key: false,
                enqueued_at: Timestamp::from_micros(0),
                died_at: Timestamp::from_micros(0),
                message: None,
            };
            Ok((first..=1_200).take(limit).map(letter).collect())
        }

        async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> Result<u64> {
            let positions = filter.positions.clone().unwrap();
            assert!(positions.len() <= limit && filter.topic.as_deref() == Some("t"));
            self.redriven.lock().unwrap().extend(positions.iter().map(|position| position.0));
            Ok(positions.len() as u64)
        }

        async fn discard(&self, _: &DeadLetterFilter, _: usize) -> Result<u64> {
            panic!("this change was not requested")
        }
    }

    #[tokio::test]
    async fn what_dies_again_meanwhile_is_redriven_once() {
        let letters = Undead { redriven: Mutex::default() };
        let mut steps = Vec::new();
        let filter = DeadLetterFilter::all().topic("t");
        let total = run(&letters, Action::Redrive, &filter, |done| steps.push(done)).await.unwrap();
        assert_eq!((total, steps), (1_200, vec![500, 1_000, 1_200]));
        let redriven = letters.redriven.into_inner().unwrap();
        assert_eq!((redriven.len(), redriven.iter().collect::<HashSet<_>>().len()), (1_200, 1_200));
    }

    #[tokio::test]
    async fn counting_by_listing_stops_at_the_limit() {
        let letters = Undead { redriven: Mutex::default() };
        let filter = DeadLetterFilter::default();
        let count = |limit| letters.count(&filter, limit);
        let pairs = [count(10_000).await.unwrap(), count(1_200).await.unwrap(), count(1_199).await.unwrap()];
        let pairs = pairs.map(|count| (count.value, count.at_least));
        assert_eq!(pairs, [(1_200, false), (1_200, false), (1_199, true)]);
    }
}
