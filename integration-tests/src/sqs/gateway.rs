//! A gateway in front of an SQS server. It counts requests, and fails like a service rather than like a
//! network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::runtime;

/// The behaviour of a [`Gateway`] for requests that send messages. Other requests pass with every failure
/// except the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// They pass.
    None,
    /// They are refused, as by a throttling service. The server never sees them.
    Throttled,
    /// The server executes them. Then the connection ends, and the client never learns of it.
    AnswerLost,
    /// Every second message of a request is refused, starting with the second, as by a service with an
    /// internal error: the server never sees it, and the response reports it. For single messages, every
    /// second request.
    EverySecondRefused,
    /// Each message is refused because of throttling, and the request succeeds.
    EachThrottled,
    /// They are refused as a whole if one of their bodies contains the word `poison`.
    PoisonRefused,
    /// All other requests are refused because of a missing permission.
    LookingDenied,
}

/// A gateway in front of a server, on a separate port of the loopback address. It ends when dropped.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    fault: Fault,
    /// The name of each action, with its number of messages.
    requests: Vec<(String, usize)>,
    /// The last request that sent messages.
    last_batch: Value,
    /// The bodies of messages that the server has confirmed, if logging is enabled.
    log: Option<Vec<String>>,
    /// For requests with one message.
    odd: bool,
}

