//! Where traces and metrics are sent by OTLP, if anywhere.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::secret::Secret;
use super::section::Section;

/// How often metrics are sent, and how long a collector may take.
const TIME: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);

/// Where traces and metrics go, and how many of them.
#[derive(Clone, Debug)]
pub(crate) struct Telemetry {
    pub(crate) endpoint: String,
    /// What is sent with every request, such as a key.
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) traces: bool,
    pub(crate) metrics: bool,
    pub(crate) sampling_ratio: f64,
    pub(crate) service_name: String,
    pub(crate) resource: Vec<(String, String)>,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: Vec::new(),
            traces: true,
            metrics: true,
            sampling_ratio: 1.0,
            service_name: "outbox".to_owned(),
            resource: Vec::new(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }
    }
}

/// `None` if nothing is to be sent. `built` says whether this program can send anything.
pub(super) fn read(section: Section<'_>, built: bool) -> Option<Telemetry> {
    let s = &section;
    let allowed = "a URL such as \"http://localhost:4317\" or \"https://collector:4317\"";
    let endpoint = s.text("endpoint", allowed, is_endpoint);
    if endpoint.is_some() && !built {
        s.fault_in("endpoint", "this program was built without telemetry; build it with the feature otel");
    }
    s.choice("protocol", &[("grpc", ())]);
    let headers = s.secret("headers");
    let (traces, metrics) = (s.truth("traces"), s.truth("metrics"));
    let sampling_ratio = s.ratio("sampling_ratio");
    let service_name = s.any_text("service_name");
    let (interval, timeout) = (s.duration("interval", TIME), s.duration("timeout", TIME));
    let resource = s.section("resource");
    let attributes = resource.named_texts(|text| text);
    resource.finish();
    let made = endpoint.map(|endpoint| {
        let mut telemetry = Telemetry { endpoint, resource: attributes, ..Telemetry::default() };
        if let Some(headers) = &headers {
            match parse(headers) {
                Some(headers) => telemetry.headers = headers,
                None => s.fault_in(s.way("headers"), "must be name=value, and more of them after commas"),
            }
        }
        s.fill("traces", traces, &mut telemetry.traces);
        s.fill("metrics", metrics, &mut telemetry.metrics);
        s.fill("sampling_ratio", sampling_ratio, &mut telemetry.sampling_ratio);
        s.fill("service_name", service_name, &mut telemetry.service_name);
        s.fill("interval", interval, &mut telemetry.interval);
        s.fill("timeout", timeout, &mut telemetry.timeout);
        telemetry
    });
    if !s.has("endpoint") {
        s.alone("endpoint");
    }
    section.finish();
    made
}

fn is_endpoint(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("http://").or(text.strip_prefix("https://")) else { return false };
    // Credentials belong into the headers, where they are not shown.
    axum::http::Uri::try_from(text).is_ok() && !rest.is_empty() && !rest.contains('@')
}

/// Headers as `OTEL_EXPORTER_OTLP_HEADERS` has them.
fn parse(headers: &Secret) -> Option<Vec<(String, Secret)>> {
    let header = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = axum::http::HeaderName::try_from(name.trim().to_ascii_lowercase()).ok()?;
        let value = value.trim();
        axum::http::HeaderValue::try_from(value).ok()?.to_str().ok()?;
        Some((name.to_string(), Secret::new(value)))
    };
    headers.reveal().split(',').map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_pairs() {
        let read = |text: &str| {
            let headers = parse(&Secret::new(text))?;
            Some(headers.into_iter().map(|(name, value)| format!("{name}={}", value.reveal())).collect())
        };
        assert_eq!(read("X-Key=a=b"), Some(vec!["x-key=a=b".to_owned()]));
        assert_eq!(
            read("a=1, authorization=Bearer x"),
            Some(vec!["a=1".to_owned(), "authorization=Bearer x".to_owned()])
        );
        for wrong in ["a", "a b=c", "=c", "a=1,", "a=\u{7f}"] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_without_credentials() {
        assert!(is_endpoint("http://localhost:4317") && is_endpoint("https://collector.example"));
        for wrong in ["localhost:4317", "grpc://localhost", "http://", "http://a b", "http://me:pw@host:1"] {
            assert!(!is_endpoint(wrong), "{wrong}");
        }
    }
}
