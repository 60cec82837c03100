//! A layer between the connection and the emulator. It counts requests, and fails like a real service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The failure of requests that put records. Other requests pass with every failure except the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// They pass.
    #[default]
    None,
    /// They are refused, as by a throttling service.
    Throttled,
    /// Each record is refused, as by throttled shards, and the request succeeds.
    EachThrottled,
    /// Every second record of a request is refused, starting with the second, as by a service with an
    /// internal error. For single records, every second request.
    EverySecondRefused,
    /// All other requests are refused because of a missing permission.
    LookingDenied,
}

#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fault: Fault,
    requests: HashMap<String, usize>,
    /// For requests with one record.
    odd: bool,
}

impl Desk {
    pub(super) fn set(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    pub(super) fn requests(&self, action: &str) -> usize {
        self.lock().requests.get(action).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn pass(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let action = action(request.headers());
    let fault = {
        let mut inner = desk.lock();
        *inner.requests.entry(action.clone()).or_default() += 1;
        inner.fault
    };
    match (action.as_str(), fault) {
        ("PutRecords" | "PutRecord", Fault::Throttled) => refused("ProvisionedThroughputExceededException"),
        ("PutRecords", Fault::EachThrottled) => throttle_each(request).await,
        ("PutRecords", Fault::EverySecondRefused) => refuse_some(&desk, request, next).await,
        ("PutRecords" | "PutRecord", Fault::LookingDenied) => next.run(request).await,
        (_, Fault::LookingDenied) => refused("AccessDeniedException"),
        _ => next.run(request).await,
    }
}

fn action(headers: &HeaderMap) -> String {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

fn refused(kind: &str) -> Response {
    let body = json!({ "__type": kind, "message": "the mode allows this request" }).to_string();
    (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}

/// Answers a request without passing any of its records to the server.
async fn throttle_each(request: Request) -> Response {
    let body = to_bytes(request.into_body(), usize::MAX).await.expect("the request arrives");
    let body: Value = serde_json::from_slice(&body).expect("a request is JSON");
    let count = body["Records"].as_array().expect("it has records").len();
    let refusal = json!({
        "ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "the emulator was told so"
    });
    let body = json!({ "FailedRecordCount": count, "Records": vec![refusal; count] }).to_string();
    ([(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}

/// Passes a part of the records to the server, and combines its response with refusals of the others.
async fn refuse_some(desk: &Desk, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("the request arrives");
    let mut body: Value = serde_json::from_slice(&body).expect("a request is JSON");
    let records = body["Records"].as_array().expect("it has records").clone();
    let first_is_taken = records.len() > 1 || {
        let mut inner = desk.lock();
        inner.odd = !inner.odd;
        inner.odd
    };
    let is_taken = |place: usize| place.is_multiple_of(2) == first_is_taken;
    let refusal = || json!({ "ErrorCode": "InternalFailure", "ErrorMessage": "the emulator was told so" });
    let taken: Vec<Value> = records
        .iter()
        .enumerate()
        .filter(|(place, _)| is_taken(*place))
        .map(|(_, record)| record.clone())
        .collect();
    let mut answers = Vec::new();
    if !taken.is_empty() {
        body["Records"] = taken.into();
        parts.headers.remove(header::CONTENT_LENGTH);
        let answer = next.run(Request::from_parts(parts, Body::from(body.to_string()))).await;
        let (status, answer) = (answer.status(), answer.into_body());
        let answer = to_bytes(answer, usize::MAX).await.expect("the answer arrives");
        if status != StatusCode::OK {
            return (status, answer).into_response();
        }
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        answers = answer["Records"].as_array().expect("it has an entry for each record").clone();
    }
    let mut answers = answers.into_iter();
    let all: Vec<Value> = (0..records.len())
        .map(|place| if is_taken(place) { answers.next().unwrap_or_else(refusal) } else { refusal() })
        .collect();
    let failed = all.iter().filter(|answer| answer.get("ErrorCode").is_some()).count();
    let body = json!({ "FailedRecordCount": failed, "Records": all }).to_string();
    ([(header::CONTENT_TYPE, "application/x-amz-json-1.1")], body).into_response()
}
