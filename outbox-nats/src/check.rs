//! The check of the settings against the server, before there is a message.

use outbox_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::missing::streams_of;
use crate::publisher::NatsPublisher;
use crate::subject::is_template;
use crate::verdict::{self, Missing};

/// A subject to ask for if the settings name none: whether a stream has it does not matter.
const ANY: &str = "outbox.check";

/// Searches a stream for each subject that the settings name. If they name none, it asks whether JetStream answers.
pub(crate) async fn run(publisher: &NatsPublisher) -> Result<()> {
    let deadline = Instant::now() + publisher.ack_timeout;
    let lease = publisher.connections.lease(deadline).await;
    let lease = lease.map_err(|failure| verdict::not_connected(&failure))?;
    let mut subjects: Vec<&str> = publisher.routing.destinations().map(String::as_str).collect();
    subjects.retain(|subject| !is_template(subject));
    if subjects.is_empty() {
        ask(&lease.connection, ANY, deadline).await?;
    }
    for subject in subjects {
        let streams = ask(&lease.connection, subject, deadline).await;
        let streams = streams.map_err(|error| error.with("subject", subject))?;
        let error = match (&publisher.expected_stream, streams.as_slice()) {
            (_, []) => verdict::missing(&Missing::Stream),
            (Some(expected), [stream, ..]) if expected != stream => {
                Error::new(ErrorKind::NotFound, "the subject belongs to another stream than expected")
                    .with("stream", stream)
                    .with("expected", expected)
            }
            _ => continue,
        };
        return Err(error.with("subject", subject));
    }
    if lease.connection.is_usable() {
        lease.give_back();
    }
    Ok(())
}

async fn ask(connection: &Connection, subject: &str, deadline: Instant) -> Result<Vec<String>> {
    streams_of(connection, subject, deadline).await.map_err(|missing| match missing {
        Missing::Unexplained => Error::new(
            ErrorKind::Permission,
            "the user may not ask JetStream for streams; allow it to publish to $JS.API.STREAM.NAMES and to subscribe to \
             _INBOX.>",
        ),
        missing => verdict::missing(&missing),
    })
}
