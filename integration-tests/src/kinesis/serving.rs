//! The threads that serve.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use ferrokinesis::store::{DurableStateOptions, StoreOptions};
use tokio::sync::oneshot;

use super::faults::{self, Desk};

/// A running server.
#[derive(Debug)]
pub(super) struct Serving {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Serving {
    pub(super) async fn start(
        address: SocketAddr,
        folder: Option<&Path>,
        enforces_limits: bool,
        desk: Arc<Desk>,
    ) -> Result<Self> {
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
                let app =
                    app.layer(DefaultBodyLimit::disable()).layer(from_fn_with_state(desk, faults::pass));
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
