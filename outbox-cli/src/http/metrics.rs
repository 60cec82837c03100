//! Metrics for Prometheus.

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::Shared;
use crate::exit::Failure;
use crate::telemetry::Telemetry;

/// From a commit on the same machine to a queue that waits for a person.
pub(crate) const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0,
];
pub(crate) const MESSAGES: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0];
/// What was observed is sorted into its buckets so often, or when somebody asks.
const UPKEEP: Duration = Duration::from_secs(5);

/// Makes everything that is measured from now on go to a recorder of ours, and to where telemetry is sent.
///
/// # Errors
/// If there is one already.
pub(super) fn install(telemetry: &Telemetry) -> Result<PrometheusHandle, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::failed(format!("metrics cannot be recorded: {error}"));
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_messages".to_owned()), MESSAGES))
        .map_err(|error| failed(&error))?
        .build_recorder();
    let handle = recorder.handle();
    telemetry.record(Some(recorder))?;
    Ok(handle)
}

/// Keeps memory bounded where nobody asks for the metrics. Never ends.
pub(super) async fn keep_up(handle: PrometheusHandle) {
    let mut timer = tokio::time::interval(UPKEEP);
    loop {
        timer.tick().await;
        handle.run_upkeep();
    }
}

pub(super) async fn show(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shared.metrics.render())
}
