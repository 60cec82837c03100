//! How large calls are and how many run at once, by what the publisher achieves.
//!
//! Copies of a message arise where a call is given up before its confirms arrive. So the size of calls grows only as far
//! as they are expected to end well within the publish timeout.
//! See `docs/adr/0022-calls-as-large-as-the-publisher-is-fast.md`.

use std::time::Duration;

use super::CallId;

/// Messages in the first call. A publisher that needs a second for each of them still ends it in time.
const START: usize = 10;

#[derive(Debug)]
pub(crate) struct Speed {
    most_messages: usize,
    most_calls: usize,
    /// The time within which a call should end.
    target: Duration,
    messages: usize,
    calls: usize,
    /// Up to here the size doubles, beyond it grows by `START`: half of what was too much.
    threshold: usize,
    /// The first call that began after the last change. Earlier ones say nothing about the present size.
    since: CallId,
}

impl Speed {
    pub(crate) fn new(most_messages: usize, most_calls: usize, timeout: Duration) -> Self {
        let most_messages = most_messages.max(1);
        Self {
            most_messages,
            most_calls,
            target: timeout / 4,
            messages: START.min(most_messages),
            calls: most_calls,
            threshold: most_messages,
            since: CallId(0),
        }
    }

    /// Messages that a call may hold now.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// Calls that may run at once now.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// A call was answered. `full` says that it held as many messages as it might; `next` is the next call to begin.
    pub(crate) fn answered(
        &mut self,
        call: CallId,
        messages: usize,
        took: Duration,
        full: bool,
        next: CallId,
    ) {
        if call < self.since {
            return;
        }
        let (messages_before, calls_before) = (self.messages, self.calls);
        // If all of the time was spent on the messages one after the other.
        let fit = (messages as f64 * self.target.as_secs_f64() / took.as_secs_f64().max(1e-9)) as usize;
        if took > self.target * 2 {
            // A publisher whose calls take long whatever they hold would only get slower by smaller ones.
            self.messages = self.messages.min(fit.max(START.min(self.messages)));
        } else if full && took <= self.target {
            self.calls = (self.calls + 1).min(self.most_calls);
            let grown = if messages < self.threshold {
                (messages * 2).min(self.threshold.max(messages + 1))
            } else {
                messages + START
            };
            self.messages = self.messages.max(grown.min(fit).min(self.most_messages));
        }
        if (self.messages, self.calls) != (messages_before, calls_before) {
            self.since = next;
        }
    }

    /// A call was not answered in time, or the broker asked for fewer messages. `probe` says that it was sent to see
    /// whether the broker answers at all.
    pub(crate) fn overwhelmed(&mut self, call: CallId, probe: bool, next: CallId) {
        if call < self.since {
            return;
        }
        if self.messages == 1 && probe {
            self.calls = (self.calls / 2).max(1);
        }
        self.threshold = (self.messages / 2).max(START);
        self.messages = if self.messages > START { START } else { (self.messages / 2).max(1) };
        self.since = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Answers one call after the other by the time that they take. Returns the sizes.
    fn sizes(speed: &mut Speed, calls: u64, took: impl Fn(usize) -> Duration) -> Vec<usize> {
        let first = speed.since.0;
        let run = |call| {
            let messages = speed.messages();
            speed.answered(CallId(call), messages, took(messages), true, CallId(call + 1));
            messages
        };
        (first..first + calls).map(run).collect()
    }

    #[test]
    fn a_fast_publisher_gets_full_calls_after_six() {
        let mut speed = Speed::new(500, 4, TIMEOUT);
        let fast = |_| Duration::from_millis(20);
        assert_eq!(sizes(&mut speed, 8, fast), [10, 20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(Speed::new(5, 4, TIMEOUT).messages(), 5);
    }

    #[test]
    fn a_slow_publisher_gets_what_it_manages_within_a_quarter_of_the_timeout() {
        let mut speed = Speed::new(500, 4, TIMEOUT);
        let slow = |messages| Duration::from_millis(150) * messages as u32;
        assert_eq!(sizes(&mut speed, 4, slow), [10, 16, 16, 16]);
        let slower = |messages| Duration::from_millis(600) * messages as u32;
        assert_eq!(sizes(&mut speed, 3, slower), [16, 10, 10], "and less when it gets slower");
    }

    #[test]
    fn the_size_falls_once_for_calls_that_ran_together_and_then_grows_by_steps() {
        let mut speed = Speed::new(500, 4, TIMEOUT);
        let fast = |_| Duration::from_millis(1);
        sizes(&mut speed, 10, fast);
        for call in 20..24 {
            speed.overwhelmed(CallId(call), false, CallId(24));
        }
        assert_eq!(sizes(&mut speed, 8, fast), [10, 20, 40, 80, 160, 250, 260, 270]);
        for call in 40..44 {
            speed.overwhelmed(CallId(call), true, CallId(call + 1));
        }
        assert_eq!((speed.messages(), speed.calls()), (1, 4));
        speed.overwhelmed(CallId(44), true, CallId(45));
        assert_eq!((speed.messages(), speed.calls()), (1, 2));
        speed.answered(CallId(45), 1, Duration::from_millis(1), true, CallId(46));
        assert_eq!((speed.messages(), speed.calls()), (2, 3));
    }

    #[test]
    fn calls_that_are_not_full_prove_nothing() {
        let mut speed = Speed::new(500, 4, TIMEOUT);
        speed.answered(CallId(0), 3, Duration::from_millis(1), false, CallId(1));
        assert_eq!(speed.messages(), 10);
    }
}
