//! What the dashboard asks for beyond the commands: which routes there are, what happened lately, and who shares the work.
//! Nothing here but the group touches the database, however many look on.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::api::{Answer, Trouble, served};

/// The routes of this process, and what may be done here.
pub(super) async fn routes(State(shared): State<Shared>) -> Json<Value> {
    let routes: Vec<_> = shared
        .routes
        .iter()
        .map(|served| json!({ "route": served.name, "store": served.place, "publisher": served.goal }))
        .collect();
    Json(json!({
        "routes": routes,
        "payloads": shared.settings.payloads,
        "changes": shared.settings.token.is_some(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Since {
    #[serde(default)]
    after: u64,
}

pub(super) async fn history(
    State(shared): State<Shared>,
    Path(route): Path<String>,
    query: Result<Query<Since>, QueryRejection>,
) -> Answer {
    let Query(since) = query?;
    let (_, running) = served(&shared, &route)?;
    let mut json = running.lately.samples(since.after);
    let relay = running.status.borrow();
    json["relay"] = json!({ "relays": relay.relays, "circuit_open": relay.circuit_open });
    Ok(Json(json))
}

pub(super) async fn failures(State(shared): State<Shared>, Path(route): Path<String>) -> Answer {
    let (_, running) = served(&shared, &route)?;
    Ok(Json(running.lately.failures()))
}

pub(super) async fn relays(State(shared): State<Shared>, Path(route): Path<String>) -> Answer {
    let (_, running) = served(&shared, &route)?;
    let unknown = || Trouble(StatusCode::NOT_IMPLEMENTED, "this store does not report its relays".to_owned());
    let inspection = running.store.inspection().ok_or_else(unknown)?;
    let group = inspection.group().await?.ok_or_else(unknown)?;
    let owned = running.status.borrow().owned.clone();
    let held = |of| -> Vec<u16> {
        let of = group.partitions.iter().filter(|(_, owner)| *owner == of);
        of.map(|(partition, _)| partition.0).collect()
    };
    let relays: Vec<_> = group
        .relays
        .iter()
        .map(|relay| {
            let partitions = held(Some(*relay));
            let this = owned.iter().any(|partition| partitions.contains(&partition.0));
            json!({ "id": relay.to_string(), "partitions": partitions, "this": this })
        })
        .collect();
    Ok(Json(json!({ "relays": relays, "free": held(None), "partitions": group.partitions.len() })))
}
