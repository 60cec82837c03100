//! A file, the environment and the command line, one over the other.
//!
//! A variable is called by the path of its field in capitals, with two underscores for each step:
//! `OUTBOX__LOG__FORMAT`, `OUTBOX__ROUTE__ORDERS__STORE__URL`, and `OUTBOX__STORE__URL` if there is only one route. Two,
//! because names of fields have single ones, and because the variables that Kubernetes makes of its services have
//! single ones, too. A flag is `--set store.url=…`.

use std::collections::BTreeMap;

use super::fault::{Fault, Faults};
use super::tree::{Item, Origin, Table, Value};

const PREFIX: &str = "OUTBOX__";
/// The sections of a route, which need no route before them while there is only one.
const OF_ROUTE: [&str; 3] = ["store", "publisher", "relay"];
/// The fields that can be given in three ways, of which a later layer's goes before an earlier one's.
const SECRETS: [&str; 3] = ["url", "password", "token"];

/// Puts the variables over what is in the file.
pub(crate) fn variables(root: &mut Table, environment: &BTreeMap<String, String>, faults: &Faults) {
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        put(root, &path, value, Origin::Variable(name.clone()), faults);
    }
}

/// Puts what the command line says over everything else.
pub(crate) fn flags(root: &mut Table, flags: &[String], faults: &Faults) {
    for flag in flags {
        // What is behind the sign may be a secret; so may what is before it, where somebody left out the field of a URL.
        let Some((path, value)) = flag.split_once('=').filter(|(path, _)| !path.contains('@')) else {
            let problem = "must be a field and a value, such as --set relay.publish_batch=100";
            faults.add(Fault::new(Origin::Flag("--set".to_owned()), "", problem));
            continue;
        };
        let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
        put(root, &steps, value, Origin::Flag(format!("--set {path}")), faults);
    }
}

fn put(root: &mut Table, path: &[String], value: &str, origin: Origin, faults: &Faults) {
    let wrong = |problem: &str| faults.add(Fault::new(origin.clone(), path.join("."), problem));
    let (table, rest) = match path {
        [first, rest @ ..] if first == "route" => {
            let [name, rest @ ..] = rest else { return wrong("names no route") };
            match route(root, Some(name)) {
                Ok(table) => (table, rest),
                Err(problem) => return wrong(&problem),
            }
        }
        [first, ..] if OF_ROUTE.contains(&first.as_str()) => match route(root, None) {
            Ok(table) => (table, path),
            Err(problem) => return wrong(&problem),
        },
        _ => (root, path),
    };
    let [steps @ .., field] = rest else { return wrong("names no setting") };
    let Some(table) = descend(table, steps, &origin) else { return wrong("names no setting") };
    for secret in SECRETS {
        let ways = [secret.to_owned(), format!("{secret}_env"), format!("{secret}_file")];
        if ways.contains(field) {
            ways.iter().for_each(|way| {
                table.remove(way);
            });
        }
    }
    table.insert(field.clone(), Item { value: Value::Raw(value.to_owned()), origin });
}

/// The table of a route: the one of this name, or the only one, which is made if there is none.
fn route<'a>(root: &'a mut Table, name: Option<&str>) -> Result<&'a mut Table, String> {
    let list = root
        .entry("route".to_owned())
        .or_insert_with(|| Item { value: Value::List(Vec::new()), origin: Origin::Nowhere });
    // What is no list is a fault of the file's, and found by who reads the routes.
    let Value::List(routes) = &mut list.value else {
        return Err("route must be a list of tables".to_owned());
    };
    if routes.is_empty() {
        let mut table = Table::new();
        if let Some(name) = name {
            let name = Item { value: Value::Text(name.to_owned()), origin: Origin::Nowhere };
            table.insert("name".to_owned(), name);
        }
        routes.push(Item { value: Value::Table(table), origin: Origin::Nowhere });
    }
    let only = routes.len() == 1;
    let names: Vec<String> = routes.iter().map(name_of).collect();
    let found = names.iter().position(|other| match name {
        Some(name) => plain(other) == plain(name),
        None => only,
    });
    match found.and_then(|index| routes.get_mut(index)) {
        Some(Item { value: Value::Table(table), .. }) => Ok(table),
        _ if name.is_some() => Err(format!("unknown route; the routes are {}", names.join(", "))),
        _ => {
            Err(format!("there are several routes ({}); write route.NAME instead of route", names.join(", ")))
        }
    }
}

/// The name of a route; what has none is called `default`.
pub(crate) fn name_of(route: &Item) -> String {
    if let Value::Table(table) = &route.value
        && let Some(Item { value: Value::Text(name), .. }) = table.get("name")
    {
        return name.clone();
    }
    "default".to_owned()
}

/// Variables have neither small letters nor hyphens.
fn plain(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

fn descend<'a>(table: &'a mut Table, steps: &[String], origin: &Origin) -> Option<&'a mut Table> {
    let mut table = table;
    for step in steps {
        let item = table
            .entry(step.clone())
            .or_insert_with(|| Item { value: Value::Table(Table::new()), origin: origin.clone() });
        match &mut item.value {
            Value::Table(inner) => table = inner,
            _ => return None,
        }
    }
    Some(table)
}
