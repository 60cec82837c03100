//! The publisher's one connection: dialled when needed, shared by all calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::dial::{DialFailure, Dialer};
use crate::link::Link;

#[derive(Debug)]
pub(crate) struct Connections {
    dialer: Dialer,
    /// Attempts that have failed so far.
    failures: AtomicU64,
    slot: Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    link: Option<Arc<Link>>,
    /// How the latest attempt failed, and its number.
    failure: Option<(u64, DialFailure)>,
}

impl Connections {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer, failures: AtomicU64::new(0), slot: Mutex::default() }
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// The connection, after dialling if there is none.
    ///
    /// Calls at the same time share one attempt, also when it fails: with a broker that does not answer, they would
    /// otherwise wait for one timeout after the other. If the call that dials is dropped, the next one takes over.
    pub(crate) async fn get(&self) -> Result<Arc<Link>, DialFailure> {
        let failed_before = self.failures.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        if let Some(link) = slot.link.as_ref().filter(|link| link.is_usable()) {
            return Ok(Arc::clone(link));
        }
        slot.link = None;
        // An attempt that ended while we waited for it was ours as well.
        if let Some((number, failure)) = &slot.failure
            && *number > failed_before
        {
            return Err(failure.clone());
        }
        match self.dialer.dial().await {
            Ok(link) => {
                let link = Arc::new(link);
                *slot = Slot { link: Some(Arc::clone(&link)), failure: None };
                Ok(link)
            }
            Err(failure) => {
                let number = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
                slot.failure = Some((number, failure.clone()));
                Err(failure)
            }
        }
    }

    /// Closes the connection. The next call makes a new one.
    pub(crate) async fn close(&self) {
        let link = self.slot.lock().await.link.take();
        if let Some(link) = link {
            link.close().await;
        }
    }
}
