//! A stream of one test.

use anyhow::{Context as _, Result};
use async_nats::jetstream::Context;
pub use async_nats::jetstream::message::StreamMessage;
pub use async_nats::jetstream::stream::Config as StreamConfig;
pub use async_nats::jetstream::stream::DiscardPolicy;
use futures_util::TryStreamExt;

use crate::{names, runtime};

/// A stream of one test, which is deleted when dropped.
#[derive(Debug)]
pub struct Stream {
    jetstream: Context,
    config: StreamConfig,
}

impl Stream {
    pub(super) async fn create(jetstream: Context, config: StreamConfig) -> Self {
        let name = names::fresh();
        let subjects = vec![name.clone(), format!("{name}.>")];
        let config = StreamConfig { name, subjects, ..config };
        let created = jetstream.create_stream(config.clone()).await;
        created.unwrap_or_else(|error| panic!("cannot create the stream {}: {error}", config.name));
        Self { jetstream, config }
    }

    /// Its name, which is also the subject of its messages.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Changes its settings. Name and subjects stay.
    ///
    /// # Panics
    /// If the server does not answer, or refuses the settings.
    pub async fn update(&self, change: impl FnOnce(&mut StreamConfig)) {
        let mut config = self.config.clone();
        change(&mut config);
        let updated = self.jetstream.update_stream(config).await;
        updated.unwrap_or_else(|error| panic!("cannot change the stream {}: {error}", self.name()));
    }

    /// Deletes it before its time.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn delete(&self) {
        let deleted = self.jetstream.delete_stream(self.name()).await;
        deleted.unwrap_or_else(|error| panic!("cannot delete the stream {}: {error}", self.name()));
    }

    /// Whether it has no message.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn is_empty(&self) -> bool {
        let count = self.count().await;
        count.unwrap_or_else(|error| panic!("cannot find the stream {}: {error:#}", self.name())) == 0
    }

    /// How many messages it has.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn count(&self) -> Result<u64> {
        Ok(self.jetstream.get_stream(self.name()).await?.cached_info().state.messages)
    }

    /// All its messages, in the order in which the server stored them.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn messages(&self) -> Vec<StreamMessage> {
        let read = self.read(1).await;
        read.unwrap_or_else(|error| panic!("cannot read the stream {}: {error:#}", self.name()))
    }

    /// Its messages from this sequence number on, which begins with 1.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn read(&self, first: u64) -> Result<Vec<StreamMessage>> {
        self.read_some(first, u64::MAX).await
    }

    /// As [`read`](Self::read), but at most this many.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn read_some(&self, first: u64, most: u64) -> Result<Vec<StreamMessage>> {
        let stream = self.jetstream.get_stream(self.name()).await?;
        let state = &stream.cached_info().state;
        let first = first.max(state.first_sequence);
        let last = state.last_sequence.min(first.saturating_add(most - 1));
        let mut messages = Vec::new();
        for sequence in first..=last {
            messages.push(stream.get_raw_message(sequence).await?);
        }
        Ok(messages)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let (jetstream, name) = (self.jetstream.clone(), self.name().to_owned());
        runtime::spawn(async move { jetstream.delete_stream(name).await });
    }
}

/// Deletes the streams that test processes left behind when they were killed.
pub(super) async fn delete_old(jetstream: &Context) -> Result<()> {
    let all: Vec<String> = jetstream.stream_names().try_collect().await.context("cannot list the streams")?;
    for name in all.iter().filter(|name| names::is_left_over(name)) {
        match jetstream.delete_stream(name).await {
            Err(error) if jetstream.get_stream(name).await.is_ok() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
