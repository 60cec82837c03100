//! Queues.

/// A queue, by name or by URL.
///
/// A name is looked up once ([`GetQueueUrl`](https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueUrl.html)),
/// in the region and account of the client. A queue whose name ends in `.fifo` is a FIFO queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queue(Address);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    Name(String),
    Url(String),
}

impl Queue {
    /// The queue of this name.
    pub fn name(name: impl Into<String>) -> Self {
        Self(Address::Name(name.into()))
    }

    /// The queue at this URL, such as `https://sqs.eu-central-1.amazonaws.com/123456789012/orders`. It may be in
    /// another account, but not in another region than the client.
    pub fn url(url: impl Into<String>) -> Self {
        Self(Address::Url(url.into()))
    }

    /// The URL, where it is known without looking it up.
    pub(crate) fn as_url(&self) -> Option<&str> {
        match &self.0 {
            Address::Url(url) => Some(url),
            Address::Name(_) => None,
        }
    }

    /// Its name or URL, for people.
    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            Address::Url(text) | Address::Name(text) => text,
        }
    }

    pub(crate) fn is_fifo(&self) -> bool {
        self.as_str().ends_with(".fifo")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_queue_is_known_by_its_name() {
        assert!(Queue::name("orders.fifo").is_fifo());
        assert!(Queue::url("https://sqs.eu-central-1.amazonaws.com/1/orders.fifo").is_fifo());
        assert!(!Queue::name("orders").is_fifo());
    }
}
