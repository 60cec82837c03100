//! The commands as JSON: looking at an outbox, and at its dead letters.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use outbox_core::{DeadLetterFilter, DeadLetters, Error, ErrorKind, MessageId, Position, Store, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::guard::refusal;
use super::{Running, Served, Shared};
use crate::commands::bulk::{self, Action};
use crate::conditions;
use crate::view;

/// Whatever somebody asks for, this is the most of one answer, because of its payloads.
const MOST: usize = 500;
/// Counting goes no further.
pub(super) const COUNT: u64 = 100_000;

/// Why there is no answer.
pub(super) struct Trouble(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        refusal(self.0, self.1)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Interrupted | ErrorKind::Throttled => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, error.report())
    }
}

impl From<QueryRejection> for Trouble {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<JsonRejection> for Trouble {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

pub(super) type Answer = Result<Json<Value>, Trouble>;

pub(super) fn served<'a>(shared: &'a Shared, name: &str) -> Result<(&'a Served, &'a Running), Trouble> {
    let found = shared.routes.iter().find(|served| served.name == name);
    let served = found.ok_or_else(|| Trouble(StatusCode::NOT_FOUND, format!("unknown route {name:?}")))?;
    let running = served.running.get().ok_or_else(|| {
        Trouble(StatusCode::SERVICE_UNAVAILABLE, format!("the relay of {name} has not started yet"))
    })?;
    Ok((served, running))
}

fn letters(store: &Arc<dyn Store>) -> Result<&dyn DeadLetters, Trouble> {
    store.dead_letters().ok_or_else(|| {
        Trouble(StatusCode::NOT_IMPLEMENTED, "this store does not support dead letters".to_owned())
    })
}

/// All routes. One whose database does not answer says so, and the others are answered all the same.
pub(super) async fn status(State(shared): State<Shared>) -> Json<Value> {
    let mut routes = Vec::new();
    for served in shared.routes.iter() {
        let mut json = json!({ "route": served.name, "store": served.place });
        let Some(running) = served.running.get() else {
            json["error"] = "the relay has not started yet".into();
            routes.push(json);
            continue;
        };
        let relay = running.status.borrow().clone();
        json["relay"] = json!({
            "partitions": relay.owned.iter().map(|partition| partition.0).collect::<Vec<_>>(),
            "relays": relay.relays,
            "circuit_open": relay.circuit_open,
            "parked_keys": relay.parked_keys,
        });
        match running.store.stats(COUNT).await {
            Ok(stats) => {
                json["backlog"] = view::count(stats.backlog);
                json["dead_letters"] = view::count(stats.dead_letters);
                json["lag_seconds"] = stats.lag.map(|lag| lag.as_secs_f64()).into();
            }
            Err(error) => json["error"] = error.report().into(),
        }
        routes.push(json);
    }
    Json(json!({ "routes": routes }))
}

/// The parameters of a page of waiting messages.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<i64>,
    limit: Option<usize>,
    #[serde(default)]
    payload: bool,
}

/// The parameters of one dead letter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Single {
    #[serde(default)]
    payload: bool,
}

/// The parameters of a page of dead letters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    topic: Option<String>,
    key: Option<String>,
    error: Option<String>,
    older_than: Option<String>,
    id: Option<String>,
    after: Option<i64>,
    limit: Option<usize>,
    #[serde(default)]
    payload: bool,
}

/// What is wanted of a change. All conditions are as in a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    topic: Option<String>,
    key: Option<String>,
    error: Option<String>,
    older_than: Option<String>,
    id: Option<String>,
    positions: Option<Vec<i64>>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    dry_run: bool,
}

fn filter(
    topic: Option<String>,
    key: Option<String>,
    error: Option<String>,
    older_than: Option<String>,
    id: Option<String>,
) -> Result<DeadLetterFilter, Trouble> {
    let wrong = |text: String| Trouble(StatusCode::BAD_REQUEST, text);
    let stated = |name: &str, value: Option<String>| -> Result<Option<String>, Trouble> {
        let checked = value.map(|value| conditions::text(&value)).transpose();
        checked.map_err(|reason| wrong(format!("{name} {reason}")))
    };
    let age = |text: String| conditions::age(&text).map_err(|reason| wrong(format!("older_than {reason}")));
    let uuid = |text: String| -> Result<MessageId, Trouble> {
        text.parse().map_err(|_| wrong(format!("id must be a UUID, not {text:?}")))
    };
    let mut filter = DeadLetterFilter::all();
    filter.topic = stated("topic", topic)?;
    filter.key = stated("key", key)?;
    filter.error_contains = stated("error", error)?;
    filter.older_than = older_than.map(age).transpose()?;
    filter.id = id.map(uuid).transpose()?;
    Ok(filter)
}

