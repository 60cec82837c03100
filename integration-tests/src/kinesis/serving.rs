//! The threads that serve.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use ferrokinesis::store::{DurableStateOptions, StoreOptions};
use tokio::sync::oneshot;

use super::Counts;

/// A running server.
#[derive(Debug)]
pub(super) struct Serving {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Serving {
    pub(super) async fn start(
        address: SocketAddr,
        folder: &Path,
        enforces_limits: bool,
        counts: Arc<Counts>,
    ) -> Result<Self> {
        let options = StoreOptions {
            create_stream_ms: 0,
            delete_stream_ms: 0,
            update_stream_ms: 0,
            shard_limit: 1000,
            enforce_limits: enforces_limits,
            durable: Some(DurableStateOptions {
                state_dir: folder.to_owned(),
                snapshot_interval_secs: 3600,
                max_retained_bytes: None,
            }),
            ..StoreOptions::default()
        };
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::Builder::new().name("kinesis".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime for the server");
            runtime.block_on(async {
                let listener = match bind(address) {
                    Ok(listener) => listener,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let (app, _store) = ferrokinesis::create_app(options);
                // Requests of real size: 5 MiB of data in base64.
                let app = app.layer(DefaultBodyLimit::disable()).layer(from_fn_with_state(counts, count));
                let serving = axum::serve(listener, app).into_future();
                let _ = ready.send(Ok(()));
                tokio::select! {
                    _ = serving => {}
                    _ = stopped => {}
                }
            });
            // Whatever is being worked on ends where it waits next.
            runtime.shutdown_background();
        })?;
        is_ready.await.context("the server has ended")??;
        Ok(Self { stop, thread })
    }

    pub(super) async fn end(self) {
        let _ = self.stop.send(());
        // It ends at once; a thread that waits for it must not be one of the test's own runtime.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

fn bind(address: SocketAddr) -> Result<tokio::net::TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    // Connections of the one before may not have gone yet.
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("port {} is taken", address.port()))?;
    Ok(socket.listen(1024)?)
}

async fn count(State(counts): State<Arc<Counts>>, request: Request, next: Next) -> Response {
    let target =
        request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    match target.rsplit('.').next() {
        Some("PutRecords") => drop(counts.put_records.fetch_add(1, Ordering::SeqCst)),
        Some("PutRecord") => drop(counts.put_record.fetch_add(1, Ordering::SeqCst)),
        _ => {}
    }
    next.run(request).await
}
