//! Distinguishing new messages from repeats.

use std::time::Duration;

use futures_util::future::try_join_all;
use outbox_core::{ErrorKind, MessageId, Result};

use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::inbox_harness::InboxFixture;

/// The number of consumers, of messages, and of offers of each message in the race.
const CONSUMERS: usize = 16;
const MESSAGES: usize = 1000;
const OFFERS: usize = 3;

/// Maximum time for a call that nothing blocks. Only a failing case waits this long.
const SOON: Duration = Duration::from_secs(120);
/// How long the case observes whether a call waits.
const A_WHILE: Duration = Duration::from_millis(300);

/// Accepts in a separate transaction, and repeats it if the database reports a conflict with another
/// transaction.
pub(super) async fn accept(inbox: &dyn InboxFixture, consumer: &str, id: MessageId) -> Result<bool> {
    loop {
        match accept_once(inbox, consumer, id).await {
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            result => return result,
        }
    }
}

async fn accept_once(inbox: &dyn InboxFixture, consumer: &str, id: MessageId) -> Result<bool> {
    let mut transaction = inbox.begin().await?;
    let new = transaction.accept(consumer, id).await?;
    transaction.commit().await?;
    Ok(new)
}

pub(crate) async fn a_message_is_new_once(inbox: &dyn InboxFixture) -> CaseResult {
    let id = MessageId::new();
    let mut transaction = inbox.begin().await?;
    ensure!(transaction.accept("billing", id).await?, "a message is a repeat at its first appearance");
    ensure!(!transaction.accept("billing", id).await?, "a repeat in the same transaction is new");
    transaction.commit().await?;
    for _ in 0..2 {
        ensure!(!accept(inbox, "billing", id).await?, "a repeat is new");
    }
    ensure!(accept(inbox, "billing", MessageId::new()).await?, "another message is a repeat");
    Ok(())
}

pub(crate) async fn what_is_rolled_back_is_new_again(inbox: &dyn InboxFixture) -> CaseResult {
    let id = MessageId::new();
    let mut transaction = inbox.begin().await?;
    ensure!(transaction.accept("billing", id).await?, "a message is a repeat at its first appearance");
    transaction.rollback().await?;
    let mut transaction = inbox.begin().await?;
    ensure!(
        transaction.accept("billing", id).await?,
        "a message is a repeat though its transaction was rolled back"
    );
    drop(transaction);
    ensure!(accept(inbox, "billing", id).await?, "a message is a repeat though its transaction was dropped");
    Ok(())
}

pub(crate) async fn consumers_do_not_disturb_each_other(inbox: &dyn InboxFixture) -> CaseResult {
    let id = MessageId::new();
    let longest = "ö".repeat(127);
    for consumer in ["billing", "Billing", "BILLING", "bıllıng", "' OR 1=1 --", &longest] {
        ensure!(
            accept(inbox, consumer, id).await?,
            "a message is a repeat for {consumer:?}, which never saw it"
        );
        ensure!(!accept(inbox, consumer, id).await?, "a repeat is new for {consumer:?}");
    }
    Ok(())
}

pub(crate) async fn impossible_names_are_refused(inbox: &dyn InboxFixture) -> CaseResult {
    let too_long = "x".repeat(256);
    for consumer in ["", "a\0b", &too_long] {
        let mut transaction = inbox.begin().await?;
        match transaction.accept(consumer, MessageId::new()).await {
            Err(error) => {
                ensure_eq!(error.kind(), ErrorKind::Config, "the error's kind for the name {consumer:?}")
            }
            Ok(_) => return Err(Stop::Failed(format!("the consumer's name {consumer:?} is taken"))),
        }
    }
    Ok(())
}

pub(crate) async fn a_repeat_leaves_the_transaction_usable(inbox: &dyn InboxFixture) -> CaseResult {
    let (before, repeat, after) = (MessageId::new(), MessageId::new(), MessageId::new());
    accept(inbox, "billing", repeat).await?;
    let mut transaction = inbox.begin().await?;
    let news = [
        transaction.accept("billing", before).await?,
        transaction.accept("billing", repeat).await?,
        transaction.accept("billing", after).await?,
    ];
    transaction.commit().await?;
    ensure_eq!(news, [true, false, true], "new messages in a transaction with a repeat");
    for id in [before, after] {
        ensure!(!accept(inbox, "billing", id).await?, "a message accepted next to a repeat is lost");
    }
    Ok(())
}

pub(crate) async fn who_comes_second_waits_for_the_first(inbox: &dyn InboxFixture) -> CaseResult {
    if !inbox.concurrent_writers() {
        return Err(Stop::NotApplicable("one transaction writes at a time".to_owned()));
    }
    for commits in [true, false] {
        let id = MessageId::new();
        let mut first = inbox.begin().await?;
        ensure!(first.accept("billing", id).await?, "a message is a repeat at its first appearance");
        let mut second = Box::pin(accept(inbox, "billing", id));
        if let Ok(early) = tokio::time::timeout(A_WHILE, &mut second).await {
            return Err(Stop::Failed(format!(
                "the second call returned ({early:?}) although the first transaction is open"
            )));
        }
        if commits {
            first.commit().await?
        } else {
            first.rollback().await?
        }
        let new = tokio::time::timeout(SOON, second)
            .await
            .map_err(|_| Stop::Failed("the second call never returns".to_owned()))??;
        ensure_eq!(
            new,
            !commits,
            "whether the message is new to the second transaction (the first committed: {commits})"
        );
    }
    Ok(())
}

pub(crate) async fn of_those_who_race_one_wins(inbox: &dyn InboxFixture) -> CaseResult {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let ids: Vec<MessageId> = (0..MESSAGES).map(|_| MessageId::new()).collect();
    let mut offers: Vec<MessageId> = ids.iter().flat_map(|id| [*id; OFFERS]).collect();
    // Repeats follow closely, as redeliveries do, and in random order.
    for index in 0..offers.len() {
        let other = (index + random.usize(..12)).min(offers.len() - 1);
        offers.swap(index, other);
    }
    let queue = std::sync::Mutex::new(offers);
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    let consume = async || {
        let mut won = Vec::new();
        while let Some(id) = next() {
            if accept(inbox, "billing", id).await? {
                won.push(id);
            }
        }
        Ok::<_, outbox_core::Error>(won)
    };
    let won = try_join_all((0..CONSUMERS).map(|_| consume())).await?;
    let mut won: Vec<MessageId> = won.into_iter().flatten().collect();
    let accepted = won.len();
    won.sort_unstable();
    won.dedup();
    ensure_eq!(
        (accepted, won.len()),
        (MESSAGES, MESSAGES),
        "accepted messages, and distinct ones among them (seed {seed})"
    );
    Ok(())
}
