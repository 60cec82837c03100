//! `outbox peek`: what waits.

use outbox_core::{Position, Timestamp, Waiting};

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
        return Err(Failure::failed(format!(
            "the store {} does not support inspection",
            opened.store.name()
        )));
    };
    for waiting in &found {
        if args.page.json {
            output::data(format_args!("{}\n", view::waiting(waiting, now, args.page.payload)))?;
        } else {
            output::data(format_args!("{}\n", line(waiting, now, args.page.payload)))?;
        }
    }
    if !args.page.json && found.is_empty() {
        noteln(styled(QUIET, "no messages"));
    }
    Ok(())
}

fn line(waiting: &Waiting, now: Timestamp, payload: bool) -> String {
    let mut line = format!(
        "{:>10}  {:<9}  {}  {}  {}",
        waiting.position,
        view::state(waiting, now),
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
