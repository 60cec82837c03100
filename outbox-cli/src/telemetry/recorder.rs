//! From what the library measures to the meters of OpenTelemetry, under the same names; and on to another recorder,
//! since a process has only one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::http::metrics::{MESSAGES, SECONDS};

/// Hands everything to a meter, and to another recorder if there is one.
pub(super) struct Bridge<R> {
    meter: Meter,
    other: Option<R>,
}

impl<R> Bridge<R> {
    pub(super) fn new(meter: Meter, other: Option<R>) -> Self {
        Self { meter, other }
    }
}

impl<R: Recorder> Recorder for Bridge<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        if let Some(other) = &self.other {
            other.describe_counter(key, unit, description);
        }
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        if let Some(other) = &self.other {
            other.describe_gauge(key, unit, description);
        }
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        if let Some(other) = &self.other {
            other.describe_histogram(key, unit, description);
        }
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let other =
            self.other.as_ref().map_or_else(Counter::noop, |other| other.register_counter(key, metadata));
        let ours = self.meter.u64_counter(key.name().to_owned()).with_unit(unit(key)).build();
        let last = AtomicU64::new(0);
        Counter::from_arc(Arc::new(Both { ours, attributes: attributes(key), last, other }))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let other = self.other.as_ref().map_or_else(Gauge::noop, |other| other.register_gauge(key, metadata));
        let ours = self.meter.f64_gauge(key.name().to_owned()).with_unit(unit(key)).build();
        let last = AtomicU64::new(0_f64.to_bits());
        Gauge::from_arc(Arc::new(Both { ours, attributes: attributes(key), last, other }))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let other =
            self.other.as_ref().map_or_else(Histogram::noop, |other| other.register_histogram(key, metadata));
        let mut ours = self.meter.f64_histogram(key.name().to_owned()).with_unit(unit(key));
        if key.name().ends_with("_seconds") {
            ours = ours.with_boundaries(SECONDS.to_vec());
        } else if key.name().ends_with("_messages") {
            ours = ours.with_boundaries(MESSAGES.to_vec());
        }
        let last = AtomicU64::new(0);
        Histogram::from_arc(Arc::new(Both { ours: ours.build(), attributes: attributes(key), last, other }))
    }
}

fn attributes(key: &Key) -> Vec<KeyValue> {
    key.labels().map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned())).collect()
}

/// The unit, which the names tell.
fn unit(key: &Key) -> &'static str {
    let name = key.name();
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

/// An instrument of ours beside one of the other recorder's.
struct Both<O, T> {
    ours: O,
    attributes: Vec<KeyValue>,
    /// The value so far, of instruments that are told only its changes, or of which we are told only the sum.
    last: AtomicU64,
    other: T,
}

impl CounterFn for Both<opentelemetry::metrics::Counter<u64>, Counter> {
    fn increment(&self, value: u64) {
        self.last.fetch_add(value, Ordering::Relaxed);
        self.ours.add(value, &self.attributes);
        self.other.increment(value);
    }

    fn absolute(&self, value: u64) {
        let before = self.last.fetch_max(value, Ordering::Relaxed);
        self.ours.add(value.saturating_sub(before), &self.attributes);
        self.other.absolute(value);
    }
}

impl Both<opentelemetry::metrics::Gauge<f64>, Gauge> {
    fn change(&self, change: impl Fn(f64) -> f64) {
        let new = |bits| change(f64::from_bits(bits)).to_bits();
        // It always succeeds, and gives the value before.
        let update = |bits| Some(new(bits));
        let before = match self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update) {
            Ok(before) | Err(before) => before,
        };
        self.ours.record(f64::from_bits(new(before)), &self.attributes);
    }
}

impl GaugeFn for Both<opentelemetry::metrics::Gauge<f64>, Gauge> {
    fn increment(&self, value: f64) {
        self.change(|before| before + value);
        self.other.increment(value);
    }

    fn decrement(&self, value: f64) {
        self.change(|before| before - value);
        self.other.decrement(value);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
        self.other.set(value);
    }
}

impl HistogramFn for Both<opentelemetry::metrics::Histogram<f64>, Histogram> {
    fn record(&self, value: f64) {
        self.ours.record(value, &self.attributes);
        self.other.record(value);
    }
}
