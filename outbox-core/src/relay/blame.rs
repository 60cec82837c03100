//! Which message may be the reason that calls fail as a whole.
//!
//! A broker that is down and a message that breaks the connection look the same. What tells them apart is the next
//! call, with another message: if it is answered, the broker is there. See `docs/adr/0021-blame-by-the-next-call.md`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::CallId;
use crate::error::Error;
use crate::identity::RowId;

/// How often a message is narrowed down, by a smaller call each time, before it is sent alone.
const ALONE: u8 = 3;
/// A call with a message that came back holds this part of the messages of an ordinary call, as a power of two.
const NARROWER: u32 = 3;
/// Blamed messages to remember. They are sent alone from the start when they are tried again.
const REMEMBERED: usize = 1_000;

/// What speaks against a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Whether it has failed, in a call that failed as a whole or by itself.
    pub(crate) has_failed: bool,
    /// Whether it failed alone once and the next call was answered.
    pub(crate) is_accused: bool,
    level: u8,
}

impl Record {
    /// The record of a fetched message with this many counted attempts.
    pub(crate) fn new(attempts: u32) -> Self {
        Self { has_failed: attempts > 0, ..Self::default() }
    }

    /// The record of a message that was blamed before.
    pub(crate) fn blamed() -> Self {
        Self { has_failed: true, is_accused: false, level: ALONE }
    }

    /// It came back from a call that failed as a whole.
    pub(crate) fn came_back(&mut self, alone: bool) {
        self.has_failed = true;
        self.level = if alone { ALONE } else { (self.level + 1).min(ALONE) };
    }

    /// The broker was down: what had failed meanwhile says nothing about the message.
    pub(crate) fn forgive(&mut self) {
        self.is_accused = false;
        self.level = 0;
    }

    /// Whether it is to be in flight alone, since it may take other calls down with it.
    pub(crate) fn is_alone(self) -> bool {
        self.level >= ALONE
    }

    /// Messages that may be in its call, given the size of an ordinary one.
    pub(crate) fn limit(self, messages: usize) -> usize {
        if self.is_alone() { 1 } else { (messages >> (NARROWER * u32::from(self.level))).max(1) }
    }

    /// Whether the two may be in one call.
    pub(crate) fn goes_with(self, other: Self) -> bool {
        self.level == other.level
    }

    /// Orders candidates for a probe. The lowest is the least suspicious.
    pub(crate) fn rank(self) -> (bool, u8) {
        (self.has_failed, self.level)
    }
}

/// A message that was alone in a call that failed as a whole.
#[derive(Debug)]
pub(crate) struct Suspect {
    pub(crate) row: RowId,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) error: Error,
    pub(crate) publish_time: Duration,
    /// The call in which it failed.
    pub(crate) call: CallId,
    /// The first call that begins after the failure. Earlier ones prove nothing.
    pub(crate) judge: CallId,
}

/// The messages that are suspected now.
#[derive(Debug, Default)]
pub(crate) struct Blame {
    suspects: Vec<Suspect>,
    /// The message that was blamed last, if no ordinary call was answered since.
    last: Option<RowId>,
    blamed: BTreeSet<RowId>,
    /// Messages that were in flight again when the call after their failure was answered.
    judged: BTreeSet<RowId>,
}

impl Blame {
    /// A message failed alone. Clears those that failed before this call began.
    pub(crate) fn suspect(&mut self, suspect: Suspect) {
        self.suspects.retain(|earlier| earlier.judge > suspect.call);
        self.suspects.push(suspect);
    }

    /// A probe was answered. Returns the message that failed alone before it, if it was the only one.
    pub(crate) fn judged_by(&mut self, probe: CallId) -> Option<Suspect> {
        let suspect = self.suspects.pop();
        let others = std::mem::take(&mut self.suspects);
        suspect.filter(|suspect| others.is_empty() && suspect.judge <= probe)
    }

    /// The broker is down, so nothing is the fault of a message.
    pub(crate) fn clear(&mut self) {
        self.suspects.clear();
        self.judged.clear();
    }

