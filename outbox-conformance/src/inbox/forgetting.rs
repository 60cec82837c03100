//! Purging old entries.

use std::time::Duration;

use outbox_core::MessageId;

use super::accepting::accept;
use crate::case::{CaseResult, ensure_eq};
use crate::inbox_harness::InboxFixture;

/// Longer than any test runs, however slow the machine is.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn purging_is_bounded(inbox: &dyn InboxFixture) -> CaseResult {
    for _ in 0..10 {
        accept(inbox, "billing", MessageId::new()).await?;
    }
    let mut purged = Vec::new();
    for _ in 0..4 {
        purged.push(inbox.purge(Duration::ZERO, 4).await?);
    }
    ensure_eq!(purged, [4, 4, 2, 0], "entries that were purged, four at a time");
    Ok(())
}

pub(crate) async fn young_entries_are_kept(inbox: &dyn InboxFixture) -> CaseResult {
    let id = MessageId::new();
    accept(inbox, "billing", id).await?;
    ensure_eq!(inbox.purge(A_DAY, 100).await?, 0, "entries that were purged too early");
    ensure_eq!(accept(inbox, "billing", id).await?, false, "whether a repeat is new");
    Ok(())
}

pub(crate) async fn what_is_purged_is_new_again(inbox: &dyn InboxFixture) -> CaseResult {
    let id = MessageId::new();
    accept(inbox, "billing", id).await?;
    ensure_eq!(inbox.purge(Duration::ZERO, 100).await?, 1, "entries that were purged");
    ensure_eq!(
        accept(inbox, "billing", id).await?,
        true,
        "whether a message is new after its entry was purged"
    );
    Ok(())
}
