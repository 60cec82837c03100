//! The requests of one publish call.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::Builder as Overrides;
use outbox_aws::{Call, Failure, Limits, pack};
use outbox_core::publishing::is_throttled;
use outbox_core::{Error, ErrorKind, Outcome};
use tokio::time::{Instant, sleep_until};

use crate::outgoing::Outgoing;
use crate::stream::Stream;
use crate::verdict::outcomes;

/// The first pause before throttled records are sent again. It doubles from one time to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What the requests of one call share.
pub(crate) struct Requests<'a> {
    pub(crate) client: &'a Client,
    /// Turns retries off, whatever the client does by itself.
    pub(crate) overrides: &'a Overrides,
    pub(crate) call: Call,
    /// Until when throttled records are sent again.
    pub(crate) patience: Instant,
}

/// Some messages to one stream, few enough for a request.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) messages: &'a [&'a Outgoing],
}

/// Cuts what goes to one stream into requests. What has a sequence number is alone in one.
pub(crate) fn cut<'a>(stream: &'a Stream, messages: &'a [&'a Outgoing], limits: Limits) -> Vec<Request<'a>> {
    let alone = |message: &&&Outgoing| message.sequence_number.is_some();
    let mut requests = Vec::new();
    let mut rest = messages;
    while !rest.is_empty() {
        let together = rest.iter().position(|message| alone(&message)).unwrap_or(rest.len());
        let (batch, behind) = rest.split_at(together);
        for range in pack(batch.iter().map(|message| message.size), limits) {
            requests.push(Request { stream, messages: batch.get(range).unwrap_or_default() });
        }
        let (single, behind) = behind.split_at(behind.len().min(1));
        if !single.is_empty() {
            requests.push(Request { stream, messages: single });
        }
        rest = behind;
    }
    requests
}

impl Requests<'_> {
    /// Sends a request, and gives an outcome to each of its messages.
    ///
    /// Records whose shard is busy are sent again, alone, as long as there is patience. No other record of their keys can
    /// be on its way meanwhile: a key is in one call only, and once.
    pub(crate) async fn run(&self, request: Request<'_>) -> Vec<Outcome> {
        let mut outcomes = self.send(request).await;
        let mut pause = FIRST_PAUSE;
        loop {
            let busy: Vec<usize> =
                (0..outcomes.len()).filter(|place| is_throttled(&outcomes[*place])).collect();
            let next = Instant::now() + pause;
            if busy.is_empty() || next > self.patience {
                break;
            }
            sleep_until(next).await;
            pause *= 2;
            let again: Vec<&Outgoing> =
                busy.iter().filter_map(|place| request.messages.get(*place).copied()).collect();
            let answers = self.send(Request { messages: &again, ..request }).await;
            for (place, answer) in busy.into_iter().zip(answers) {
                outcomes[place] = answer;
            }
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(|error| error.with("stream", request.stream.as_str())))
            .collect()
    }

    async fn send(&self, request: Request<'_>) -> Vec<Outcome> {
        let failure = match self.put(request).await {
            Ok(outcomes) => return outcomes,
            Err(failure) => failure,
        };
        if !failure.one_of_them || request.messages.len() == 1 {
            return request.messages.iter().map(|_| Err((failure.error)())).collect();
        }
        // The service has told that it took none of them, and not which one is to blame.
        let mut outcomes = Vec::with_capacity(request.messages.len());
        for message in request.messages {
            let alone = Request { messages: &[message], ..request };
            outcomes.extend(match self.put(alone).await {
                Ok(outcomes) => outcomes,
                Err(failure) => vec![Err((failure.error)())],
            });
        }
        outcomes
    }

    async fn put(&self, request: Request<'_>) -> Result<Vec<Outcome>, Refusal> {
        match request.messages {
            [message] if message.sequence_number.is_some() => self.put_record(request.stream, message).await,
            messages => self.put_records(request.stream, messages).await,
        }
    }

    async fn put_records(&self, stream: &Stream, messages: &[&Outgoing]) -> Result<Vec<Outcome>, Refusal> {
        let entries: Result<Vec<_>, _> = messages.iter().map(|message| message.entry()).collect();
        let entries = match entries {
            Ok(entries) => entries,
            // It was built from parts that were all there.
            Err(error) => {
                let text = error.to_string();
                return Err(Refusal {
                    one_of_them: true,
                    error: Box::new(move || {
                        Error::new(ErrorKind::Internal, "the message cannot be put into a request")
                            .with("reason", &text)
                    }),
                });
            }
        };
        let (name, arn) = stream.name_and_arn();
        let sent = self.call.send(|transmission| {
            self.client
                .put_records()
                .set_stream_name(name)
                .set_stream_arn(arn)
                .set_records(Some(entries))
                .customize()
                .config_override(self.overrides.clone())
                .interceptor(transmission)
                .send()
        });
        Ok(outcomes(&sent.await?, messages.len()))
    }

    async fn put_record(&self, stream: &Stream, message: &Outgoing) -> Result<Vec<Outcome>, Refusal> {
        let (name, arn) = stream.name_and_arn();
        let sent = self.call.send(|transmission| {
            self.client
                .put_record()
                .set_stream_name(name)
                .set_stream_arn(arn)
                .data(message.data.clone())
                .partition_key(&message.partition_key)
                .set_explicit_hash_key(message.explicit_hash_key.clone())
                .set_sequence_number_for_ordering(message.sequence_number.clone())
                .customize()
                .config_override(self.overrides.clone())
                .interceptor(transmission)
                .send()
        });
        sent.await?;
        Ok(vec![Ok(())])
    }
}

