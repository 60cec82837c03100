//! `outbox peek`: what waits.

use outbox_core::{Position, Timestamp, Waiting};
use serde_json::{Map, Value};

use crate::cli::PeekArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::outboxes;
use crate::output::{self, QUIET, noteln, plain, styled};
use crate::view;

pub(crate) async fn run(config: &Config, args: &PeekArgs) -> Result<(), Failure> {
    let route = outboxes::only(config, args.route.route.as_deref())?;
    let opened = outboxes::open(route).await?;
    let after = args.page.after.map(Position);
    let found = match opened.store.inspection() {
        Some(inspection) => {
            // Only the database's clock says whose time has come.
            let now = inspection.clock().await?.unwrap_or_else(Timestamp::now);
            inspection.peek(after, args.page.limit).await?.map(|found| (now, found))
        }
        None => None,
    };
    opened.outbox.close().await;
    let Some((now, found)) = found else {
        return Err(Failure::failed(format!("the store {} has no way to look at waiting messages", opened.store.name())));
    };
    for waiting in &found {
        if args.page.json {
            output::data(format_args!("{}\n", json(waiting, now, args.page.payload)))?;
        } else {
            output::data(format_args!("{}\n", line(waiting, now, args.page.payload)))?;
        }
    }
    if !args.page.json && found.is_empty() {
        noteln(styled(QUIET, "nothing waits"));
    }
    Ok(())
}

/// What a message waits for.
fn state(waiting: &Waiting, now: Timestamp) -> &'static str {
    match waiting.available_at {
        None => "ready",
        Some(at) if at <= now => "due",
        // Held messages are given a time that never comes.
        Some(at) if at.since(now).as_secs() > 100 * 365 * 86_400 => "held",
        Some(_) if waiting.blocks_key || waiting.attempts > 0 => "retrying",
        Some(_) => "scheduled",
    }
}

fn line(waiting: &Waiting, now: Timestamp, payload: bool) -> String {
    let mut line = format!(
        "{:>10}  {:<9}  {}  {}  {}",
        waiting.position,
        state(waiting, now),
        waiting.enqueued_at,
        plain(waiting.topic.as_deref().unwrap_or("(unreadable)")),
        plain(waiting.key.as_deref().unwrap_or("-")),
    );
    if let Some(error) = &waiting.error {
        line.push_str(&format!("  attempt {}: {}", waiting.attempts, plain(error)));
    }
    if let (true, Some(message)) = (payload, &waiting.message) {
        line.push_str(&format!("\n{:>12}{}", "", plain(&view::payload(message))));
    }
    line
}

fn json(waiting: &Waiting, now: Timestamp, payload: bool) -> Value {
    let mut json = Map::new();
    json.insert("position".to_owned(), waiting.position.0.into());
    json.insert("partition".to_owned(), waiting.partition.0.into());
    json.insert("state".to_owned(), state(waiting, now).into());
    json.insert("id".to_owned(), waiting.id.map(|id| id.to_string()).into());
    json.insert("topic".to_owned(), waiting.topic.clone().into());
    json.insert("key".to_owned(), waiting.key.clone().into());
    json.insert("attempts".to_owned(), waiting.attempts.into());
    json.insert("error".to_owned(), waiting.error.clone().into());
    json.insert("enqueued_at".to_owned(), waiting.enqueued_at.to_string().into());
    if let (true, Some(message)) = (payload, &waiting.message) {
        view::content(message, &mut json);
    }
    Value::Object(json)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::Partition;

    use super::*;

    #[test]
    fn every_state_has_its_name() {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let waiting = |at: Option<Timestamp>, attempts| {
            let mut waiting = Waiting::new(Position(1), Partition(0), now);
            (waiting.available_at, waiting.attempts) = (at, attempts);
            state(&waiting, now)
        };
        let later = Some(now.saturating_add(Duration::from_secs(60)));
        assert_eq!(waiting(None, 0), "ready");
        assert_eq!(waiting(Some(now), 1), "due");
        assert_eq!(waiting(later, 1), "retrying");
        assert_eq!(waiting(later, 0), "scheduled");
        assert_eq!(waiting(Some(Timestamp::from_micros(i64::MAX)), 0), "held");
    }
}
