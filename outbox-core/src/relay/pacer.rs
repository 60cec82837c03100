//! When to look at the store again.
//!
//! Three moods. *Busy*: rows keep coming, so look again at once or after the shortest pause, and let nobody spend
//! a notification on us. *Slackening*: nothing came; pauses double. *Idle*: the store has been told that we sleep,
//! so a commit wakes us; look once per poll interval in case a wake-up was lost. Without wake-ups there is no
//! idle mood, and the pauses double up to the poll interval.

use std::time::Duration;

use tokio::time::Instant;

/// Nothing came for so long: time to sleep. Long enough that a steady trickle does not make us flip all the time.
const SLACK: Duration = Duration::from_millis(20);
/// So many fetches in a row brought something: notifications would cost the writers more than polling costs us.
const BUSY_STREAK: u32 = 32;
/// After so many fetches in a row that brought nothing the pauses grow. Where a few messages come in each pause, some bring none.
const GRACE: u32 = 3;

#[derive(Debug)]
pub(crate) struct Pacer {
    min: Duration,
    max: Duration,
    pause: Duration,
    /// When the latest fetch began.
    begun: Instant,
    next: Instant,
    streak: u32,
    /// How many fetches in a row have brought nothing.
    misses: u32,
    /// Whether wake-ups arrive at present.
    wakeups: bool,
    /// What the store was last told in this membership, if we know. A new member is not idle.
    told: Option<bool>,
    /// Whether commits may still be under way whose enqueuer was told that nobody sleeps.
    unnotified: bool,
}

impl Pacer {
    pub(crate) fn new(min: Duration, max: Duration, now: Instant) -> Self {
        Self {
            min,
            max,
            pause: min,
            begun: now,
            next: now,
            streak: 0,
            misses: 0,
            wakeups: false,
            told: Some(false),
            unnotified: false,
        }
    }

    /// When the next fetch is wanted.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// A fetch begins.
    pub(crate) fn fetching(&mut self, now: Instant) {
        self.begun = now;
    }

    /// Something was committed, or may have been: look now, and stay attentive for a while.
    pub(crate) fn wake(&mut self, now: Instant) {
        self.next = self.next.min(now);
        self.pause = self.min;
        self.misses = 0;
    }

    /// Wake-ups have begun or ceased to arrive.
    pub(crate) fn wakeups(&mut self, arrive: bool, now: Instant) {
        self.wakeups = arrive;
        self.wake(now);
    }

    /// A fetch brought so many rows. `next_due` is when the store will have a due row.
    pub(crate) fn fetched(&mut self, rows: usize, more: bool, next_due: Option<Duration>, now: Instant) {
        if rows > 0 {
            self.streak = self.streak.saturating_add(1);
            self.misses = 0;
            self.pause = self.min;
        } else {
            self.streak = 0;
            self.misses = self.misses.saturating_add(1);
            let certain = self.told == Some(true) && self.wakeups && !self.unnotified;
            if certain {
                self.pause = self.max;
            } else if self.misses > GRACE {
                self.pause = (self.pause * 2).min(self.max);
            }
            self.unnotified &= self.pause < self.max;
        }
        self.next = if more { now } else { self.after_pause(next_due, now) };
    }

    /// When the pause is over, which is counted from the beginning of a fetch: what is committed while it runs waits for the next one.
    /// It is as long as the fetch was in any case, so that a slow database is left alone for half of the time, and a busy one brings
    /// more at once.
    fn after_pause(&self, next_due: Option<Duration>, now: Instant) -> Instant {
        let taken = now.saturating_duration_since(self.begun);
        let paused = self.begun + self.pause;
        // A due row that is already in flight, or does not fit, is reported as due now: do not spin on it.
        let wanted = next_due.map_or(paused, |due| paused.min(now + due.max(self.min)));
        wanted.max(now + taken.min(self.max))
    }

    /// Something will be due after this time.
    pub(crate) fn expect(&mut self, after: Duration, now: Instant) {
        self.next = self.next.min(now + after.max(self.min));
    }

    /// What the store should be told, if that is news.
    pub(crate) fn announce(&self) -> Option<bool> {
        if self.told != Some(true) && self.wakeups && self.pause >= SLACK.min(self.max) {
            Some(true)
        } else if self.told != Some(false) && (self.streak >= BUSY_STREAK || !self.wakeups) {
            Some(false)
        } else {
            None
        }
    }

