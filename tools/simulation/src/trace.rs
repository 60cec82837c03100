//! The sequence of events: as a number that two equal runs share, and optionally as text.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// A record of all calls of a run. Clones share it.
#[derive(Clone, Debug)]
pub struct Trace {
    inner: Arc<Mutex<Inner>>,
    has_lines: bool,
}

#[derive(Debug)]
struct Inner {
    began: Instant,
    hash: u64,
    lines: Option<Vec<String>>,
}

/// A step of a hash in the manner of FNV, by words, with the high bits brought back to where they count.
fn mixed(hash: u64, number: u64) -> u64 {
    let product = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

impl Trace {
    /// With `lines`, the events are also kept as text.
    pub(crate) fn new(lines: bool) -> Self {
        let inner = Inner { began: Instant::now(), hash: 0xcbf2_9ce4_8422_2325, lines: lines.then(Vec::new) };
        Self { inner: Arc::new(Mutex::new(inner)), has_lines: lines }
    }

    /// `who` is a relay, or 0 for the environment.
    pub(crate) fn note(&self, who: u32, what: &'static str, detail: u64) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let at = inner.began.elapsed();
        let numbers =
            [at.as_micros() as u64, u64::from(who), detail].into_iter().chain(what.bytes().map(u64::from));
        inner.hash = numbers.fold(inner.hash, mixed);
        if let Some(lines) = &mut inner.lines {
            lines.push(format!("{:>9.3} s  relay {who}  {what} {detail}", at.as_secs_f64()));
        }
    }

    /// Only for the text, and only if it is kept.
    pub(crate) fn tell(&self, who: u32, text: impl FnOnce() -> String) {
        // Called for every row, and nearly always without effect.
        if !self.has_lines {
            return;
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let at = inner.began.elapsed();
        if let Some(lines) = &mut inner.lines {
            lines.push(format!("{:>9.3} s  relay {who}    {}", at.as_secs_f64(), text()));
        }
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).hash
    }

    /// The text, if it was kept.
    pub fn lines(&self) -> Vec<String> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).lines.clone().unwrap_or_default()
    }
}
