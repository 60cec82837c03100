//! Something that telemetry can be sent to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::metrics::v1 as metrics;
use opentelemetry_proto::tonic::collector::trace::v1 as traces;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What has come so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) spans: Vec<Span>,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) resources: Vec<Resource>,
    /// The header `x-key` of each request.
    pub(crate) keys: Vec<String>,
}

/// A collector: a server of OTLP over gRPC that keeps what comes. It ends with the runtime of its test.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    received: Arc<Mutex<Received>>,
}

impl Collector {
    /// Listens from now on.
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(traces::trace_service_server::TraceServiceServer::new(collector.clone()))
            .add_service(metrics::metrics_service_server::MetricsServiceServer::new(collector.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        (collector, address)
    }

    pub(crate) fn received(&self) -> Received {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep<T>(&self, request: Request<T>, add: impl FnOnce(&mut Received, T)) {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let key = request.metadata().get("x-key").map(|key| key.to_str().unwrap().to_owned());
        received.keys.extend(key);
        add(&mut received, request.into_inner());
    }
}

#[tonic::async_trait]
impl traces::trace_service_server::TraceService for Collector {
    async fn export(
        &self,
        request: Request<traces::ExportTraceServiceRequest>,
    ) -> Result<Response<traces::ExportTraceServiceResponse>, Status> {
        self.keep(request, |received, request| {
            for part in request.resource_spans {
                received.resources.extend(part.resource);
                received.spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl metrics::metrics_service_server::MetricsService for Collector {
    async fn export(
        &self,
        request: Request<metrics::ExportMetricsServiceRequest>,
    ) -> Result<Response<metrics::ExportMetricsServiceResponse>, Status> {
        self.keep(request, |received, request| {
            for part in request.resource_metrics {
                received.resources.extend(part.resource);
                received.metrics.extend(part.scope_metrics.into_iter().flat_map(|scope| scope.metrics));
            }
        });
        Ok(Response::new(Default::default()))
    }
}

impl Received {
    /// The last value of a counter or gauge with these attributes among its own.
    pub(crate) fn number(&self, name: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        let points = self.metrics.iter().rev().filter(|metric| metric.name == name).flat_map(|metric| {
            match &metric.data {
                Some(metric::Data::Sum(sum)) => sum.data_points.as_slice(),
                Some(metric::Data::Gauge(gauge)) => gauge.data_points.as_slice(),
                _ => &[],
            }
        });
        let fits = |own: &[KeyValue]| {
            attributes.iter().all(|(name, value)| text(own, name).as_deref() == Some(*value))
        };
        points.into_iter().find(|point| fits(&point.attributes)).and_then(|point| match point.value? {
            number_data_point::Value::AsDouble(value) => Some(value),
            #[allow(clippy::cast_precision_loss, reason = "tests count no further")]
            number_data_point::Value::AsInt(value) => Some(value as f64),
        })
    }
}

/// An attribute, as a text.
pub(crate) fn text(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}