    /// The store was told. Enqueuers that asked just before got "no" for an answer and commit without waking us,
    /// so look again at once, and a few times more.
    pub(crate) fn announced(&mut self, idle: bool, now: Instant) {
        self.told = Some(idle);
        self.unnotified = idle;
        self.streak = 0;
        self.wake(now);
    }

    /// The membership has ended, and with it what the store was told.
    pub(crate) fn forgotten(&mut self) {
        self.told = Some(false);
        self.unnotified = false;
    }

    /// The store may have been told something of an earlier membership in this one.
    pub(crate) fn unknown(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(2);
    const MAX: Duration = Duration::from_secs(1);

    /// A fetch that takes no time.
    fn fetch(pacer: &mut Pacer, rows: usize, next_due: Option<Duration>, now: Instant) {
        pacer.fetching(now);
        pacer.fetched(rows, false, next_due, now);
    }

    #[test]
    fn without_wakeups_the_pauses_double_up_to_the_poll_interval() {
        let mut now = Instant::now();
        let mut pacer = Pacer::new(MIN, MAX, now);
        let mut pauses = Vec::new();
        for _ in 0..14 {
            fetch(&mut pacer, 0, None, now);
            pauses.push((pacer.next() - now).as_millis());
            now = pacer.next();
        }
        assert_eq!(pauses, [2, 2, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000, 1000]);
        assert_eq!(pacer.announce(), None);
        fetch(&mut pacer, 1, None, now);
        assert_eq!(pacer.next(), now + MIN);
    }

    #[test]
    fn the_time_of_a_fetch_counts_towards_the_pause_which_is_as_long_at_least() {
        let begun = Instant::now();
        let mut pacer = Pacer::new(MIN, MAX, begun);
        for (taken, next) in [
            (0, 2_000),
            (700, 2_000),
            (1_000, 2_000),
            (1_500, 3_000),
            (30_000, 60_000),
            (5_000_000, 6_000_000),
        ] {
            pacer.fetching(begun);
            pacer.fetched(1, false, None, begun + Duration::from_micros(taken));
            assert_eq!(pacer.next() - begun, Duration::from_micros(next), "after {taken} µs");
        }
        pacer.fetching(begun);
        pacer.fetched(1, true, None, begun + MIN);
        assert_eq!(pacer.next(), begun + MIN, "where more is left there is no pause");
    }

    #[test]
    fn with_wakeups_it_sleeps_when_told_and_polls_when_busy() {
        let now = Instant::now();
        let mut pacer = Pacer::new(MIN, MAX, now);
        pacer.wakeups(true, now);
        while pacer.announce().is_none() {
            fetch(&mut pacer, 0, None, now);
        }
        assert_eq!(pacer.announce(), Some(true));
        pacer.announced(true, now);
        assert_eq!(pacer.next(), now, "commits just before the announcement are looked for");
        for _ in 0..12 {
            fetch(&mut pacer, 0, None, now);
        }
        pacer.wake(now);
        fetch(&mut pacer, 0, None, now);
        assert_eq!(pacer.next(), now + MAX, "after that, a wake-up that finds nothing is followed by sleep");
        for _ in 0..BUSY_STREAK {
            fetch(&mut pacer, 1, None, now);
        }
        assert_eq!(pacer.announce(), Some(false));
    }

    #[test]
    fn what_the_store_was_told_ends_with_the_membership() {
        let now = Instant::now();
        let mut pacer = Pacer::new(MIN, MAX, now);
        pacer.wakeups(true, now);
        pacer.announced(true, now);
        for _ in 0..20 {
            fetch(&mut pacer, 0, None, now);
        }
        assert_eq!(pacer.announce(), None);
        pacer.forgotten();
        assert_eq!(pacer.announce(), Some(true), "the new member is not known to be idle");
        pacer.announced(true, now);
        pacer.unknown();
        assert_eq!(pacer.announce(), None, "it looks for messages at present");
        for _ in 0..BUSY_STREAK {
            fetch(&mut pacer, 1, None, now);
        }
        assert_eq!(pacer.announce(), Some(false));
    }

    #[test]
    fn a_due_time_shortens_the_pause_but_never_to_nothing() {
        let now = Instant::now();
        let mut pacer = Pacer::new(MIN, MAX, now);
        for _ in 0..20 {
            fetch(&mut pacer, 0, None, now);
        }
        fetch(&mut pacer, 0, Some(Duration::from_millis(30)), now);
        assert_eq!(pacer.next(), now + Duration::from_millis(30));
        fetch(&mut pacer, 0, Some(Duration::ZERO), now);
        assert_eq!(pacer.next(), now + MIN);
    }
}
