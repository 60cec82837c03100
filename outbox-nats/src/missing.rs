//! The reason why a subject has no receiver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Request;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::answer::stream_names;
use crate::connection::{Connection, silence_of};
use crate::verdict::{Missing, Silence};

/// The subject of the question for the streams that have a subject.
const NAMES: &str = "$JS.API.STREAM.NAMES";
/// JetStream answers within milliseconds. It is silent while its cluster elects a leader.
const PATIENCE: Duration = Duration::from_secs(2);

/// The reasons that one call has found, so that it asks once for each subject.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Mutex<HashMap<String, Arc<OnceCell<Missing>>>>);

impl Reasons {
    /// The reason why this subject has no receiver.
    pub(crate) async fn of(&self, connection: &Connection, subject: &str, deadline: Instant) -> Missing {
        let cell = {
            let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(cells.entry(subject.to_owned()).or_default())
        };
        cell.get_or_init(|| reason(connection, subject, deadline)).await.clone()
    }
}

async fn reason(connection: &Connection, subject: &str, deadline: Instant) -> Missing {
    match streams_of(connection, subject, deadline).await {
        Ok(streams) => streams.into_iter().next().map_or(Missing::Stream, Missing::Leader),
        Err(missing) => missing,
    }
}

/// The streams that have a subject.
///
/// # Errors
/// Why JetStream does not say.
pub(crate) async fn streams_of(
    connection: &Connection,
    subject: &str,
    deadline: Instant,
) -> Result<Vec<String>, Missing> {
    let client = &connection.client;
    if !client.server_info().jetstream {
        return Err(Missing::JetStream);
    }
    let question = serde_json::json!({ "subject": subject }).to_string();
    let request = Request::new().payload(Bytes::from(question)).timeout(None);
    let mut signs = connection.signs();
    let answer = tokio::select! {
        answer = client.send_request(NAMES, request) => answer,
        silence = silence_of(&mut signs, NAMES) => {
            return Err(match silence {
                Silence::Forbidden | Silence::Unheard => Missing::Unexplained,
                _ => Missing::Silent,
            });
        }
        () = tokio::time::sleep_until(deadline.min(Instant::now() + PATIENCE)) => return Err(Missing::Silent),
    };
    match answer {
        Ok(answer) => stream_names(&answer.payload).map_err(|refusal| match refusal {
            Some(refusal) if [10_035, 10_039, 10_076].contains(&refusal.code) => Missing::JetStream,
            Some(refusal) => Missing::Cluster(refusal.text),
            None => Missing::Unexplained,
        }),
        // JetStream is off for this account.
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Err(Missing::JetStream),
        Err(_) => Err(Missing::Silent),
    }
}
