//! A message made ready to be sent, with everything refused that cannot be.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use outbox_core::{Error, ErrorKind, Message, Result};

use crate::destination::{Destination, Destinations};
use crate::headers::{self, SIGNATURE, TIMESTAMP};

/// A message ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) destination: Arc<Destination>,
    id: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Outgoing {
    /// Reads the message's options, routes it, and makes its headers.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] and [`ErrorKind::TooLarge`], both permanent, and [`ErrorKind::NotFound`].
    pub(crate) fn new(
        index: usize,
        message: &Message,
        destinations: &Destinations,
        max_message_bytes: usize,
    ) -> Result<Self> {
        let destination = destinations.of(message)?;
        let body = message.payload().clone();
        if body.len() > max_message_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the payload is larger than max_message_bytes; keep it elsewhere and send a reference to it",
            )
            .with("bytes", body.len())
            .with("max_message_bytes", max_message_bytes));
        }
        let headers =
            headers::of(message, &destination).map_err(|error| error.with("endpoint", &destination.name))?;
        Ok(Self { index, destination, id: message.id().to_string(), headers, body })
    }

    /// The request of one attempt. Its signature has the attempt's time, in seconds since 1970.
    pub(crate) fn request(&self, timestamp: u64) -> Result<Request<Full<Bytes>>, http::Error> {
        let Destination { uri, signer, .. } = &*self.destination;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        let mut headers = self.headers.clone();
        headers.try_insert(TIMESTAMP, HeaderValue::from(timestamp))?;
        if !signer.is_empty() {
            let value = HeaderValue::try_from(signer.sign(&self.id, timestamp, &self.body))?;
            headers.try_insert(SIGNATURE, value)?;
        }
        *request.headers_mut() = headers;
        Ok(request)
    }
}