    /// The message is in flight again, so that its outcome comes first.
    pub(crate) fn judge_later(&mut self, row: RowId) {
        self.judged.insert(row);
    }

    /// Whether the call after the last failure of this message was answered while it was in flight again.
    pub(crate) fn was_judged(&mut self, row: RowId) -> bool {
        !self.judged.is_empty() && self.judged.remove(&row)
    }

    /// Blames a message, unless it is the second one in a row: then it is the broker, and nothing is blamed.
    pub(crate) fn blame(&mut self, row: RowId) -> bool {
        if self.last.take().is_some_and(|last| last != row) {
            return false;
        }
        self.last = Some(row);
        self.blamed.insert(row);
        if self.blamed.len() > REMEMBERED {
            self.blamed.pop_first();
        }
        true
    }

    /// An ordinary call was answered.
    pub(crate) fn answered(&mut self) {
        self.last = None;
    }

    /// The record of a message that was fetched.
    pub(crate) fn record(&self, row: RowId, attempts: u32) -> Record {
        if attempts > 0 && self.blamed.contains(&row) { Record::blamed() } else { Record::new(attempts) }
    }

    /// Whether the message was blamed before.
    pub(crate) fn remembers(&self, row: RowId) -> bool {
        self.blamed.contains(&row)
    }

    /// The message was delivered or is dead.
    pub(crate) fn forget(&mut self, row: RowId) {
        self.blamed.remove(&row);
        self.judged.remove(&row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::identity::Identity;
    use crate::store::Position;

    fn row(position: i64) -> RowId {
        RowId::new(Position(position), Identity::new([0; 16], position))
    }

    fn suspect(position: i64, call: u64, judge: u64) -> Suspect {
        Suspect {
            row: row(position),
            key: None,
            error: Error::new(ErrorKind::Interrupted, "gone"),
            publish_time: Duration::ZERO,
            call: CallId(call),
            judge: CallId(judge),
        }
    }

    fn judged(blame: &mut Blame, probe: u64) -> Option<i64> {
        blame.judged_by(CallId(probe)).map(|suspect| suspect.row.position.0)
    }

    #[test]
    fn only_a_call_that_began_after_the_failure_decides() {
        let mut blame = Blame::default();
        blame.suspect(suspect(1, 4, 6));
        assert_eq!(judged(&mut blame, 5), None);
        blame.suspect(suspect(1, 4, 6));
        assert_eq!(judged(&mut blame, 6), Some(1));
        assert_eq!(judged(&mut blame, 7), None, "it was decided");
    }

    #[test]
    fn a_failure_of_the_next_call_clears_and_one_at_the_same_time_does_not() {
        let mut blame = Blame::default();
        blame.suspect(suspect(1, 4, 6));
        blame.suspect(suspect(2, 6, 7));
        assert_eq!(judged(&mut blame, 7), Some(2), "the first one was cleared by the second");
        blame.suspect(suspect(1, 7, 9));
        blame.suspect(suspect(2, 8, 9));
        assert_eq!(judged(&mut blame, 9), None, "two calls failed together");
    }

    #[test]
    fn two_blamed_messages_in_a_row_mean_the_broker() {
        let mut blame = Blame::default();
        assert!(blame.blame(row(1)));
        assert!(blame.blame(row(1)), "the same one again");
        assert!(!blame.blame(row(2)));
        assert!(blame.blame(row(2)));
        blame.answered();
        assert!(blame.blame(row(1)));
    }

    #[test]
    fn a_message_is_narrowed_down_in_four_calls() {
        let mut record = Record::new(0);
        let mut sizes = vec![record.limit(500)];
        while !record.is_alone() {
            record.came_back(false);
            sizes.push(record.limit(500));
        }
        assert_eq!(sizes, [500, 62, 7, 1]);
        record.forgive();
        assert_eq!((record.limit(500), record.has_failed), (500, true));
    }
}
