//! Looking for what the settings name, before there is a message.

use http::uri::PathAndQuery;
use outbox_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Extensions, Request, Status};
use tonic_prost::ProstCodec;

use crate::call::{ROUTING, encoded};
use crate::publisher::PubSubPublisher;
use crate::verdict::Failure;
use crate::wire::{
    ListTopicSubscriptionsRequest, ListTopicSubscriptionsResponse, ListTopicsRequest, Named, Subscription,
};

/// A client that only looks. Fields and calls are those of `google.pubsub.v1`.
pub(crate) struct Looker {
    channel: Channel,
    /// What shows who we are.
    headers: MetadataMap,
    deadline: Instant,
}

impl Looker {
    pub(crate) fn new(channel: Channel, headers: MetadataMap, deadline: Instant) -> Self {
        Self { channel, headers, deadline }
    }

    /// Looks at each topic that the settings name; where they name none, whether the service answers us.
    pub(crate) async fn run(&self, publisher: &PubSubPublisher) -> Result<()> {
        let topics = named(publisher)?;
        for topic in &topics {
            let name = Named { name: topic.clone() };
            let found: Result<Named, _> = self.call("Publisher/GetTopic", ("topic", topic), name).await;
            found.map_err(|failure| of_topic(&failure).with("topic", topic))?;
        }
        match &publisher.project {
            Some(project) if topics.is_empty() => self.is_known(&format!("projects/{project}")).await,
            _ => Ok(()),
        }
    }

    /// That we may not list topics is an answer, too, and one that is given to good credentials only.
    async fn is_known(&self, project: &str) -> Result<()> {
        let request = ListTopicsRequest { project: project.to_owned(), page_size: 1 };
        match self.call::<_, ()>("Publisher/ListTopics", ("project", project), request).await {
            Ok(()) => Ok(()),
            Err(failure) if is(&failure, Code::PermissionDenied) => Ok(()),
            Err(failure) if is(&failure, Code::NotFound) => {
                Err(Error::new(ErrorKind::NotFound, "the project does not exist").with("project", project))
            }
            Err(failure) => Err(failure.to_error()),
        }
    }

    /// The subscriptions of the topics that the settings name that do not keep the order of keys, as far as we may look.
    pub(crate) async fn unordered(&self, publisher: &PubSubPublisher) -> Result<Vec<String>> {
        let mut unordered = Vec::new();
        for topic in named(publisher)? {
            for name in self.subscriptions(&topic).await? {
                let asked = Named { name: name.clone() };
                let looked: Option<Subscription> =
                    self.may_look("Subscriber/GetSubscription", ("subscription", &name), asked).await?;
                if looked.is_some_and(|found| !found.enable_message_ordering && !found.detached) {
                    unordered.push(name);
                }
            }
        }
        Ok(unordered)
    }

    async fn subscriptions(&self, topic: &str) -> Result<Vec<String>> {
        const CALL: &str = "Publisher/ListTopicSubscriptions";
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListTopicSubscriptionsRequest { topic: topic.to_owned(), page_token };
            let page: Option<ListTopicSubscriptionsResponse> =
                self.may_look(CALL, ("topic", topic), request).await?;
            let Some(page) = page else { return Ok(found) };
            found.extend(page.subscriptions);
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            page_token = page.next_page_token;
        }
    }

    /// `None` if we may not look, or what we look at has gone meanwhile.
    async fn may_look<Q, A>(&self, method: &str, of: (&str, &str), request: Q) -> Result<Option<A>>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        match self.call(method, of, request).await {
            Ok(answer) => Ok(Some(answer)),
            Err(failure) if is(&failure, Code::PermissionDenied) || is(&failure, Code::NotFound) => Ok(None),
            Err(failure) => Err(failure.to_error()),
        }
    }

    /// Calls a method of the service about what is named in `of`.
    async fn call<Q, A>(&self, method: &str, of: (&str, &str), request: Q) -> Result<A, Failure>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut headers = self.headers.clone();
        if let Ok(value) = MetadataValue::try_from(format!("{}={}", of.0, encoded(of.1))) {
            headers.insert(ROUTING, value);
        }
        let request = Request::from_parts(headers, Extensions::default(), request);
        let exchange = async {
            let path = PathAndQuery::try_from(format!("/google.pubsub.v1.{method}"))
                .map_err(|error| Status::from_error(error.into()))?;
            let mut client = Grpc::new(self.channel.clone());
            client.ready().await.map_err(|error| Status::from_error(error.into()))?;
            client.unary(request, path, ProstCodec::<Q, A>::default()).await
        };
        match timeout_at(self.deadline, exchange).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Failure::of(status, true)),
            Err(_) => Err(Failure::Late { begun: true }),
        }
    }
}

/// The full names of the topics that the settings name.
fn named(publisher: &PubSubPublisher) -> Result<Vec<String>> {
    let project = publisher.project.as_deref();
    let mut topics = Vec::new();
    for topic in publisher.routing.destinations() {
        let topic = topic.resolve(project)?;
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    topics.sort();
    Ok(topics)
}

fn is(failure: &Failure, code: Code) -> bool {
    matches!(failure, Failure::Refused(status) if status.code() == code)
}

fn of_topic(failure: &Failure) -> Error {
    match failure {
        // To publish it takes another right.
        Failure::Refused(status) if status.code() == Code::PermissionDenied => Error::new(
            ErrorKind::Permission,
            "the credentials may not look at the topic; to check it they need pubsub.topics.get",
        )
        .with("service", status.message()),
        _ => failure.to_error(),
    }
}
