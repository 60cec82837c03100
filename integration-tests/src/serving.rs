//! A server in a thread of the test process.

use std::future::Future;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A running server on a separate runtime. It can end as suddenly as a process.
#[derive(Debug)]
pub(crate) struct Serving {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Serving {
    /// Binds the address, and serves with what `serve` makes of the listener. `name` is that of the thread.
    pub(crate) async fn start<F, S>(name: &str, address: SocketAddr, serve: F) -> Result<Self>
    where
        F: FnOnce(TcpListener) -> S + Send + 'static,
        S: Future,
    {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
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
                let serving = serve(listener);
                let _ = ready.send(Ok(()));
                tokio::select! {
                    _ = serving => {}
                    _ = stopped => {}
                }
            });
            // Requests in progress end at their next await.
            runtime.shutdown_background();
        })?;
        is_ready.await.context("the server has ended")??;
        Ok(Self { stop, thread })
    }

    /// Ends it immediately: closes its connections and finishes nothing.
    pub(crate) async fn end(self) {
        let _ = self.stop.send(());
        // The thread that waits must not belong to the runtime of the test.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    // Connections of the previous server may still exist.
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("port {} is taken", address.port()))?;
    Ok(socket.listen(1024)?)
}
