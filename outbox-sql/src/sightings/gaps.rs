//! Positions that were handed out, perhaps, and of which no row has been seen.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How often gaps are looked at in which nothing has shown up for the length of the patience.
const COLD_INTERVAL: Duration = Duration::from_secs(5);
/// More gaps than this are not remembered. The oldest are forgotten first.
const MOST_GAPS: usize = 65_536;
/// How many gaps may grow cold in one fetch: each of them costs a look at the row in front of it.
const MOST_WITNESSES: usize = 64;

/// The gaps, as ranges that do not touch each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    /// By the first position.
    gaps: BTreeMap<i64, Gap>,
    cold_looked_at: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    end: i64,
    since: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Looked at in every fetch.
    Warm,
    /// The row in front of it was found to be committed, or gone. What its transaction put into the gap shows up with
    /// the next look at the latest.
    Cooling,
    Cold,
}

/// Which gaps the next fetch looks at.
#[derive(Clone, Debug, Default)]
pub(super) struct GapLook {
    pub(super) ranges: Vec<RangeInclusive<i64>>,
    /// Positions directly in front of gaps that would grow cold now. A row of an open transaction there keeps the gap
    /// warm: it may be of a statement that has drawn the positions behind it and has not come to fill them.
    pub(super) witnesses: Vec<i64>,
}

impl Gaps {
    pub(super) fn add(&mut self, range: RangeInclusive<i64>, now: Duration) {
        if range.is_empty() {
            return;
        }
        self.gaps.insert(*range.start(), Gap { end: *range.end(), since: now, state: State::Warm });
        if self.gaps.len() > MOST_GAPS {
            self.forget_the_oldest();
        }
    }

    /// Many at once, so that it costs next to nothing for each.
    fn forget_the_oldest(&mut self) {
        let mut ages: Vec<(Duration, i64)> =
            self.gaps.iter().map(|(start, gap)| (gap.since, *start)).collect();
        let (oldest, _, _) = ages.select_nth_unstable(MOST_GAPS / 8);
        for (_, start) in oldest {
            self.gaps.remove(start);
        }
    }

    pub(super) fn contains(&self, position: i64) -> bool {
        self.gaps.range(..=position).next_back().is_some_and(|(_, gap)| gap.end >= position)
    }

    /// Takes a position out, and says whether it was in a gap.
    pub(super) fn remove(&mut self, position: i64) -> bool {
        let Some((start, gap)) = self.gaps.range(..=position).next_back().map(|(start, gap)| (*start, *gap))
        else {
            return false;
        };
        if gap.end < position {
            return false;
        }
        self.gaps.remove(&start);
        if start < position {
            self.gaps.insert(start, Gap { end: position - 1, ..gap });
        }
        if position < gap.end {
            // With another row in front of it, which may be of an open transaction.
            self.gaps.insert(position + 1, Gap { state: State::Warm, ..gap });
        }
        true
    }

    /// The gaps to look at. The cold ones are among them only now and then.
    pub(super) fn look(&mut self, now: Duration, patience: Duration) -> GapLook {
        let cold = now.saturating_sub(self.cold_looked_at) >= COLD_INTERVAL;
        if cold {
            self.cold_looked_at = now;
        }
        let mut look = GapLook::default();
        for (start, gap) in &self.gaps {
            if gap.state == State::Cold && !cold {
                continue;
            }
            look.ranges.push(*start..=gap.end);
            let old = gap.state == State::Warm && now.saturating_sub(gap.since) >= patience;
            if old && look.witnesses.len() < MOST_WITNESSES {
                look.witnesses.push(start - 1);
            }
        }
        look
    }

    /// Takes note that all gaps but the cold ones were looked at, and what has shown up was removed.
    pub(super) fn looked(&mut self) {
        for gap in self.gaps.values_mut().filter(|gap| gap.state == State::Cooling) {
            gap.state = State::Cold;
        }
    }

    /// Lets the gap behind a witness cool, or keeps it warm for another length of the patience.
    pub(super) fn judge(&mut self, witness: i64, open: bool, now: Duration) {
        if let Some(gap) = self.gaps.get_mut(&witness.saturating_add(1)) {
            if open {
                gap.since = now;
            } else {
                gap.state = State::Cooling;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_gap_is_split_by_what_shows_up_in_it() {
        let mut gaps = Gaps::default();
        gaps.add(5..=8, seconds(0));
        assert!(gaps.remove(6) && !gaps.remove(6) && !gaps.remove(9));
        let left: Vec<i64> = (0..12).filter(|position| gaps.contains(*position)).collect();
        assert_eq!(left, [5, 7, 8]);
    }

    #[test]
    fn a_gap_grows_cold_unless_the_row_in_front_of_it_is_open() {
        let mut gaps = Gaps::default();
        gaps.add(5..=8, seconds(1));
        assert!(gaps.look(seconds(9), PATIENCE).witnesses.is_empty());
        assert_eq!(gaps.look(seconds(11), PATIENCE).witnesses, [4]);
        gaps.judge(4, true, seconds(11));
        assert!(gaps.look(seconds(20), PATIENCE).witnesses.is_empty());
        assert_eq!(gaps.look(seconds(21), PATIENCE).witnesses, [4]);
        gaps.judge(4, false, seconds(21));
        assert_eq!(gaps.look(seconds(22), PATIENCE).ranges, [5..=8], "once more");
        gaps.looked();
        assert!(gaps.look(seconds(23), PATIENCE).ranges.is_empty());
        assert_eq!(gaps.look(seconds(26), PATIENCE).ranges, [5..=8], "now and then");
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let mut gaps = Gaps::default();
        for number in 0..70_000_i64 {
            gaps.add(number * 2..=number * 2, Duration::from_millis(number.unsigned_abs()));
        }
        assert!((MOST_GAPS / 2..=MOST_GAPS).contains(&gaps.gaps.len()));
        assert!(!gaps.contains(0) && gaps.contains(139_998));
    }
}
