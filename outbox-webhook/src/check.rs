//! Looks for the receivers that the settings name, before there is a message.

use std::future::poll_fn;

use outbox_core::Result;
use tower_service::Service as _;

use crate::destination::{Destination, Reach};
use crate::publisher::WebhookPublisher;
use crate::verdict::Failure;

/// Connects to each endpoint, and sends nothing.
pub(crate) async fn run(publisher: &WebhookPublisher) -> Result<()> {
    let mut endpoints: Vec<_> = publisher.destinations.endpoints.values().collect();
    endpoints.sort_by(|left, right| left.name.cmp(&right.name));
    for endpoint in endpoints {
        connect(publisher, endpoint).await?;
    }
    Ok(())
}

async fn connect(publisher: &WebhookPublisher, endpoint: &Destination) -> Result<()> {
    let mut connector = publisher.client.connector();
    let connected = async {
        poll_fn(|context| connector.poll_ready(context)).await?;
        connector.call(endpoint.uri.clone()).await
    };
    match connected.await {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = Failure::NotConnected(error).to_error(Reach { one_url: true, one_host: true });
            Err(error
                .with("endpoint", &endpoint.name)
                .with("host", endpoint.uri.authority().map(ToString::to_string).unwrap_or_default()))
        }
    }
}
