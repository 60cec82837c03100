//! `outbox status`: how an outbox is doing.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use outbox_core::{Error, Group, RelayId, Stats};
use serde_json::json;

use crate::cli::StatusArgs;
use crate::config::Config;
use crate::exit::Failure;
use crate::outboxes::{self, Opened};
use crate::output::{self, BAD, GOOD, HEADING, WARNING, styled};
use crate::view;

/// Takes the terminal's screen for a redraw: to the corner, and nothing left below.
const REDRAW: &str = "\x1b[H\x1b[J";

/// What was seen at one moment.
struct Look {
    at: Instant,
    stats: Stats,
    group: Option<Group>,
}

pub(crate) async fn run(config: &Config, args: &StatusArgs) -> Result<(), Failure> {
    let names: Vec<_> = args.route.route.iter().cloned().collect();
    let mut opened = Vec::new();
    for route in outboxes::select(config, &names)? {
        opened.push(outboxes::open(route).await.map_err(|error| Failure::from(error).of(&route.name))?);
    }
    let mut before: Vec<Option<Look>> = opened.iter().map(|_| None).collect();
    let mut timer = tokio::time::interval(args.interval.max(Duration::from_millis(100)));
    let redraw = args.watch && !args.json && std::io::stdout().is_terminal();
    loop {
        timer.tick().await;
        let mut text = String::new();
        for (one, before) in opened.iter().zip(&mut before) {
            match look(one, args.limit).await {
                Ok(look) => {
                    text.push_str(&show(one, &look, before.as_ref(), args.json));
                    *before = Some(look);
                }
                // Who watches wants to see it come back.
                Err(error) if args.watch => {
                    *before = None;
                    text.push_str(&trouble(one, &error.report(), args.json));
                }
                Err(error) => return Err(Failure::from(error).of(&one.route.name)),
            }
        }
        output::data(format_args!("{}{text}", if redraw { REDRAW } else { "" }))?;
        if !args.watch {
            break;
        }
    }
    for one in &opened {
        one.outbox.close().await;
    }
    Ok(())
}

async fn look(opened: &Opened<'_>, limit: u64) -> Result<Look, Error> {
    let stats = opened.store.stats(limit).await?;
    let group = match opened.store.inspection() {
        Some(inspection) => inspection.group().await?,
        None => None,
    };
    Ok(Look { at: Instant::now(), stats, group })
}

/// How many partitions each relay holds, and how many nobody does.
fn shares(group: &Group) -> (Vec<(RelayId, usize)>, usize) {
    let held = |relay| group.partitions.iter().filter(|(_, owner)| *owner == Some(relay)).count();
    let free = group.partitions.iter().filter(|(_, owner)| owner.is_none()).count();
    (group.relays.iter().map(|relay| (*relay, held(*relay))).collect(), free)
}

fn show(opened: &Opened<'_>, look: &Look, before: Option<&Look>, json: bool) -> String {
    let Stats { backlog, dead_letters, lag } = look.stats;
    let change = before.and_then(|before| change(before, look));
    if json {
        let line = json!({
            "route": opened.route.name,
            "store": opened.route.store.place(),
            "backlog": view::count(backlog),
            "dead_letters": view::count(dead_letters),
            "lag_seconds": lag.map(|lag| lag.as_secs_f64()),
            "backlog_change_per_second": change,
            "relays": look.group.as_ref().map(|group| {
                let relays = shares(group).0.into_iter();
                relays.map(|(id, held)| json!({ "id": id.to_string(), "partitions": held })).collect::<Vec<_>>()
            }),
            "partitions": look.group.as_ref().map(|group| group.partitions.len()),
            "free_partitions": look.group.as_ref().map(|group| shares(group).1),
        });
        return format!("{line}\n");
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<13} {value}");
    };
    let waiting = if backlog.value == 0 { GOOD } else { WARNING };
    let speed = change.map_or(String::new(), |change| format!(" ({change:+.1}/s)"));
    line("backlog", styled(waiting, format_args!("{backlog}{speed}")));
    let lag = lag.map_or("no messages".to_owned(), |lag| {
        humantime::format_duration(Duration::from_millis(lag.as_millis().try_into().unwrap_or(u64::MAX)))
            .to_string()
    });
    line("lag", lag);
    let dead = if dead_letters.value == 0 { GOOD } else { BAD };
    line("dead letters", styled(dead, dead_letters));
    if let Some(group) = &look.group {
        let (relays, free) = shares(group);
        let total = group.partitions.len();
        let style = if relays.is_empty() { BAD } else { GOOD };
        let number = if relays.is_empty() { "none runs".to_owned() } else { relays.len().to_string() };
        line("relays", styled(style, number));
        for (id, held) in relays {
            line("", format!("{id}  {held} of {total} partitions"));
        }
        if free > 0 {
            line("", styled(WARNING, format_args!("{free} of {total} partitions have no owner")));
        }
    }
    format!(
        "{}\n{text}",
        styled(HEADING, format_args!("{} ({})", opened.route.name, opened.route.store.place()))
    )
}

fn trouble(opened: &Opened<'_>, error: &str, json: bool) -> String {
    let name = &opened.route.name;
    if json {
        return format!("{}\n", json!({ "route": name, "error": error }));
    }
    format!("{}\n  {}\n", styled(HEADING, name), styled(BAD, error))
}

/// How fast the backlog grows, or shrinks; unknown where the counting stopped at its limit.
fn change(before: &Look, now: &Look) -> Option<f64> {
    let (old, new) = (before.stats.backlog, now.stats.backlog);
    if old.at_least || new.at_least {
        return None;
    }
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "counts are limited, and people read this")]
    let difference = new.value as f64 - old.value as f64;
    (seconds > 0.0).then(|| (difference / seconds * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use outbox_core::Count;

    use super::*;

    #[test]
    fn the_change_is_per_second_and_unknown_beyond_the_limit() {
        let at = Instant::now();
        let look = |seconds, backlog| Look {
            at: at + Duration::from_secs(seconds),
            stats: Stats { backlog, ..Stats::default() },
            group: None,
        };
        let count = |value, at_least| Count { value, at_least };
        let first = look(0, count(10, false));
        assert_eq!(change(&first, &look(4, count(4, false))), Some(-1.5));
        assert_eq!(change(&first, &look(4, count(100, true))), None);
        assert_eq!(change(&first, &look(0, count(4, false))), None);
    }
}
