//! Reads an answer: what it says of the request, and enough of its body to use the connection again.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderMap, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::destination::Destination;

/// The most bytes of a body that are read. A longer one costs its connection.
const MOST_READ: usize = 64 << 10;
/// The most bytes of a body that an error shows.
const MOST_SHOWN: usize = 1 << 10;
/// Maximum time to wait for the body. The status alone decides the outcome.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a receiver has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    /// The beginning of its body, for people.
    pub(crate) text: String,
}

impl Answer {
    /// Reads the part of the answer that arrives before the deadline.
    pub(crate) async fn read<B>(response: Response<B>, destination: &Destination, deadline: Instant) -> Self
    where
        B: BodyExt<Data = Bytes> + Unpin,
    {
        let (head, mut body) = response.into_parts();
        let deadline = deadline.min(Instant::now() + PATIENCE);
        let mut read = 0;
        let mut shown = Vec::new();
        while read <= MOST_READ {
            let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else { break };
            let Ok(data) = frame.into_data() else { continue };
            read += data.len();
            // More than is shown, so that a secret at its end is recognized as a whole.
            let wanted = (MOST_READ - shown.len()).min(data.len());
            shown.extend_from_slice(&data[..wanted]);
        }
        let text = if head.status.is_success() { String::new() } else { readable(&shown, destination) };
        Self { status: head.status, retry_after: retry_after(&head.headers, SystemTime::now()), text }
    }
}

/// A line that may be stored and shown: without control characters, and without what is a secret of the request. Receivers
/// like to repeat the path, and some repeat the headers.
fn readable(body: &[u8], destination: &Destination) -> String {
    let mut text = String::from_utf8_lossy(body).into_owned();
    let path = destination.uri.path_and_query().map(|path| path.as_str());
    let paths = path.into_iter().chain([destination.uri.path()]).filter(|path| path.len() > 1);
    let values = destination.headers.values().filter_map(|value| value.to_str().ok());
    for secret in paths.chain(values.filter(|value| !value.is_empty())) {
        text = text.replace(secret, "(hidden)");
    }
    let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = line.collect::<Vec<_>>().join(" ");
    if line.len() > MOST_SHOWN {
        let end = (0..=MOST_SHOWN).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// Seconds, or a date: <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has mean a very long time.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;
    use http_body_util::Full;

    use super::*;
    use crate::endpoint::Endpoint;
    use crate::network::Guard;

    fn destination() -> Destination {
        let endpoint =
            Endpoint::new("https://example.com/hooks/s3cret?key=s3cret2").header("x-key", "s3cret3");
        endpoint.destination("billing", &Guard::default()).unwrap()
    }

    async fn text(status: u16, body: impl Into<Bytes>) -> String {
        let response = Response::builder().status(status).body(Full::new(body.into())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(3600);
        Answer::read(response, &destination(), deadline).await.text
    }

    #[tokio::test]
    async fn the_beginning_of_a_refusal_is_kept_in_one_line() {
        assert_eq!(text(400, "no\r\n\tsuch\0 order\n").await, "no such order");
        assert_eq!(text(200, "thanks").await, "");
        assert_eq!(text(500, "").await, "");
        assert_eq!(text(500, vec![0xff]).await, "\u{fffd}");
        let long = text(500, "ü".repeat(100_000)).await;
        assert!(long.len() <= MOST_SHOWN + '…'.len_utf8() && long.ends_with("ü…"), "{}", long.len());
    }

    #[tokio::test]
    async fn what_is_secret_of_the_request_is_not_kept() {
        let echo = "Cannot POST /hooks/s3cret?key=s3cret2, nor /hooks/s3cret with x-key: s3cret3";
        assert_eq!(text(404, echo).await, "Cannot POST (hidden), nor (hidden) with x-key: (hidden)");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Mon, 30 Nov 2026 20:00:00 GMT").unwrap();
        let seconds = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, now).map(|after| after.as_secs())
        };
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("99999999999999999999999"), Some(u64::MAX));
        assert_eq!(seconds("Mon, 30 Nov 2026 20:02:00 GMT"), Some(120));
        assert_eq!(seconds("Mon, 30 Nov 2026 19:00:00 GMT"), Some(0));
        for nonsense in ["", "-1", "+5", "1.5", "soon"] {
            assert_eq!(seconds(nonsense), None, "{nonsense}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
