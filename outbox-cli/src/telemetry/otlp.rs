//! Sending by OTLP over gRPC.
//!
//! The SDK's own threads send; spans wait for them in a queue of limited length, and are dropped when it is full. So
//! a collector that is slow or away costs a relay nothing.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use tracing::warn;

use crate::config::Telemetry;
use crate::exit::Failure;

/// What is sent is said to be of this.
const SCOPE: &str = "outbox";
/// Spans that wait to be sent: several full publish calls, some 10 MiB.
const QUEUE: usize = 8_192;
const SENT_AT_ONCE: usize = 1_024;
/// A span waits so long for others to be sent with.
const DELAY: Duration = Duration::from_secs(1);
/// Links of one call. The rest is counted and left out.
const LINKS: u32 = 1_000;

/// The exporter of a kind. The builders of the two kinds have no trait in common that one could name.
macro_rules! way {
    ($settings:ident, $exporter:ident) => {{
        let mut builder = $exporter::builder()
            .with_tonic()
            .with_endpoint($settings.endpoint.clone())
            .with_timeout($settings.timeout)
            .with_metadata(metadata($settings));
        if $settings.endpoint.starts_with("https:") {
            builder = builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
        }
        builder.build()
    }};
}

/// The two providers, whichever are wanted.
pub(super) struct Otlp {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

impl Otlp {
    /// Starts to send. It must be called in a runtime, on which the connections live.
    pub(super) fn start(settings: &Telemetry) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::wrong(format!("telemetry cannot be sent to {}: {error}", settings.endpoint))
        };
        let attributes =
            settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_service_name(settings.service_name.clone())
            .with_attributes(attributes)
            .build();
        let traces = if settings.traces {
            let exporter = way!(settings, SpanExporter).map_err(|error| failed(&error))?;
            Some(traces(settings, resource.clone(), exporter))
        } else {
            None
        };
        let metrics = if settings.metrics {
            let exporter = way!(settings, MetricExporter).map_err(|error| failed(&error))?;
            let reader = PeriodicReader::builder(exporter).with_interval(settings.interval).build();
            Some(SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build())
        } else {
            None
        };
        Ok(Self { traces, metrics })
    }

    pub(super) fn tracer(&self) -> Option<SdkTracer> {
        self.traces.as_ref().map(|traces| traces.tracer(SCOPE))
    }

    pub(super) fn meter(&self) -> Option<Meter> {
        self.metrics.as_ref().map(|metrics| metrics.meter(SCOPE))
    }

    pub(super) async fn end(self, at_most: Duration) {
        // Both wait in place, one after the other.
        let ended = tokio::task::spawn_blocking(move || {
            let traces = self.traces.map(|traces| traces.shutdown_with_timeout(at_most));
            let metrics = self.metrics.map(|metrics| metrics.shutdown_with_timeout(at_most));
            [traces, metrics].into_iter().flatten().find_map(Result::err)
        });
        match tokio::time::timeout(at_most, ended).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(error))) => warn!(%error, "the last telemetry was not sent"),
            Ok(Err(_)) | Err(_) => warn!("the last telemetry was not sent in time"),
        }
    }
}

fn traces(settings: &Telemetry, resource: Resource, exporter: SpanExporter) -> SdkTracerProvider {
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(SENT_AT_ONCE)
        .with_scheduled_delay(DELAY)
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    // A message's own trace was sampled or not where it began; what begins here is sampled here.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sampling_ratio)));
    SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler)
        .with_max_links_per_span(LINKS)
        .with_span_processor(processor)
        .build()
}

fn metadata(settings: &Telemetry) -> MetadataMap {
    let mut headers = axum::http::HeaderMap::new();
    for (name, value) in &settings.headers {
        // Both were checked when the settings were read.
        if let (Ok(name), Ok(mut value)) =
            (axum::http::HeaderName::try_from(name), axum::http::HeaderValue::try_from(value.reveal()))
        {
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    MetadataMap::from_headers(headers)
}
