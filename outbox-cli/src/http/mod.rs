//! What a running relay serves: metrics, health, and looking after its outboxes.

mod api;
mod guard;
mod health;
mod lately;
mod looking;
pub(crate) mod metrics;
mod page;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use outbox_core::Store;
use outbox_core::relay::Status;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{Http, Route};
use crate::exit::Failure;
use crate::telemetry::Telemetry;

pub(crate) use lately::Lately;

/// What the handlers know.
#[derive(Clone)]
pub(crate) struct Shared {
    routes: Arc<Vec<Served>>,
    settings: Arc<Http>,
    metrics: PrometheusHandle,
    stopping: CancellationToken,
}

/// A route, and its relay once that runs.
pub(crate) struct Served {
    name: String,
    /// The store, for people.
    place: String,
    /// The broker, for people.
    goal: String,
    running: Arc<OnceLock<Running>>,
}

/// What is known of a relay that runs.
pub(crate) struct Running {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) lately: Lately,
}

/// The server, and where relays say that they run.
pub(crate) struct Server {
    task: JoinHandle<()>,
    routes: Arc<Vec<Served>>,
}

impl Server {
    /// Listens, and serves from now on. The recorder of metrics is that of the whole process.
    ///
    /// # Errors
    /// If the address cannot be listened at.
    pub(crate) async fn start(
        settings: &Http,
        routes: &[&Route],
        stopping: CancellationToken,
        telemetry: &Telemetry,
    ) -> Result<Self, Failure> {
        let listener = TcpListener::bind(settings.listen)
            .await
            .map_err(|error| Failure::failed(format!("cannot listen at {}: {error}", settings.listen)))?;
        let address = listener.local_addr()?;
        let metrics = metrics::install(telemetry)?;
        let served = |route: &&Route| Served {
            name: route.name.clone(),
            place: route.store.place(),
            goal: route.publisher.place(),
            running: Arc::default(),
        };
        let routes: Arc<Vec<Served>> = Arc::new(routes.iter().map(served).collect());
        let shared = Shared {
            routes: routes.clone(),
            settings: Arc::new(Http { listen: address, ..settings.clone() }),
            metrics: metrics.clone(),
            stopping,
        };
        let app = app(shared).into_make_service_with_connect_info::<SocketAddr>();
        let task = tokio::spawn(async move {
            tokio::select! {
                ended = axum::serve(listener, app) => {
                    if let Err(failure) = ended {
                        error!(error = %failure, "the HTTP server stopped");
                    }
                }
                () = metrics::keep_up(metrics) => {}
            }
        });
        info!(%address, "serving HTTP");
        Ok(Self { task, routes })
    }

    /// Where the relay of this route says that it runs.
    pub(crate) fn running(&self, route: &Route) -> Option<Arc<OnceLock<Running>>> {
        self.routes.iter().find(|served| served.name == route.name).map(|served| served.running.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn app(shared: Shared) -> Router {
    let reading = Router::new()
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/routes", get(looking::routes))
        .route("/api/v1/routes/{route}/history", get(looking::history))
        .route("/api/v1/routes/{route}/failures", get(looking::failures))
        .route("/api/v1/routes/{route}/relays", get(looking::relays))
        .route("/api/v1/routes/{route}/messages", get(api::messages))
        .route("/api/v1/routes/{route}/dead-letters", get(api::dead_letters))
        .route("/api/v1/routes/{route}/dead-letters/{position}", get(api::dead_letter))
        .layer(axum::middleware::from_fn_with_state(shared.clone(), guard::reading));
    let changing = Router::new()
        .route("/api/v1/routes/{route}/dead-letters/redrive", post(api::redrive))
        .route("/api/v1/routes/{route}/dead-letters/discard", post(api::discard))
        .layer(axum::middleware::from_fn_with_state(shared.clone(), guard::changing));
    Router::new()
        .route("/", get(page::index))
        .route("/dashboard/{file}", get(page::part))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::show))
        .merge(reading)
        .merge(changing)
        .layer(axum::middleware::map_response(guard::headers))
        .with_state(shared)
}