impl Gateway {
    pub(super) async fn start(target: SocketAddr) -> Self {
        let inner = Inner {
            fault: Fault::None,
            requests: Vec::new(),
            last_batch: Value::Null,
            log: None,
            odd: false,
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        let state = Arc::new(State { target, client, inner: Mutex::new(inner) });
        let listener = runtime::run(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).await;
        let listener = listener.expect("a gateway needs a port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let task = runtime::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, task }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the behaviour for later requests.
    pub fn set(&self, fault: Fault) {
        self.state.lock().fault = fault;
    }

    /// The body of the last request that sent messages; null before there was one.
    pub fn last_batch(&self) -> Value {
        self.state.lock().last_batch.clone()
    }

    /// From now on, records the body of every message that the server confirms, whether or not its response
    /// is lost on the way. Not with the other failures.
    pub fn keep_log(&self) {
        self.state.lock().log.get_or_insert_default();
    }

    /// The bodies of the messages that the server has confirmed since [`keep_log`](Self::keep_log), in the
    /// order of its answers.
    pub fn log(&self) -> Vec<String> {
        self.state.lock().log.clone().unwrap_or_default()
    }

    /// Number of bodies in [`log`](Self::log).
    pub fn logged(&self) -> usize {
        self.state.lock().log.as_ref().map_or(0, Vec::len)
    }

    /// Number of messages in each request of this action so far, such as `SendMessageBatch`.
    pub fn requests(&self, action: &str) -> Vec<usize> {
        let inner = self.state.lock();
        inner.requests.iter().filter(|(name, _)| name == action).map(|(_, messages)| *messages).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { state.answer(request).await }
        });
        // The client notices its end, whatever the reason.
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error ends the connection without an answer.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let action = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
        let action = action.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned();
        let body = body.collect().await?.to_bytes();
        if action != "SendMessageBatch" {
            let fault = {
                let mut inner = self.lock();
                inner.requests.push((action, 0));
                inner.fault
            };
            return match fault {
                Fault::LookingDenied => Ok(refusal("AccessDenied")),
                _ => self.forward(&head.headers, body).await,
            };
        }
        let batch: Value = serde_json::from_slice(&body)?;
        let entries = batch["Entries"].as_array().cloned().unwrap_or_default();
        let fault = {
            let mut inner = self.lock();
            inner.requests.push((action, entries.len()));
            inner.last_batch = batch;
            inner.fault
        };
        match fault {
            Fault::None | Fault::LookingDenied => self.forward_and_note(&head.headers, body, &entries).await,
            Fault::Throttled => Ok(refusal("RequestThrottled")),
            Fault::AnswerLost => {
                self.forward_and_note(&head.headers, body, &entries).await?;
                bail!("the answer is lost")
            }
            Fault::PoisonRefused => {
                let poison =
                    |entry: &Value| entry["MessageBody"].as_str().is_some_and(|b| b.contains("poison"));
                if entries.iter().any(poison) {
                    return Ok(refusal("InvalidMessageContents"));
                }
                self.forward(&head.headers, body).await
            }
            Fault::EachThrottled => Ok(batch_answer(Vec::new(), &entries, "RequestThrottled")),
            Fault::EverySecondRefused => self.forward_every_second(&head.headers, &body, entries).await,
        }
    }

    async fn forward_and_note(
        &self,
        headers: &HeaderMap,
        body: Bytes,
        entries: &[Value],
    ) -> Result<Response<Full<Bytes>>> {
        let (head, body) = self.forward(headers, body).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        if let Some(log) = &mut self.lock().log {
            let answer: Value = serde_json::from_slice(&body)?;
            let taken = answer["Successful"].as_array().into_iter().flatten();
            let taken: Vec<&Value> = taken.map(|entry| &entry["Id"]).collect();
            let taken = entries.iter().filter(|entry| taken.contains(&&entry["Id"]));
            log.extend(taken.filter_map(|entry| entry["MessageBody"].as_str().map(str::to_owned)));
        }
        Ok(Response::from_parts(head, Full::new(body)))
    }

    async fn forward_every_second(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        entries: Vec<Value>,
    ) -> Result<Response<Full<Bytes>>> {
        let first = if entries.len() == 1 {
            let mut inner = self.lock();
            inner.odd = !inner.odd;
            usize::from(inner.odd)
        } else {
            0
        };
        let (taken, refused): (Vec<_>, Vec<_>) =
            entries.into_iter().enumerate().partition(|(place, _)| (place + first) % 2 == 0);
        let refused: Vec<Value> = refused.into_iter().map(|(_, entry)| entry).collect();
        if taken.is_empty() {
            return Ok(batch_answer(Vec::new(), &refused, "InternalError"));
        }
        let mut request: Value = serde_json::from_slice(body)?;
        request["Entries"] = taken.into_iter().map(|(_, entry)| entry).collect();
        let answer = self.forward(headers, serde_json::to_vec(&request)?.into()).await?;
        let answer: Value = serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?;
        let taken = answer["Successful"].as_array().cloned().unwrap_or_default();
        Ok(batch_answer(taken, &refused, "InternalError"))
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> Result<Response<Full<Bytes>>> {
        let mut request = Request::post(format!("http://{}/", self.target));
        for name in ["x-amz-target", "content-type", "authorization", "x-amz-date", "x-amzn-query-mode"] {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let answer = self.client.request(request.body(Full::new(body))?).await.context("the server")?;
        let (mut head, body) = answer.into_parts();
        head.headers.remove("transfer-encoding");
        Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
    }
}

fn refusal(code: &str) -> Response<Full<Bytes>> {
    let body = json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": "by the gateway" });
    let response = Response::builder()
        .status(StatusCode::BAD_REQUEST)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amzn-query-error", format!("{code};Sender"))
        .body(Full::new(Bytes::from(body.to_string())));
    response.expect("a response of constants can be built")
}

fn batch_answer(successful: Vec<Value>, refused: &[Value], code: &str) -> Response<Full<Bytes>> {
    let failed: Vec<Value> = refused
        .iter()
        .map(|entry| json!({ "Id": entry["Id"], "Code": code, "SenderFault": false, "Message": "by the gateway" }))
        .collect();
    let body = json!({ "Successful": successful, "Failed": failed });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    response
        .headers_mut()
        .insert("content-type", hyper::header::HeaderValue::from_static("application/x-amz-json-1.0"));
    response
}
