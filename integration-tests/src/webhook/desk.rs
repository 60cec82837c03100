//! What the receiver does with requests, and its books.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Result, bail};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::{Request, Response};

use super::delivery::Delivery;

/// What happens to requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// They are taken and answered with 204.
    #[default]
    None,
    /// They are answered with this status. One of success takes them.
    Status(u16),
    /// They are answered with this status, a header `retry-after`, and a body.
    StatusWith(u16, &'static str, &'static str),
    /// They are answered with this status and the header `location`.
    Redirect(u16, String),
    /// They are taken. Then the connection ends without an answer.
    AnswerLost,
    /// One of three is refused with this status, beginning with the second. The others are taken.
    SomeRefused(u16),
    /// They are not answered, and the connection stays open.
    Silent,
    /// They are answered with this status and a body that never ends. One of success takes them.
    EndlessBody(u16),
}

#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fault: Fault,
    taken: Vec<Delivery>,
    requests: usize,
    connections: usize,
    at_work: usize,
    most_at_once: usize,
    /// For requests of which some are refused.
    turn: usize,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    pub(super) fn taken(&self, skip: usize) -> Vec<Delivery> {
        self.lock().taken.iter().skip(skip).cloned().collect()
    }

    pub(super) fn count(&self) -> usize {
        self.lock().taken.len()
    }

    pub(super) fn requests(&self) -> usize {
        self.lock().requests
    }

    pub(super) fn connections(&self) -> usize {
        self.lock().connections
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.lock().most_at_once
    }

    pub(super) fn connected(&self) {
        self.lock().connections += 1;
    }

    /// An error ends the connection without an answer.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Result<Response<Answer>> {
        let _at_work = AtWork::begin(self);
        let (head, body) = request.into_parts();
        let delivery = Delivery::new(&head, body.collect().await?.to_bytes());
        let fixed = delivery.path.strip_prefix("/status/").and_then(|status| status.parse().ok());
        let fault = {
            let mut inner = self.lock();
            inner.requests += 1;
            fixed.map_or_else(|| inner.fault.clone(), Fault::Status)
        };
        match fault {
            Fault::None => self.take(delivery, 204, Answer::Empty),
            Fault::Status(status) => self.take(delivery, status, Answer::Empty),
            Fault::StatusWith(status, retry_after, body) => {
                let mut response =
                    self.take(delivery, status, Answer::Text(Some(Bytes::from_static(body.as_bytes()))))?;
                response.headers_mut().insert("retry-after", retry_after.parse()?);
                Ok(response)
            }
            Fault::Redirect(status, location) => {
                let mut response = self.take(delivery, status, Answer::Empty)?;
                response.headers_mut().insert("location", location.parse()?);
                Ok(response)
            }
            Fault::AnswerLost => {
                self.take(delivery, 204, Answer::Empty)?;
                bail!("the answer is lost")
            }
            Fault::SomeRefused(status) => {
                let turn = {
                    let mut inner = self.lock();
                    inner.turn += 1;
                    inner.turn
                };
                let status = if turn % 3 == 2 { status } else { 204 };
                self.take(delivery, status, Answer::Empty)
            }
            Fault::Silent => std::future::pending().await,
            Fault::EndlessBody(status) => self.take(delivery, status, Answer::Endless),
        }
    }

    fn take(&self, delivery: Delivery, status: u16, body: Answer) -> Result<Response<Answer>> {
        let response = Response::builder().status(status).body(body)?;
        if response.status().is_success() {
            self.lock().taken.push(delivery);
        }
        Ok(response)
    }
}

/// Counts a request as long as it is at work.
struct AtWork<'a>(&'a Desk);

impl<'a> AtWork<'a> {
    fn begin(desk: &'a Desk) -> Self {
        let mut inner = desk.lock();
        inner.at_work += 1;
        inner.most_at_once = inner.most_at_once.max(inner.at_work);
        Self(desk)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.lock().at_work -= 1;
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Answer {
    Empty,
    Text(Option<Bytes>),
    Endless,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const CHUNK: &[u8] = &[b'x'; 16 << 10];
        Poll::Ready(match &mut *self {
            Self::Empty => None,
            Self::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Self::Endless => Some(Ok(Frame::data(Bytes::from_static(CHUNK)))),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty | Self::Text(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Endless => SizeHint::default(),
        }
    }
}
