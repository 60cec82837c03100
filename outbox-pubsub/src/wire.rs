//! The one call of the service that a publisher needs, as it is on the wire; and those by which it looks at topics.
//!
//! Fields and tags are those of `google.pubsub.v1`:
//! <https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1#publishrequest>. What only the service sets is
//! left out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstEncoder};

/// The name of the call.
pub(crate) const PUBLISH: &str = "/google.pubsub.v1.Publisher/Publish";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PubsubMessage {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) attributes: BTreeMap<String, String>,
    #[prost(string, tag = "5")]
    pub(crate) ordering_key: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PublishRequest {
    #[prost(string, tag = "1")]
    pub(crate) topic: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) messages: Vec<PubsubMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PublishResponse {
    /// In the order of the request.
    #[prost(string, repeated, tag = "1")]
    pub(crate) message_ids: Vec<String>,
}

/// What is asked for by `GetTopic` and `GetSubscription`, and a topic, of which nothing else is of interest.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Named {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Subscription {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(bool, tag = "10")]
    pub(crate) enable_message_ordering: bool,
    #[prost(bool, tag = "15")]
    pub(crate) detached: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListTopicsRequest {
    #[prost(string, tag = "1")]
    pub(crate) project: String,
    #[prost(int32, tag = "2")]
    pub(crate) page_size: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListTopicSubscriptionsRequest {
    #[prost(string, tag = "1")]
    pub(crate) topic: String,
    #[prost(string, tag = "3")]
    pub(crate) page_token: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ListTopicSubscriptionsResponse {
    #[prost(string, repeated, tag = "1")]
    pub(crate) subscriptions: Vec<String>,
    #[prost(string, tag = "2")]
    pub(crate) next_page_token: String,
}

/// How many bytes the fields of a request take that are there whatever messages it has.
pub(crate) fn envelope_size(topic: &str) -> usize {
    field_size(topic.len())
}

/// How many bytes a message adds to a request.
pub(crate) fn size_in_request(message: &PubsubMessage) -> usize {
    field_size(message.encoded_len())
}

/// A tag of one byte, the length, and that much.
fn field_size(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}

/// Writes requests and reads answers, and knows whether a request had begun to leave.
///
/// The request is written when the connection asks for it: by then there is a connection, and it has room for the
/// request. Whatever fails before that has sent nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct MarkingCodec(Arc<AtomicBool>);

impl MarkingCodec {
    /// Whether the service may have the request, or a part of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Codec for MarkingCodec {
    type Encode = PublishRequest;
    type Decode = PublishResponse;
    type Encoder = MarkingEncoder;
    type Decoder = <ProstCodec<PublishRequest, PublishResponse> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        MarkingEncoder { begun: Arc::clone(&self.0), inner: ProstEncoder::default() }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<PublishRequest, PublishResponse>::default().decoder()
    }
}

#[derive(Debug)]
pub(crate) struct MarkingEncoder {
    begun: Arc<AtomicBool>,
    inner: ProstEncoder<PublishRequest>,
}

impl Encoder for MarkingEncoder {
    type Item = PublishRequest;
    type Error = Status;

    fn encode(&mut self, item: PublishRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.begun.store(true, Ordering::SeqCst);
        self.inner.encode(item, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up_to_the_whole_request() {
        for count in [0, 1, 7, 300] {
            let message = |i: usize| PubsubMessage {
                data: Bytes::from(vec![0; i * 101]),
                attributes: (0..i % 5).map(|n| (n.to_string(), "x".repeat(n * 100))).collect(),
                ordering_key: "k".repeat(i % 200),
            };
            let request = PublishRequest {
                topic: "projects/p/topics/orders".to_owned(),
                messages: (0..count).map(message).collect(),
            };
            let parts: usize = request.messages.iter().map(size_in_request).sum();
            assert_eq!(request.encoded_len(), envelope_size(&request.topic) + parts);
        }
    }
}