/// Why none of a request's messages was taken, or it is not known.
struct Refusal {
    one_of_them: bool,
    error: Box<dyn Fn() -> Error + Send + Sync>,
}

impl<E> From<Failure<E>> for Refusal
where
    E: aws_sdk_kinesis::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    fn from(failure: Failure<E>) -> Self {
        Self { one_of_them: failure.may_be_one_of_them(), error: Box::new(move || failure.to_error()) }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::primitives::Blob;
    use proptest::prelude::*;

    use super::*;

    fn outgoing(index: usize, size: usize, alone: bool) -> Outgoing {
        Outgoing {
            index,
            stream: Stream::name("s"),
            size,
            data: Blob::new([]),
            partition_key: "p".to_owned(),
            explicit_hash_key: None,
            sequence_number: alone.then(|| "1".to_owned()),
        }
    }

    proptest! {
        #[test]
        fn requests_keep_to_the_limits_and_to_the_order(
            messages in prop::collection::vec((0..60_usize, prop::bool::weighted(0.1)), 0..80),
            entries in 1..9_usize,
        ) {
            let limits = Limits { entries, bytes: 100 };
            let all: Vec<Outgoing> =
                messages.iter().enumerate().map(|(index, (size, alone))| outgoing(index, *size, *alone)).collect();
            let all: Vec<&Outgoing> = all.iter().collect();
            let stream = Stream::name("s");
            let requests = cut(&stream, &all, limits);
            let order: Vec<usize> = requests.iter().flat_map(|r| r.messages).map(|m| m.index).collect();
            prop_assert_eq!(order, (0..all.len()).collect::<Vec<_>>());
            for request in &requests {
                prop_assert!(!request.messages.is_empty() && request.messages.len() <= entries);
                prop_assert!(request.messages.iter().map(|m| m.size).sum::<usize>() <= 100);
                let alone = request.messages.iter().any(|m| m.sequence_number.is_some());
                prop_assert!(!alone || request.messages.len() == 1);
            }
            for pair in requests.windows(2) {
                let (first, next) = (pair[0].messages, pair[1].messages[0]);
                let bytes = first.iter().map(|m| m.size).sum::<usize>() + next.size;
                let alone = first[0].sequence_number.is_some() || next.sequence_number.is_some();
                prop_assert!(alone || first.len() == entries || bytes > 100, "there was room for one more");
            }
        }
    }
}
