//! The metrics a relay records through the [`metrics`] facade.
//!
//! Every one carries the labels `store` and `publisher` with the names of the two, and those of
//! [`RelayBuilder::metrics_label`](crate::relay::RelayBuilder::metrics_label): without one of these, several relays of
//! the same kinds in one process write into the same metrics. Install a recorder before the relay starts; without one,
//! recording costs next to nothing.
//!
//! | name | kind | unit | meaning |
//! | --- | --- | --- | --- |
//! | `outbox_published_total` | counter | messages | handed to the publisher, retries included |
//! | `outbox_confirmed_total` | counter | messages | confirmed by the broker |
//! | `outbox_retried_total` | counter | messages | failed and to be tried again |
//! | `outbox_held_total` | counter | messages | held back behind an earlier message of their key that failed |
//! | `outbox_parked_total` | counter | messages | held back because their key had more than its share of the relay's memory |
//! | `outbox_parked_keys` | gauge | keys | of which this relay holds messages back for that reason |
//! | `outbox_dead_total` | counter | messages | moved to the dead letters |
//! | `outbox_unknown_total` | counter | messages | with an unknown outcome, so that a duplicate may arise |
//! | `outbox_in_flight` | gauge | messages | in memory between fetch and settle |
//! | `outbox_in_flight_bytes` | gauge | bytes | their size |
//! | `outbox_backlog` | gauge | messages | undelivered in the store (counted up to a limit, see `stats_limit`) |
//! | `outbox_dead_letters` | gauge | messages | dead letters in the store (counted up to the same limit) |
//! | `outbox_lag_seconds` | gauge | seconds | age of the oldest undelivered message |
//! | `outbox_commit_to_confirm_seconds` | histogram | seconds | from enqueueing to the broker's confirm |
//! | `outbox_publish_seconds` | histogram | seconds | length of one publish call |
//! | `outbox_fetch_batch_messages` | histogram | messages | rows of a fetch that brought any |
//! | `outbox_publish_batch_messages` | histogram | messages | size of a publish call |
//! | `outbox_settle_batch_messages` | histogram | messages | size of a settle call |
//! | `outbox_leases` | gauge | partitions | owned by this relay |
//! | `outbox_partitions` | gauge | partitions | of the whole group; 0 until the store has been reached once |
//! | `outbox_circuit_open` | gauge | 0 or 1 | whether the broker is considered down |
//! | `outbox_store_errors_total` | counter | calls | failed calls to the store |
//! | `outbox_purged_total` | counter | messages | kept delivered messages that were purged |

use metrics::{Counter, Gauge, Histogram, Label};

use crate::error::{Error, Result};

const STORE: &str = "store";
const PUBLISHER: &str = "publisher";

/// Checks a label that somebody adds, so that no recorder is surprised by it.
pub(crate) fn validate(labels: &[Label]) -> Result<()> {
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    for (number, label) in labels.iter().enumerate() {
        let taken = [STORE, PUBLISHER].contains(&label.key())
            || labels[..number].iter().any(|other| other.key() == label.key());
        let problem = match is_name(label.key()) {
            false => {
                "the name of a label must be letters, digits and underscores, and not begin with a digit"
            }
            true if taken => "a label of this name is there already",
            true => continue,
        };
        return Err(Error::config(problem).with("label", label.key()));
    }
    Ok(())
}

macro_rules! instruments {
    ($($field:ident: $kind:ident = $constructor:ident($name:literal);)*) => {
        /// The instruments of one relay, looked up once.
        pub(crate) struct Metrics {
            $(pub(crate) $field: $kind,)*
        }

        impl Metrics {
            pub(crate) fn new(store: &'static str, publisher: &'static str, more: &[Label]) -> Self {
                let mut labels = vec![Label::new(STORE, store), Label::new(PUBLISHER, publisher)];
                labels.extend_from_slice(more);
                Self { $($field: metrics::$constructor!($name, labels.clone()),)* }
            }
        }

        /// The names of all metrics, for tests and for those who build dashboards.
        pub const NAMES: &[&str] = &[$($name,)*];
    };
}

instruments! {
    published: Counter = counter("outbox_published_total");
    confirmed: Counter = counter("outbox_confirmed_total");
    retried: Counter = counter("outbox_retried_total");
    held: Counter = counter("outbox_held_total");
    parked: Counter = counter("outbox_parked_total");
    parked_keys: Gauge = gauge("outbox_parked_keys");
    dead: Counter = counter("outbox_dead_total");
    unknown: Counter = counter("outbox_unknown_total");
    in_flight: Gauge = gauge("outbox_in_flight");
    in_flight_bytes: Gauge = gauge("outbox_in_flight_bytes");
    backlog: Gauge = gauge("outbox_backlog");
    dead_letters: Gauge = gauge("outbox_dead_letters");
    lag: Gauge = gauge("outbox_lag_seconds");
    commit_to_confirm: Histogram = histogram("outbox_commit_to_confirm_seconds");
    publish_time: Histogram = histogram("outbox_publish_seconds");
    fetch_batch: Histogram = histogram("outbox_fetch_batch_messages");
    publish_batch: Histogram = histogram("outbox_publish_batch_messages");
    settle_batch: Histogram = histogram("outbox_settle_batch_messages");
    leases: Gauge = gauge("outbox_leases");
    partitions: Gauge = gauge("outbox_partitions");
    circuit_open: Gauge = gauge("outbox_circuit_open");
    store_errors: Counter = counter("outbox_store_errors_total");
    purged: Counter = counter("outbox_purged_total");
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit};

    /// Keeps what is asked for.
    #[derive(Default)]
    struct Keys(Mutex<Vec<Key>>);

    impl Recorder for Keys {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            self.0.lock().unwrap().push(key.clone());
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            self.0.lock().unwrap().push(key.clone());
            Gauge::noop()
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.0.lock().unwrap().push(key.clone());
            Histogram::noop()
        }
    }

    #[test]
    fn every_metric_carries_every_label() {
        let keys = Keys::default();
        metrics::with_local_recorder(&keys, || {
            super::Metrics::new("a store", "a publisher", &[Label::new("route", "orders")]);
        });
        let keys = keys.0.into_inner().unwrap();
        assert_eq!(keys.len(), super::NAMES.len());
        for key in keys {
            let labels: Vec<_> = key.labels().map(|label| (label.key(), label.value())).collect();
            let expected = [("store", "a store"), ("publisher", "a publisher"), ("route", "orders")];
            assert_eq!(labels, expected, "{key}");
        }
    }

    #[test]
    fn a_label_has_a_name_of_its_own() {
        let validate = |names: &[&'static str]| {
            let labels: Vec<_> = names.iter().map(|name| Label::new(*name, "x")).collect();
            super::validate(&labels).map_err(|error| error.to_string())
        };
        assert_eq!(validate(&["route", "_x9"]), Ok(()));
        for (names, problem) in [
            (&["store"][..], "there already"),
            (&["publisher"], "there already"),
            (&["a", "a"], "there already"),
            (&[""], "must be letters"),
            (&["9a"], "must be letters"),
            (&["a-b"], "must be letters"),
        ] {
            let error = validate(names).unwrap_err();
            assert!(error.contains(problem), "{names:?}: {error}");
        }
    }

    #[test]
    fn every_metric_is_in_the_documented_table() {
        let source = include_str!("metrics.rs");
        for name in super::NAMES {
            assert!(source.contains(&format!("//! | `{name}` |")), "{name} is not documented");
        }
    }
}
