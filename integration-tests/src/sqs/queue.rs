//! A queue of one test.

use anyhow::Result;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, QueueAttributeName};

use crate::{names, runtime};

/// A queue of one test, which is deleted when dropped.
#[derive(Debug)]
pub struct Queue {
    /// For use only on the harness's runtime: its connections belong to that runtime.
    control: Client,
    name: String,
    url: String,
}

impl Queue {
    pub(super) async fn create(control: Client, fifo: bool) -> Self {
        let name = format!("{}{}", names::fresh(), if fifo { ".fifo" } else { "" });
        Self { url: create(&control, &name).await, control, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates it again, after the server was killed and has lost it.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn create_again(&self) {
        create(&self.control, &self.name).await;
    }

    /// Deletes it early.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn delete(&self) {
        let deleted = runtime::run(self.control.delete_queue().queue_url(&self.url).send()).await;
        deleted.unwrap_or_else(|error| panic!("cannot delete the queue {}: {error:?}", self.name));
    }

    /// Takes up to ten messages, with all their attributes, out of the queue. Returns none after a second
    /// without a message.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn receive(&self, client: &Client) -> Result<Vec<Message>> {
        let request = client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(10)
            .message_attribute_names("All")
            .message_system_attribute_names("All".into())
            .wait_time_seconds(1);
        let messages = request.send().await?.messages.unwrap_or_default();
        if messages.is_empty() {
            return Ok(messages);
        }
        let entries = messages.iter().enumerate().map(|(place, message)| {
            let handle = message.receipt_handle().unwrap_or_default();
            DeleteMessageBatchRequestEntry::builder().id(place.to_string()).receipt_handle(handle).build()
        });
        let entries = entries.collect::<Result<_, _>>()?;
        client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries)).send().await?;
        Ok(messages)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let (control, url) = (self.control.clone(), self.url.clone());
        runtime::spawn(async move { control.delete_queue().queue_url(url).send().await });
    }
}

async fn create(control: &Client, name: &str) -> String {
    let mut request = control.create_queue().queue_name(name);
    if name.ends_with(".fifo") {
        request = request.attributes(QueueAttributeName::FifoQueue, "true");
    }
    let created = runtime::run(request.send()).await;
    let created = created.unwrap_or_else(|error| panic!("cannot create the queue {name}: {error:?}"));
    created.queue_url.expect("a new queue has a URL")
}

/// Deletes the queues that killed test processes have left.
pub(super) async fn delete_old(client: &Client) -> Result<()> {
    let listed = client.list_queues().queue_name_prefix(names::PREFIX).send().await?;
    for url in listed.queue_urls() {
        let name = url.rsplit('/').next().unwrap_or_default();
        if names::is_left_over(name.strip_suffix(".fifo").unwrap_or(name)) {
            client.delete_queue().queue_url(url).send().await?;
        }
    }
    Ok(())
}
