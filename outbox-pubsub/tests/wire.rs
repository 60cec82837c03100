//! What is on the wire, and what is made of answers that the fake does not give: the other side is a small server of
//! HTTP/2 that answers as it is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::{CacheableResource, Credentials, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::{Extensions, HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::with_growing_limit;
use outbox_core::{ErrorKind, Message, MessageId, Publisher, Scope, Verdict};
use outbox_pubsub::tonic::transport::Endpoint;
use outbox_pubsub::{PubSubOptions, PubSubPublisher, Topic, google_cloud_auth};
use prost::Message as _;
use tokio::net::TcpListener;

#[derive(Clone, PartialEq, prost::Message)]
struct PubsubMessage {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
    #[prost(btree_map = "string, string", tag = "2")]
    attributes: BTreeMap<String, String>,
    #[prost(string, tag = "5")]
    ordering_key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishRequest {
    #[prost(string, tag = "1")]
    topic: String,
    #[prost(message, repeated, tag = "2")]
    messages: Vec<PubsubMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PublishResponse {
    #[prost(string, repeated, tag = "1")]
    message_ids: Vec<String>,
}

#[derive(Clone, Debug)]
enum Answer {
    /// Each message is confirmed, and so many more.
    Confirm(usize),
    /// A code of gRPC.
    Code(u16),
    /// A status of HTTP, from something between.
    Http(u16),
    /// Nothing on this connection any more.
    Silence,
}

#[derive(Debug)]
struct Seen {
    path: String,
    headers: HeaderMap,
    body: PublishRequest,
}

#[derive(Clone, Default)]
struct Peer {
    /// What is answered next; each message is confirmed when there is nothing more.
    answers: Arc<Mutex<VecDeque<Answer>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Peer {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> (Self, SocketAddr) {
        let peer = Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = peer.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (peer, silent) = (serving.clone(), Arc::new(AtomicBool::new(false)));
                let service = service_fn(move |request| peer.clone().answer(request, silent.clone()));
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        (peer, address)
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
        silent: Arc<AtomicBool>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        // A frame: a flag of compression, the length, the message.
        // Other requests have other fields, of which no test asks.
        let body = PublishRequest::decode(&bytes[5..]).unwrap_or_default();
        let count = body.messages.len();
        self.seen.lock().unwrap().push(Seen {
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            body,
        });
        if silent.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let answer = self.answers.lock().unwrap().pop_front().unwrap_or(Answer::Confirm(0));
        let grpc = Response::builder().header("content-type", "application/grpc");
        Ok(match answer {
            Answer::Confirm(more) => {
                let ids = (0..count + more).map(|i| i.to_string()).collect();
                let message = PublishResponse { message_ids: ids }.encode_to_vec();
                let frame =
                    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
                // The status would be a trailer; in front of the message it is understood as well.
                grpc.header("grpc-status", "0").body(Full::new(frame.into())).unwrap()
            }
            Answer::Code(code) => {
                let answer = grpc.header("grpc-status", code.to_string()).header("grpc-message", "as told");
                answer.body(Full::default()).unwrap()
            }
            Answer::Http(status) => Response::builder().status(status).body(Full::default()).unwrap(),
            Answer::Silence => {
                silent.store(true, Ordering::SeqCst);
                std::future::pending().await
            }
        })
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

#[derive(Debug)]
struct Token(Result<&'static str, bool>);

impl CredentialsProvider for Token {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let token = self.0.map_err(|transient| CredentialsError::from_msg(transient, "the key is s3cret"))?;
        let value = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let data = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

fn publisher(address: SocketAddr, token: Token) -> PubSubPublisher {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let builder = PubSubPublisher::builder(Credentials::from(token)).transport(endpoint);
    builder.project("shop").call_timeout(Duration::from_secs(100)).build().unwrap()
}

fn message(payload: &'static str) -> Message {
    Message::bytes("orders", payload).build().unwrap()
}

#[tokio::test]
async fn what_the_service_gets() {
    let (peer, address) = Peer::start([]).await;
    let id = |n: u8| -> MessageId { format!("018f4d2e-7b1a-7c3d-9e5f-0123456789{n:02x}").parse().unwrap() };
    let batch = [
        Message::bytes("orders", "bare").id(id(0)).build().unwrap(),
        Message::bytes("orders", "").id(id(1)).build().unwrap(),
        Message::bytes("orders", "{}")
            .id(id(2))
            .key("customer 4")
            .content_type("application/json")
            .header("tenant", "acme")
            .build()
            .unwrap(),
        Message::bytes("orders", "second of its key").id(id(3)).key("customer 4").build().unwrap(),
        Message::bytes("projects/other/topics/mail+in", "chosen")
            .id(id(4))
            .key("k")
            .options(&PubSubOptions::new().ordering_key("chosen"))
            .build()
            .unwrap(),
    ];
    for outcome in publisher(address, Token(Ok("a-token"))).publish(&batch).await {
        outcome.unwrap();
    }
    let mut seen = peer.seen.lock().unwrap().drain(..).collect::<Vec<_>>();
    seen.sort_by(|left, right| left.body.messages[0].attributes.cmp(&right.body.messages[0].attributes));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let shape: Vec<_> = seen
        .iter()
        .map(|Seen { path, headers, body }| {
            // Its number is what is left of the deadline.
            assert!(headers.contains_key("grpc-timeout"), "{headers:?}");
            let names = ["authorization", "content-type", "te", "x-goog-request-params"];
            let headers: BTreeMap<_, _> =
                names.iter().map(|name| (*name, text(headers[*name].as_bytes()))).collect();
            let messages: Vec<_> = body
                .messages
                .iter()
                .map(|message| {
                    let PubsubMessage { data, attributes, ordering_key } = message;
                    serde_json::json!({
                        "data": text(data), "attributes": attributes, "ordering_key": ordering_key
                    })
                })
                .collect();
            serde_json::json!({ "path": path, "headers": headers, "topic": body.topic, "messages": messages })
        })
        .collect();
    insta::assert_json_snapshot!(shape);
}

#[tokio::test]
async fn each_request_is_made_once_whatever_the_answer() {
    // Ready-made clients repeat most of these by themselves.
    let codes = [1, 2, 3, 4, 5, 7, 8, 9, 10, 13, 14, 15, 16];
    let (peer, address) = Peer::start(codes.map(Answer::Code)).await;
    let publisher = publisher(address, Token(Ok("a-token")));
    for (done, code) in codes.into_iter().enumerate() {
        let error = publisher.publish(&[message("x")]).await.remove(0).unwrap_err();
        assert_eq!(peer.requests(), done + 1, "code {code}");
        assert!(error.report().contains("as told"), "{}", error.report());
        assert!(!error.report().contains("a-token"), "{}", error.report());
    }
    publisher.publish(&[message("x")]).await.remove(0).unwrap();
}

#[tokio::test]
async fn what_stands_between_is_not_taken_for_the_service() {
    for (status, kind, verdict) in [
        (401, ErrorKind::Permission, Verdict::Retry),
        (403, ErrorKind::Permission, Verdict::Retry),
        (404, ErrorKind::Unsupported, Verdict::Retry),
        (502, ErrorKind::Unavailable, Verdict::Unknown),
        (503, ErrorKind::Unavailable, Verdict::Unknown),
        (500, ErrorKind::Interrupted, Verdict::Unknown),
    ] {
        let (_, address) = Peer::start([Answer::Http(status)]).await;
        let outcomes = publisher(address, Token(Ok("a-token"))).publish(&[message("x")]).await;
        let error = outcomes[0].as_ref().unwrap_err();
        let judged = (error.kind(), error.verdict(), error.scope());
        assert_eq!(judged, (kind, verdict, Scope::Endpoint), "{status}: {}", error.report());
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_confirms_nothing() {
    let (_, address) = Peer::start([Answer::Confirm(1)]).await;
    for outcome in publisher(address, Token(Ok("a-token"))).publish(&[message("x"), message("y")]).await {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.verdict()), (ErrorKind::Internal, Verdict::Unknown));
    }
}

#[tokio::test]
async fn encryption_needs_nothing_that_the_program_installs() {
    // It speaks no TLS, so nothing of the request leaves.
    let (peer, address) = Peer::start([]).await;
    let builder = PubSubPublisher::builder(Credentials::from(Token(Ok("a-token"))));
    let builder = builder.endpoint(format!("https://{address}")).project("shop");
    let publisher = builder.call_timeout(Duration::from_secs(100)).build().unwrap();
    let error = publisher.publish(&[message("x")]).await.remove(0).unwrap_err();
    let judged = (error.kind(), error.verdict(), error.scope());
    assert_eq!(judged, (ErrorKind::Unavailable, Verdict::Retry, Scope::Endpoint), "{}", error.report());
    assert_eq!(peer.requests(), 0);
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_not_used_again() {
    with_growing_limit(async |limit| {
        let (peer, address) = Peer::start([Answer::Confirm(0), Answer::Silence]).await;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let builder = PubSubPublisher::builder(Credentials::from(Token(Ok("t")))).transport(endpoint);
        let publisher = builder.project("shop").call_timeout(limit).build().unwrap();
        let publish = async || publisher.publish(&[message("x")]).await.remove(0);
        publish().await.map_err(|error| error.report())?;
        let error = publish().await.unwrap_err();
        let judged = (error.kind(), error.verdict(), error.scope());
        if judged != (ErrorKind::Timeout, Verdict::Unknown, Scope::Endpoint) {
            return Err(error.report());
        }
        publish().await.map_err(|error| error.report())?;
        assert_eq!(peer.requests(), 3);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_nobody_is_blamed() {
    for (transient, kind) in [(true, ErrorKind::Unavailable), (false, ErrorKind::Permission)] {
        let (peer, address) = Peer::start([]).await;
        let publisher = publisher(address, Token(Err(transient)));
        for outcome in publisher.publish(&[message("x"), message("y")]).await {
            let error = outcome.unwrap_err();
            let judged = (error.kind(), error.verdict(), error.scope());
            assert_eq!(judged, (kind, Verdict::Retry, Scope::Endpoint), "{}", error.report());
            assert!(!error.report().contains("s3cret"), "{}", error.report());
        }
        assert_eq!(publisher.connect().await.unwrap_err().kind(), kind);
        assert_eq!(peer.requests(), 0);
    }
}

#[tokio::test]
async fn who_may_not_look_is_told_which_right_that_takes() {
    const PERMISSION_DENIED: u16 = 7;
    const UNAUTHENTICATED: u16 = 16;
    let (peer, address) = Peer::start([
        Answer::Code(PERMISSION_DENIED),
        Answer::Code(PERMISSION_DENIED),
        Answer::Code(PERMISSION_DENIED),
        Answer::Code(UNAUTHENTICATED),
    ])
    .await;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let builder = || {
        PubSubPublisher::builder(Credentials::from(Token(Ok("a-token"))))
            .transport(endpoint.clone())
            .project("shop")
    };
    let (named, any) =
        (builder().route("x", Topic::id("orders")).build().unwrap(), builder().build().unwrap());
    let error = named.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{}", error.report());
    assert!(error.report().contains("pubsub.topics.get"), "{}", error.report());
    assert_eq!(named.unordered_subscriptions().await.unwrap(), Vec::<String>::new());
    // Whoever may not list topics has been recognized.
    any.check().await.unwrap();
    assert_eq!(any.check().await.unwrap_err().kind(), ErrorKind::Permission);

    let seen = peer.seen.lock().unwrap();
    let asked: Vec<_> = seen.iter().map(|seen| seen.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(asked, ["GetTopic", "ListTopicSubscriptions", "ListTopics", "ListTopics"]);
    for (seen, of) in seen.iter().zip(["topic=projects%2Fshop%2Ftopics%2Forders"; 2]) {
        assert_eq!(seen.headers["x-goog-request-params"], of);
        assert_eq!(seen.headers["authorization"], "Bearer a-token");
    }
}
