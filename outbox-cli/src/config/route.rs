//! Routes: this outbox to that broker.

use std::collections::HashMap;
use std::sync::Arc;

use outbox_core::Settings;

use super::relay;
use super::section::Section;
use crate::publishers::{self, PublisherSettings};
use crate::stores::{self, StoreSettings};

/// From one outbox to one broker.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn StoreSettings>,
    pub(crate) publisher: Arc<dyn PublisherSettings>,
    pub(crate) settings: Settings,
}

const ALLOWED_NAME: &str = "1 to 40 letters, digits, hyphens and underscores";

fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Reads all routes; `None` if one of them is not to be had, for which there is a fault then.
pub(super) fn read_all(root: &Section<'_>) -> Option<Vec<Route>> {
    let sections = root.sections("route");
    if sections.is_empty() {
        root.fault(
            "no route is configured; write [[route]] with [route.store] and [route.publisher] into the file, or set \
             OUTBOX__STORE__TYPE, OUTBOX__STORE__URL, OUTBOX__PUBLISHER__TYPE and OUTBOX__PUBLISHER__URL",
        );
    }
    let several = sections.len() > 1;
    let mut routes = Some(Vec::new());
    let (mut names, mut places) = (HashMap::new(), HashMap::new());
    for (number, section) in sections.into_iter().enumerate() {
        let name = section.text("name", ALLOWED_NAME, is_name);
        if name.is_none() && several && !section.has("name") {
            section
                .fault(format!("name is missing; with several routes, give each a name of {ALLOWED_NAME}"));
        }
        let name = name.unwrap_or_else(|| "default".to_owned());
        // Variables tell no small letters and no hyphens.
        if let Some(other) = names.insert(name.to_lowercase().replace('-', "_"), number)
            && section.has("name")
        {
            section.fault_in("name", format!("is that of route {} as well; give each another", other + 1));
        }
        let section = section.renamed(format!("route.{name}"));
        let store = stores::read(section.section("store"));
        let publisher = publishers::read(section.section("publisher"));
        let settings = relay::read(section.section("relay"));
        if let Some(store) = &store
            && let Some(other) = places.insert(store.place(), name.clone())
        {
            section.fault(format!(
                "reads the same tables as route {other}, and each message would go to either of them; give one an \
                 outbox of its own by another prefix"
            ));
        }
        section.finish();
        match (store, publisher, &mut routes) {
            (Some(store), Some(publisher), Some(routes)) => {
                routes.push(Route { name, store, publisher, settings });
            }
            _ => routes = None,
        }
    }
    routes
}