fn check_payload(shared: &Shared, payload: bool) -> Result<(), Trouble> {
    if payload && !shared.settings.payloads {
        let error = "payloads are hidden; set http.payloads = true to show them";
        return Err(Trouble(StatusCode::FORBIDDEN, error.to_owned()));
    }
    Ok(())
}

pub(super) async fn messages(
    State(shared): State<Shared>,
    Path(route): Path<String>,
    query: Result<Query<Page>, QueryRejection>,
) -> Answer {
    let Query(wanted) = query?;
    check_payload(&shared, wanted.payload)?;
    let (_, running) = served(&shared, &route)?;
    let unknown =
        || Trouble(StatusCode::NOT_IMPLEMENTED, "this store does not support inspection".to_owned());
    let inspection = running.store.inspection().ok_or_else(unknown)?;
    let now = inspection.clock().await?.unwrap_or_else(Timestamp::now);
    let limit = wanted.limit.unwrap_or(50).min(MOST);
    let found = inspection.peek(wanted.after.map(Position), limit).await?.ok_or_else(unknown)?;
    let found: Vec<_> = found.iter().map(|waiting| view::waiting(waiting, now, wanted.payload)).collect();
    Ok(Json(json!({ "messages": found })))
}

pub(super) async fn dead_letters(
    State(shared): State<Shared>,
    Path(route): Path<String>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let Query(wanted) = query?;
    check_payload(&shared, wanted.payload)?;
    let (_, running) = served(&shared, &route)?;
    let filter = filter(wanted.topic, wanted.key, wanted.error, wanted.older_than, wanted.id)?;
    let limit = wanted.limit.unwrap_or(50).min(MOST);
    let found = letters(&running.store)?.list(&filter, wanted.after.map(Position), limit).await?;
    let found: Vec<_> = found.iter().map(|letter| view::dead_letter(letter, wanted.payload)).collect();
    Ok(Json(json!({ "dead_letters": found })))
}

pub(super) async fn dead_letter(
    State(shared): State<Shared>,
    Path((route, position)): Path<(String, i64)>,
    query: Result<Query<Single>, QueryRejection>,
) -> Answer {
    let Query(wanted) = query?;
    check_payload(&shared, wanted.payload)?;
    let (_, running) = served(&shared, &route)?;
    let filter = DeadLetterFilter::all().positions([Position(position)]);
    let found = letters(&running.store)?.list(&filter, None, 1).await?;
    let missing = || Trouble(StatusCode::NOT_FOUND, format!("no dead letter has the position {position}"));
    let letter = found.first().ok_or_else(missing)?;
    Ok(Json(view::dead_letter(letter, wanted.payload)))
}

pub(super) async fn redrive(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(route): Path<String>,
    body: Result<Json<Which>, JsonRejection>,
) -> Answer {
    change(&shared, Action::Redrive, &route, peer, body?.0).await
}

pub(super) async fn discard(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(route): Path<String>,
    body: Result<Json<Which>, JsonRejection>,
) -> Answer {
    change(&shared, Action::Discard, &route, peer, body?.0).await
}

async fn change(shared: &Shared, action: Action, route: &str, peer: SocketAddr, which: Which) -> Answer {
    let (_, running) = served(shared, route)?;
    let mut filter = filter(which.topic, which.key, which.error, which.older_than, which.id)?;
    if let Some(positions) = which.positions {
        filter = filter.positions(positions.into_iter().map(Position));
    }
    if which.all != (filter == DeadLetterFilter::all()) {
        let error = "select dead letters by a condition or by \"all\": true, but not by both";
        return Err(Trouble(StatusCode::BAD_REQUEST, error.to_owned()));
    }
    let letters = letters(&running.store)?;
    if which.dry_run {
        let count = letters.count(&filter, COUNT).await?;
        return Ok(Json(json!({ "would_be": view::count(count) })));
    }
    // In a task of its own, so that a caller who goes away leaves no half of it unlogged.
    let (store, route) = (running.store.clone(), route.to_owned());
    let work = tokio::spawn(async move {
        let Some(letters) = store.dead_letters() else { return Ok(0) };
        let mut so_far = 0;
        let result = bulk::run(letters, action, &filter, |done| so_far = done).await;
        let error = result.as_ref().err().map(Error::report);
        info!(%peer, route, ?filter, changed = so_far, error, "dead letters {}", action.done());
        result
    });
    let ended = work.await.map_err(|_| {
        Trouble(StatusCode::INTERNAL_SERVER_ERROR, "the task ended without an answer".to_owned())
    })?;
    Ok(Json(json!({ "changed": ended? })))
}
