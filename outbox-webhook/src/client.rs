//! The HTTP client, and the connections that it keeps for further requests.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::connector::Connector;

/// Large enough for the head of any answer that means something.
const MAX_ANSWER_HEAD: usize = 64 << 10;
/// When a silent HTTP/2 connection gets a ping, and how long the answer may take, as parts of the time of a call. Their sum is
/// below 1, so that the next call does not use a dead connection.
const PING_AFTER: f64 = 0.25;
const PING_TIMEOUT: f64 = 0.5;

pub(crate) type Http = HyperClient<Connector, Full<Bytes>>;

/// Gives each call a client. All calls share its connections.
///
/// A dropped HTTP/1 request takes its connection along. A dropped HTTP/2 request is reset, and the others on its connection
/// go on.
pub(crate) struct Client {
    connector: Connector,
    times: Times,
    current: Mutex<Http>,
}

/// How long connections may be unused, and silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) idle_timeout: Duration,
    pub(crate) call_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("times", &self.times).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(connector: Connector, times: Times) -> Self {
        let current = Mutex::new(http(&connector, times));
        Self { connector, times, current }
    }

    pub(crate) fn connector(&self) -> Connector {
        self.connector.clone()
    }

    pub(crate) fn get(&self) -> Http {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes connections that nobody uses, and others with their last request.
    pub(crate) fn close(&self) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = http(&self.connector, self.times);
    }
}

/// It follows no redirects, knows no proxies and no cookies, and repeats a request only if nothing of it was sent.
fn http(connector: &Connector, times: Times) -> Http {
    HyperClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(times.idle_timeout)
        .http1_max_buf_size(MAX_ANSWER_HEAD)
        .http2_keep_alive_interval(times.call_timeout.mul_f64(PING_AFTER))
        .http2_keep_alive_timeout(times.call_timeout.mul_f64(PING_TIMEOUT))
        .build(connector.clone())
}
