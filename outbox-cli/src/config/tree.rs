//! Settings before anybody knows what they mean: values in tables, and where each of them was written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Fault;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In this line of this file.
    File { name: Arc<str>, line: usize },
    /// In this variable of the environment.
    Variable(String),
    /// By this flag of the command line.
    Flag(String),
    /// Nowhere.
    Nowhere,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Nowhere => f.write_str("settings"),
        }
    }
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// A value as it was written.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Table(Table),
    List(Vec<Item>),
    Text(String),
    Integer(i64),
    Bool(bool),
    Float(f64),
    /// From a variable or a flag, where everything is a text until somebody knows better.
    Raw(String),
    /// What no setting is, such as a date.
    Other(&'static str),
}

/// Settings by name.
pub(crate) type Table = BTreeMap<String, Item>;

impl Value {
    /// What kind of value it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Text(_) | Self::Raw(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Bool(_) => "a boolean",
            Self::Float(_) => "a number",
            Self::Other(kind) => kind,
        }
    }
}

/// Reads a file of settings.
///
/// # Errors
/// What is no TOML, and where.
pub(crate) fn parse(name: &Arc<str>, text: &str) -> Result<Table, Fault> {
    let lines = Lines { name: name.clone(), text };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        // The parser quotes the text around the fault in its long form, and there may be a secret in it.
        Fault::new(lines.origin(at), String::new(), format!("not valid TOML: {}", error.message()))
    })?;
    Ok(table(&lines, document.into_inner()))
}

struct Lines<'a> {
    name: Arc<str>,
    text: &'a str,
}

impl Lines<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(at);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Origin::File { name: self.name.clone(), line }
    }
}

fn table(lines: &Lines<'_>, table: DeTable<'_>) -> Table {
    let mut items = Table::new();
    for (key, value) in table {
        let at = key.span().start;
        items.insert(key.into_inner().into_owned(), item(lines, Some(at), value));
    }
    items
}

/// A value is where its name is, if it has one: the span of a table may begin elsewhere.
fn item(lines: &Lines<'_>, at: Option<usize>, value: Spanned<DeValue<'_>>) -> Item {
    let origin = lines.origin(at.unwrap_or(value.span().start));
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(Cow::into_owned(text)),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number out of range"),
        },
        DeValue::Float(number) => number.as_str().parse().map_or(Value::Other("a number"), Value::Float),
        DeValue::Boolean(yes) => Value::Bool(yes),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(list) => Value::List(list.into_iter().map(|value| item(lines, None, value)).collect()),
        DeValue::Table(inner) => Value::Table(table(lines, inner)),
    };
    Item { value, origin }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(item: &Item) -> usize {
        match item.origin {
            Origin::File { line, .. } => line,
            _ => panic!("not from a file"),
        }
    }

    #[test]
    fn every_value_knows_its_line() {
        let text = "a = 1\n\n[[route]]\nname = 'x'\n[route.store]\nurl = '''\nsecret'''\nlist = [\n1,\n2]\n";
        let root = parse(&"f.toml".into(), text).unwrap();
        assert_eq!(line(&root["a"]), 1);
        let Value::List(routes) = &root["route"].value else { panic!() };
        let Value::Table(route) = &routes[0].value else { panic!() };
        assert_eq!(line(&route["name"]), 4);
        let Value::Table(store) = &route["store"].value else { panic!() };
        assert_eq!((line(&store["url"]), line(&store["list"])), (6, 8));
    }

    #[test]
    fn a_file_that_is_no_toml_is_refused_with_its_line_and_without_its_text() {
        let fault = parse(&"f.toml".into(), "a = 1\nurl = \"s3cret\nb = 2\n").unwrap_err().to_string();
        assert!(fault.starts_with("f.toml:2: ") && !fault.contains("s3cret"), "{fault}");
    }
}
