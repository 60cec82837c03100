//! Whether the process lives, and whether its relays work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::json;

use super::{Served, Shared};

/// That this is answered is the answer.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Ready once every relay has had its first answer from its database, until the relays stop. A broker that is down does not
/// count: the relay waits for it, and nobody else would do better.
pub(super) async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    let state = |served: &Served| {
        let status = served.running.get().map(|running| running.status.borrow().clone());
        let joined = status.as_ref().is_some_and(|status| status.relays > 0);
        let circuit = status.is_some_and(|status| status.circuit_open);
        (joined, json!({ "route": served.name, "joined": joined, "circuit_open": circuit }))
    };
    let (joined, routes): (Vec<_>, Vec<_>) = shared.routes.iter().map(state).unzip();
    let stopping = shared.stopping.is_cancelled();
    let ready = !stopping && joined.into_iter().all(|joined| joined);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready, "stopping": stopping, "routes": routes })))
}
