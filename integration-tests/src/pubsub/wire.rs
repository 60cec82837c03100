//! The part of Pub/Sub's protocol that tests need:
//! <https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1>.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ::http::uri::PathAndQuery;
use anyhow::Result;
use bytes::Bytes;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// A message as a subscriber receives it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PubsubMessage {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// The attributes.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attributes: BTreeMap<String, String>,
    /// The id that the service assigned.
    #[prost(string, tag = "3")]
    pub message_id: String,
    /// The ordering key, or an empty string.
    #[prost(string, tag = "5")]
    pub ordering_key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PublishRequest {
    #[prost(string, tag = "1")]
    pub(super) topic: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) messages: Vec<PubsubMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PublishResponse {
    #[prost(string, repeated, tag = "1")]
    pub(super) message_ids: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Topic {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Subscription {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) topic: String,
    #[prost(int32, tag = "5")]
    pub(super) ack_deadline_seconds: i32,
    #[prost(bool, tag = "10")]
    pub(super) enable_message_ordering: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PullRequest {
    #[prost(string, tag = "1")]
    pub(super) subscription: String,
    #[prost(int32, tag = "3")]
    pub(super) max_messages: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReceivedMessage {
    #[prost(string, tag = "1")]
    pub(super) ack_id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) message: Option<PubsubMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PullResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) received_messages: Vec<ReceivedMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AcknowledgeRequest {
    #[prost(string, tag = "1")]
    pub(super) subscription: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) ack_ids: Vec<String>,
}

/// A client without credentials. It belongs to the runtime on which it was created.
#[derive(Clone, Debug)]
pub(super) struct Client(Channel);

impl Client {
    pub(super) fn new(address: SocketAddr) -> Result<Self> {
        Ok(Self(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy()))
    }

    /// Calls `google.pubsub.v1.METHOD`, such as `Publisher/Publish`.
    pub(super) async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, tonic::Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let path =
            PathAndQuery::try_from(format!("/google.pubsub.v1.{method}")).expect("a method has a path");
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(64 << 20);
        grpc.ready().await.map_err(|error| tonic::Status::from_error(error.into()))?;
        let answer = grpc.unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }
}
