//! `outbox dead-letters`: what could not be delivered.

use outbox_core::{DeadLetter, DeadLetterFilter, DeadLetters, MessageId, Position};

use super::bulk::{self, Action};
use crate::cli::{BulkArgs, DeadLettersCommand, FilterArgs, PageArgs, RouteArgs};
use crate::config::Config;
use crate::exit::Failure;
use crate::outboxes::{self, Opened};
use crate::output::{self, HEADING, QUIET, noteln, plain, styled};
use crate::view;

pub(crate) async fn run(config: &Config, command: DeadLettersCommand) -> Result<(), Failure> {
    let (DeadLettersCommand::List { route: RouteArgs { route }, .. }
    | DeadLettersCommand::Show { route: RouteArgs { route }, .. }
    | DeadLettersCommand::Redrive(BulkArgs { route: RouteArgs { route }, .. })
    | DeadLettersCommand::Discard(BulkArgs { route: RouteArgs { route }, .. })) = &command;
    let opened = outboxes::open(outboxes::only(config, route.as_deref())?).await?;
    let result = answer(&opened, command).await;
    opened.outbox.close().await;
    result
}

async fn answer(opened: &Opened<'_>, command: DeadLettersCommand) -> Result<(), Failure> {
    let Some(letters) = opened.store.dead_letters() else {
        return Err(Failure::failed(format!(
            "the store {} does not support dead letters",
            opened.store.name()
        )));
    };
    match command {
        DeadLettersCommand::List { filter, page, .. } => list(letters, filter.into(), &page).await,
        DeadLettersCommand::Show { which, payload, json, .. } => show(letters, &which, payload, json).await,
        DeadLettersCommand::Redrive(args) => change(letters, Action::Redrive, args).await,
        DeadLettersCommand::Discard(args) => change(letters, Action::Discard, args).await,
    }
}

impl From<FilterArgs> for DeadLetterFilter {
    fn from(args: FilterArgs) -> Self {
        let mut filter = Self::all();
        filter.topic = args.topic;
        filter.key = args.key;
        filter.error_contains = args.error;
        filter.older_than = args.older_than;
        filter.id = args.id;
        if !args.position.is_empty() {
            filter = filter.positions(args.position.into_iter().map(Position));
        }
        filter
    }
}

async fn list(letters: &dyn DeadLetters, filter: DeadLetterFilter, page: &PageArgs) -> Result<(), Failure> {
    let found = letters.list(&filter, page.after.map(Position), page.limit).await?;
    for letter in &found {
        if page.json {
            output::data(format_args!("{}\n", view::dead_letter(letter, page.payload)))?;
        } else {
            output::data(line(letter, page.payload))?;
        }
    }
    match found.last() {
        None => noteln(styled(QUIET, "no dead letters")),
        Some(last) if found.len() == page.limit => {
            noteln(styled(QUIET, format_args!("there may be more: --after {}", last.position)));
        }
        Some(_) => {}
    }
    Ok(())
}

fn line(letter: &DeadLetter, payload: bool) -> String {
    let mut line = format!(
        "{:>10}  {}  {}  {}  attempts {}  {}\n",
        letter.position,
        letter.died_at,
        plain(letter.topic.as_deref().unwrap_or("(unreadable)")),
        plain(letter.key.as_deref().unwrap_or("-")),
        letter.attempts,
        plain(&letter.error),
    );
    if let (true, Some(message)) = (payload, &letter.message) {
        line.push_str(&format!("{:>12}{}\n", "", plain(&view::payload(message))));
    }
    line
}

async fn show(letters: &dyn DeadLetters, which: &str, payload: bool, json: bool) -> Result<(), Failure> {
    let filter = match (which.parse::<i64>(), which.parse::<MessageId>()) {
        (Ok(position), _) => DeadLetterFilter::all().positions([Position(position)]),
        (_, Ok(id)) => DeadLetterFilter::all().id(id),
        _ => return Err(Failure::wrong(format!("{which:?} is neither a position nor an id"))),
    };
    let found = letters.list(&filter, None, 100).await?;
    if found.is_empty() {
        return Err(Failure::failed(format!("no dead letter has the position or id {which}")));
    }
    // Several messages may have been given one id.
    for letter in &found {
        if json {
            output::data(format_args!("{}\n", view::dead_letter(letter, payload)))?;
        } else {
            output::data(description(letter, payload))?;
        }
    }
    Ok(())
}

fn description(letter: &DeadLetter, payload: bool) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| {
        let name = styled(HEADING, format_args!("{name:<13}"));
        text.push_str(&format!("{name} {}\n", plain(&value)));
    };
    let unreadable = || "(unreadable)".to_owned();
    field("position", letter.position.to_string());
    field("id", letter.id.map_or_else(unreadable, |id| id.to_string()));
    field("topic", letter.topic.clone().unwrap_or_else(unreadable));
    field("key", letter.key.clone().unwrap_or_else(|| "-".to_owned()));
    field("attempts", letter.attempts.to_string());
    field("error", letter.error.clone());
    let blocks = if letter.blocks_key { "waits for this one" } else { "goes on" };
    field("its key", blocks.to_owned());
    field("enqueued at", letter.enqueued_at.to_string());
    field("died at", letter.died_at.to_string());
    if let Some(message) = &letter.message {
        field("content type", message.content_type().unwrap_or("-").to_owned());
        if payload {
            for (name, value) in message.headers() {
                field("header", format!("{name}: {value}"));
            }
            field("payload", view::payload(message));
        } else {
            field("payload", format!("{} bytes; show them by --payload", message.payload().len()));
        }
    }
    text
}

async fn change(letters: &dyn DeadLetters, action: Action, args: BulkArgs) -> Result<(), Failure> {
    let filter = DeadLetterFilter::from(args.filter);
    let unfiltered = filter == DeadLetterFilter::all();
    if args.all != unfiltered {
        return Err(Failure::wrong(if unfiltered {
            "say which dead letters are meant, by --topic, --key, --error, --older-than, --id or --position, or by \
             --all"
        } else {
            "--all cannot be combined with a condition; remove one of them"
        }));
    }
    let count = letters.count(&filter, u64::MAX).await?.value;
    if args.dry_run {
        noteln(format_args!("{count} dead letters would be {}", action.done()));
        return Ok(output::data(format_args!("{count}\n"))?);
    }
    let bar = bulk::progress(count);
    let result = bulk::run(letters, action, &filter, |done| bar.set_position(done)).await;
    let so_far = bar.position();
    bar.finish_and_clear();
    match result {
        Ok(total) => {
            noteln(format_args!("{total} dead letters {}", action.done()));
            Ok(output::data(format_args!("{total}\n"))?)
        }
        Err(error) => {
            Err(Failure::from(error).of(format_args!("after {so_far} dead letters were {}", action.done())))
        }
    }
}
