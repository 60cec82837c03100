//! Streams.

use crate::text::is_stream_name;

/// A stream, by name or by ARN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stream(Address);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Address {
    Name(String),
    Arn(String),
}

impl Stream {
    /// The stream of this name, in the client's account and region.
    pub fn name(name: impl Into<String>) -> Self {
        Self(Address::Name(name.into()))
    }

    /// The stream of this ARN, such as `arn:aws:kinesis:eu-central-1:123456789012:stream/orders`. It may be in another
    /// account, but not in another region than the client.
    pub fn arn(arn: impl Into<String>) -> Self {
        Self(Address::Arn(arn.into()))
    }

    /// What to set of a request: its name, or its ARN.
    pub(crate) fn name_and_arn(&self) -> (Option<String>, Option<String>) {
        match &self.0 {
            Address::Name(name) => (Some(name.clone()), None),
            Address::Arn(arn) => (None, Some(arn.clone())),
        }
    }

    /// Its name or ARN, for people.
    pub(crate) fn as_str(&self) -> &str {
        match &self.0 {
            Address::Arn(text) | Address::Name(text) => text,
        }
    }

    /// Whether there can be such a stream.
    pub(crate) fn is_possible(&self) -> bool {
        match &self.0 {
            Address::Name(name) => is_stream_name(name),
            Address::Arn(arn) => arn
                .rsplit_once(":stream/")
                .is_some_and(|(before, name)| before.starts_with("arn:") && is_stream_name(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_told_from_nonsense() {
        assert!(Stream::arn("arn:aws:kinesis:eu-central-1:123456789012:stream/orders").is_possible());
        for nonsense in ["orders", "arn:aws:sqs:eu-central-1:1:orders", "x:stream/orders", "arn:aws:stream/"]
        {
            assert!(!Stream::arn(nonsense).is_possible(), "{nonsense}");
        }
    }
}
