//! Traces and metrics by OTLP, where somebody wants them; and the one recorder of metrics that a process has.

#[cfg(feature = "otel")]
mod otlp;
#[cfg(feature = "otel")]
mod recorder;
#[cfg(feature = "otel")]
mod traced;

#[cfg(all(fuzzing, feature = "otel"))]
pub(crate) use traced::written_again;

use std::sync::Arc;
use std::time::Duration;

use metrics::Recorder;
use outbox_core::Publisher;

use crate::config;
use crate::exit::Failure;

/// What a process sends of itself.
pub(crate) struct Telemetry {
    #[cfg(feature = "otel")]
    otlp: Option<otlp::Otlp>,
}

impl Telemetry {
    /// Starts to send, if somebody has set where to.
    ///
    /// # Errors
    /// If the settings do not fit. A collector that is down is none.
    pub(crate) fn start(settings: Option<&config::Telemetry>) -> Result<Self, Failure> {
        #[cfg(feature = "otel")]
        let telemetry = Self { otlp: settings.map(otlp::Otlp::start).transpose()? };
        #[cfg(not(feature = "otel"))]
        let telemetry = {
            // Settings without the feature were refused when they were read.
            let _ = settings;
            Self {}
        };
        Ok(telemetry)
    }

    /// Makes everything that is measured from now on go to this recorder, and to the collector.
    ///
    /// # Errors
    /// If the process has a recorder already.
    pub(crate) fn record(
        &self,
        recorder: Option<impl Recorder + Send + Sync + 'static>,
    ) -> Result<(), Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::failed(format!("metrics cannot be recorded: {error}"));
        #[cfg(feature = "otel")]
        if let Some(meter) = self.otlp.as_ref().and_then(otlp::Otlp::meter) {
            let bridge = recorder::Bridge::new(meter, recorder);
            return metrics::set_global_recorder(bridge).map_err(|error| failed(&error));
        }
        match recorder {
            Some(recorder) => metrics::set_global_recorder(recorder).map_err(|error| failed(&error)),
            None => Ok(()),
        }
    }

    /// The publisher of a route, with spans around its calls if traces are sent.
    pub(crate) fn trace(&self, publisher: Arc<dyn Publisher>, route: &str) -> Arc<dyn Publisher> {
        #[cfg(feature = "otel")]
        if let Some(tracer) = self.otlp.as_ref().and_then(otlp::Otlp::tracer) {
            return Arc::new(traced::Traced::new(publisher, tracer, route));
        }
        let _ = route;
        publisher
    }

    /// Sends what is left, for at most so long; what is not sent then is lost.
    pub(crate) async fn end(self, at_most: Duration) {
        #[cfg(feature = "otel")]
        if let Some(otlp) = self.otlp {
            otlp.end(at_most).await;
        }
        #[cfg(not(feature = "otel"))]
        let _ = at_most;
    }
}
