//! From routes to outboxes that are open.

use std::sync::Arc;

use outbox_core::{Result, Store};

use crate::config::{Config, Route};
use crate::exit::Failure;
use crate::stores::Outbox;

/// A route whose store is open.
pub(crate) struct Opened<'a> {
    pub(crate) route: &'a Route,
    pub(crate) outbox: Box<dyn Outbox>,
    pub(crate) store: Arc<dyn Store>,
}

/// The routes of these names, in the order of the settings; all of them if none is named.
///
/// # Errors
/// If there is no such route.
pub(crate) fn select<'a>(config: &'a Config, names: &[String]) -> Result<Vec<&'a Route>, Failure> {
    for name in names {
        if !config.routes.iter().any(|route| route.name == *name) {
            return Err(Failure::wrong(format!("unknown route {name}; the routes are {}", list(config))));
        }
    }
    let wanted = |route: &&Route| names.is_empty() || names.contains(&route.name);
    Ok(config.routes.iter().filter(wanted).collect())
}

/// The route of this name, or the only one.
///
/// # Errors
/// If there is no such route, or if there are several and none is named.
pub(crate) fn only<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Route, Failure> {
    match (name, &config.routes[..]) {
        (Some(name), _) => {
            let found = select(config, &[name.to_owned()])?;
            found.into_iter().next().ok_or_else(|| Failure::wrong(format!("unknown route {name}")))
        }
        (None, [route]) => Ok(route),
        (None, _) => Err(Failure::wrong(format!(
            "there are several routes; select one with --route: {}",
            list(config)
        ))),
    }
}

fn list(config: &Config) -> String {
    let names: Vec<_> = config.routes.iter().map(|route| route.name.as_str()).collect();
    names.join(", ")
}

/// Opens the store of a route.
///
/// # Errors
/// If it is a file that cannot be opened.
pub(crate) async fn open(route: &Route) -> Result<Opened<'_>> {
    let outbox = route.store.open().await?;
    Ok(Opened { store: outbox.store(), outbox, route })
}
