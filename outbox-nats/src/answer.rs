//! What JetStream answers.

use serde::Deserialize;

/// An error of JetStream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Refusal {
    /// The number that stands for the reason in every version of the server.
    #[serde(rename = "err_code", default)]
    pub(crate) code: u64,
    /// The reason, for people.
    #[serde(rename = "description", default)]
    pub(crate) text: String,
}

/// The answer to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The stream has it. If the stream had stored a message with this id before, it has kept that one only.
    Stored,
    Refused(Refusal),
    /// Something that JetStream does not say.
    NotUnderstood,
}

#[derive(Deserialize)]
struct Acknowledgement {
    #[serde(default)]
    stream: String,
    #[serde(default, rename = "seq")]
    sequence: u64,
    error: Option<Refusal>,
}

/// Reads the answer to a message.
pub(crate) fn acknowledgement(payload: &[u8]) -> Answer {
    match serde_json::from_slice::<Acknowledgement>(payload) {
        Ok(Acknowledgement { error: Some(refusal), .. }) => Answer::Refused(refusal),
        Ok(answer) if !answer.stream.is_empty() && answer.sequence > 0 => Answer::Stored,
        _ => Answer::NotUnderstood,
    }
}

#[derive(Deserialize)]
struct Names {
    streams: Option<Vec<String>>,
    error: Option<Refusal>,
}

/// Reads the answer to a question for the streams that have a subject.
///
/// # Errors
/// JetStream's, and `None` for an answer that is not one of JetStream.
pub(crate) fn stream_names(payload: &[u8]) -> Result<Vec<String>, Option<Refusal>> {
    match serde_json::from_slice::<Names>(payload) {
        Ok(Names { error: Some(refusal), .. }) => Err(Some(refusal)),
        Ok(Names { streams, error: None }) => Ok(streams.unwrap_or_default()),
        Err(_) => Err(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_acknowledgement_confirms() {
        let refused = |code, text: &str| Answer::Refused(Refusal { code, text: text.to_owned() });
        for (payload, answer) in [
            (r#"{"stream":"S","seq":7}"#, Answer::Stored),
            (r#"{"stream":"S","seq":7,"domain":"hub","duplicate":true,"new":[]}"#, Answer::Stored),
            (
                r#"{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"S","seq":0}"#,
                refused(10_077, "full"),
            ),
            (r#"{"error":{"code":404}}"#, refused(0, "")),
            (r#"{"stream":"S","seq":0}"#, Answer::NotUnderstood),
            (r#"{"stream":"","seq":7}"#, Answer::NotUnderstood),
            (r#"{"stream":"S","seq":-1}"#, Answer::NotUnderstood),
            ("{}", Answer::NotUnderstood),
            ("", Answer::NotUnderstood),
            ("+OK", Answer::NotUnderstood),
        ] {
            assert_eq!(acknowledgement(payload.as_bytes()), answer, "{payload}");
        }
    }

    #[test]
    fn the_names_of_streams_are_read() {
        assert_eq!(stream_names(br#"{"type":"t","total":1,"streams":["S"]}"#), Ok(vec!["S".to_owned()]));
        assert_eq!(stream_names(br#"{"type":"t","total":0,"streams":null}"#), Ok(Vec::new()));
        let refusal = Refusal { code: 10_008, text: "unavailable".to_owned() };
        let answer = br#"{"error":{"code":503,"err_code":10008,"description":"unavailable"}}"#;
        assert_eq!(stream_names(answer), Err(Some(refusal)));
        assert_eq!(stream_names(b"no"), Err(None));
    }
}
