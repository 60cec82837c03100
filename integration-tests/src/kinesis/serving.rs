//! The emulator as a server in a thread.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use ferrokinesis::store::{DurableStateOptions, StoreOptions};
use tokio::net::TcpListener;

use super::faults::{self, Desk};
use crate::serving::Serving;

pub(super) async fn start(
    address: SocketAddr,
    folder: Option<&Path>,
    enforces_limits: bool,
    desk: Arc<Desk>,
) -> Result<Serving> {
    let options = StoreOptions {
        create_stream_ms: 0,
        delete_stream_ms: 0,
        update_stream_ms: 0,
        shard_limit: 1000,
        enforce_limits: enforces_limits,
        durable: folder.map(|folder| DurableStateOptions {
            state_dir: folder.to_owned(),
            snapshot_interval_secs: 3600,
            max_retained_bytes: None,
        }),
        ..StoreOptions::default()
    };
    let serve = async move |listener: TcpListener| {
        let (app, _store) = ferrokinesis::create_app(options);
        // Requests of real size: 5 MiB of data in base64.
        let app = app.layer(DefaultBodyLimit::disable()).layer(from_fn_with_state(desk, faults::pass));
        axum::serve(listener, app).await
    };
    Serving::start("kinesis", address, serve).await
}
