//! One table of the settings, read field by field.
//!
//! Whoever reads a field says what is allowed in it. What is wrong is noted and told at the end, all of it together;
//! what is not known is wrong as well, or else a slip of the pen would silently leave a default in place.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use outbox_core::Error;

use super::explain::{Explanation, Show};
use super::fault::{Fault, Faults};
use super::secret::Secret;
use super::tree::{Item, Origin, Table, Value};

/// What all sections share while settings are read.
pub(crate) struct Reading<'a> {
    pub(crate) faults: &'a Faults,
    pub(crate) explanation: &'a Explanation,
    pub(crate) environment: &'a BTreeMap<String, String>,
}

/// One table of the settings.
pub(crate) struct Section<'a> {
    reading: &'a Reading<'a>,
    path: String,
    table: &'a Table,
    origin: &'a Origin,
    known: RefCell<Vec<String>>,
}

/// A table with nothing in it, for sections that nobody wrote.
static EMPTY: Table = Table::new();

impl<'a> Section<'a> {
    pub(crate) fn new(
        reading: &'a Reading<'a>,
        path: impl Into<String>,
        table: &'a Table,
        origin: &'a Origin,
    ) -> Self {
        Self { reading, path: path.into(), table, origin, known: RefCell::default() }
    }

    /// The same section under another name, for people.
    pub(crate) fn renamed(self, path: String) -> Self {
        Self { path, ..self }
    }

    /// Notes a fault of this section as a whole.
    pub(crate) fn fault(&self, problem: impl Into<String>) {
        self.reading.faults.add(Fault::new(self.origin.clone(), &self.path, problem));
    }

    /// Notes a fault of one field, where it was written.
    pub(crate) fn fault_in(&self, name: &str, problem: impl Into<String>) {
        let origin = self.table.get(name).map_or(self.origin, |item| &item.origin);
        self.reading.faults.add(Fault::new(origin.clone(), self.path_of(name), problem));
    }

    /// Notes what a library says about settings that are each allowed by themselves: at the first field that its error
    /// names, or at the section if it names none that was set.
    pub(crate) fn blame(&self, error: &Error) {
        let text = error.report();
        let words =
            |name: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
        match self.table.keys().find(|name| words(name)) {
            Some(name) => self.fault_in(name, text.clone()),
            None => self.fault(text),
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn item(&self, name: &str) -> Option<&'a Item> {
        self.known.borrow_mut().push(name.to_owned());
        self.table.get(name)
    }

    /// Notes that there is such a field.
    #[cfg(any(feature = "amqp", feature = "nats", feature = "webhook"))]
    pub(crate) fn known(&self, name: &str) {
        self.known.borrow_mut().push(name.to_owned());
    }

    /// Whether the field was written.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Whether somebody wrote this text into a field.
    pub(crate) fn says(&self, name: &str, wanted: &str) -> bool {
        self.table.get(name).and_then(|item| text(&item.value)) == Some(wanted)
    }

    /// Reads a field by a function that knows what is allowed.
    fn read<T>(
        &self,
        name: &str,
        allowed: impl Display,
        read: impl FnOnce(&Value) -> Option<T>,
        show: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        let item = self.item(name)?;
        let value = read(&item.value);
        match &value {
            Some(value) => self.reading.explanation.set(self.path_of(name), show(value), &item.origin),
            None => self.fault_in(name, format!("must be {allowed}, not {}", written(&item.value))),
        }
        value
    }

    /// A text for which `check` holds.
    pub(crate) fn text(
        &self,
        name: &str,
        allowed: impl Display,
        check: impl FnOnce(&str) -> bool,
    ) -> Option<String> {
        let read = |value: &Value| text(value).filter(|text| check(text)).map(str::to_owned);
        self.read(name, allowed, read, |text| format!("{text:?}"))
    }

    /// Any text that is not empty.
    pub(crate) fn any_text(&self, name: &str) -> Option<String> {
        self.text(name, "a string that is not empty", |text| !text.is_empty())
    }

    /// A list of texts; nothing if nobody wrote it.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let read = |value: &Value| match value {
            Value::List(items) => items.iter().map(|item| text(&item.value).map(str::to_owned)).collect(),
            Value::Raw(text) => Some(text.split(',').map(|part| part.trim().to_owned()).collect()),
            _ => None,
        };
        self.read(name, "a list of strings", read, |texts: &Vec<String>| format!("{texts:?}"))
            .unwrap_or_default()
    }

    /// A whole number within bounds.
    pub(crate) fn number<N: TryFrom<i64> + Display>(
        &self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Option<N> {
        let read = |value: &Value| {
            let number = match value {
                Value::Integer(number) => Some(*number),
                Value::Raw(text) => text.trim().parse().ok(),
                _ => None,
            };
            number.filter(|number| range.contains(number)).and_then(|number| N::try_from(number).ok())
        };
        let allowed = match *range.end() {
            i64::MAX => format!("a whole number of at least {}", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        self.read(name, allowed, read, N::to_string)
    }

    /// A number of at least `least`.
    pub(crate) fn factor(&self, name: &str, least: f64) -> Option<f64> {
        let read = |value: &Value| {
            let number = match value {
                Value::Float(number) => Some(*number),
                #[allow(clippy::cast_precision_loss, reason = "nobody writes a factor of so many digits")]
                Value::Integer(number) => Some(*number as f64),
                Value::Raw(text) => text.trim().parse().ok(),
                _ => None,
            };
            number.filter(|number| number.is_finite() && *number >= least)
        };
        self.read(name, format_args!("a number of at least {least}"), read, f64::to_string)
    }

    /// A number from 0 to 1.
    pub(crate) fn ratio(&self, name: &str) -> Option<f64> {
        let read = |value: &Value| {
            let number = match value {
                Value::Float(number) => Some(*number),
                Value::Integer(0) => Some(0.0),
                Value::Integer(1) => Some(1.0),
                Value::Raw(text) => text.trim().parse().ok(),
                _ => None,
            };
            number.filter(|number| (0.0..=1.0).contains(number))
        };
        self.read(name, "a number from 0 to 1", read, f64::to_string)
    }

    /// `true` or `false`.
    pub(crate) fn truth(&self, name: &str) -> Option<bool> {
        let read = |value: &Value| match value {
            Value::Bool(yes) => Some(*yes),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        self.read(name, "true or false", read, bool::to_string)
    }

    /// A length of time within bounds, such as `"10s"`.
    pub(crate) fn duration(&self, name: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.read(name, a_time(&range), |value| duration(value, &range), Duration::show)
    }

    /// A length of time within bounds, or `"never"`.
    pub(crate) fn duration_or_never(
        &self,
        name: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        let read = |value: &Value| match text(value) {
            Some("never") => Some(None),
            _ => duration(value, &range).map(Some),
        };
        self.read(name, format_args!("{}, or \"never\"", a_time(&range)), read, Option::show)
    }

    /// A number of bytes of at least 1, such as `65536` or `"16MiB"`.
    pub(crate) fn bytes(&self, name: &str) -> Option<usize> {
        let read = |value: &Value| {
            let bytes = match value {
                Value::Integer(number) => u64::try_from(*number).ok(),
                _ => text(value)?.parse().ok().map(|size: bytesize::ByteSize| size.as_u64()),
            };
            bytes.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0)
        };
        self.read(name, "a number of bytes such as 65536 or \"16MiB\", at least 1", read, usize::to_string)
    }

    /// One of some words.
    pub(crate) fn choice<T: Clone>(&self, name: &str, choices: &[(&'static str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let read = |value: &Value| {
            let word = text(value)?;
            choices.iter().find(|(choice, _)| *choice == word).cloned()
        };
        self.read(name, words.join(" or "), read, |(word, _)| format!("{word:?}")).map(|(_, choice)| choice)
    }

    /// A text that must not be seen: written here as `name`, in the variable that `name_env` names, or in the file that
    /// `name_file` names.
    pub(crate) fn secret(&self, name: &str) -> Option<Secret> {
        let (variable, file) = (format!("{name}_env"), format!("{name}_file"));
        let ways = [name, &variable, &file];
        let items = ways.map(|way| self.item(way));
        let written: Vec<&str> = ways.into_iter().filter(|way| self.has(way)).collect();
        if let [first, second, ..] = written[..] {
            self.fault_in(second, format!("cannot be combined with {first}; keep one of them"));
            return None;
        }
        let way = *written.first()?;
        let item = items.into_iter().flatten().next()?;
        let found = match text(&item.value) {
            None => Err(format!("must be a string, not {}", item.value.kind())),
            Some(text) if way == name => Ok(text.to_owned()),
            Some(text) if way == variable => match self.reading.environment.get(text) {
                Some(value) => Ok(value.clone()),
                None => Err(format!("the variable {} is not set", place(text))),
            },
            Some(path) => match std::fs::read_to_string(path) {
                Ok(value) => Ok(value.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => Err(format!("the file {} cannot be read: {error}", place(path))),
            },
        };
        let found = found.and_then(|found| {
            if found.is_empty() { Err("is empty".to_owned()) } else { Ok(Secret::new(found)) }
        });
        match found {
            Ok(secret) => {
                let shown = match &item.value {
                    Value::Text(text) | Value::Raw(text) if way != name => format!("{text:?}"),
                    _ => "(hidden)".to_owned(),
                };
                self.reading.explanation.set(self.path_of(way), shown, &item.origin);
                Some(secret)
            }
            Err(problem) => {
                self.fault_in(way, problem);
                None
            }
        }
    }

    /// As [`secret`](Self::secret), and a fault without one.
    fn required_secret(&self, name: &str, example: &str) -> Option<Secret> {
        if [name.to_owned(), format!("{name}_env"), format!("{name}_file")].iter().any(|way| self.has(way)) {
            return self.secret(name);
        }
        self.fault(format!("{name} is missing; write {name}, {name}_env or {name}_file, such as {example}"));
        self.secret(name)
    }

    /// A URL that holds a password, as [`required_secret`](Self::required_secret). `example` is what one looks like.
    ///
    /// A password with a `/`, `?` or `#` that is not encoded ends the host for whoever reads the URL, and what is left of it
    /// would be a name, which is shown. The `@` that should have ended the password gives it away.
    pub(crate) fn url(&self, example: &str) -> Option<Secret> {
        let secret = self.required_secret("url", &format!("url = \"{example}\""))?;
        self.is_clear("url", &secret).then_some(secret)
    }

    /// One or more URLs: `url`, as [`url`](Self::url), or the list `urls`, which is a secret as well. In a variable or a
    /// file its URLs are separated by spaces, commas or line breaks.
    #[cfg(any(feature = "amqp", feature = "nats"))]
    pub(crate) fn urls(&self, example: &str) -> Option<Vec<Secret>> {
        let (one, several) = (["url", "url_env", "url_file"], ["urls", "urls_env", "urls_file"]);
        one.into_iter().chain(several).for_each(|way| self.known(way));
        let Some(list) = several.into_iter().find(|way| self.has(way)) else {
            return Some(vec![self.url(example)?]);
        };
        if let Some(one) = one.into_iter().find(|way| self.has(way)) {
            self.fault_in(list, format!("is given beside {one}; keep one of them"));
            return None;
        }
        let urls: Vec<Secret> = match self.item("urls").map(|item| &item.value) {
            Some(Value::List(items)) => {
                let urls: Option<Vec<_>> =
                    items.iter().map(|item| text(&item.value).map(Secret::new)).collect();
                let Some(urls) = urls else {
                    self.fault_in(list, "must be a list of strings");
                    return None;
                };
                if let Some(item) = self.table.get("urls") {
                    self.reading.explanation.set(self.path_of("urls"), "(hidden)".to_owned(), &item.origin);
                }
                urls
            }
            _ => {
                let all = self.secret("urls")?;
                let urls = all.reveal().split(|c: char| c == ',' || c.is_whitespace());
                urls.filter(|url| !url.is_empty()).map(Secret::new).collect()
            }
        };
        if urls.is_empty() {
            self.fault_in(list, format!("is empty; write urls = [\"{example}\"]"));
            return None;
        }
        let clear = urls.iter().map(|url| self.is_clear("urls", url)).collect::<Vec<_>>();
        clear.into_iter().all(|clear| clear).then_some(urls)
    }

    fn is_clear(&self, name: &'static str, url: &Secret) -> bool {
        let rest = url.reveal().split_once("://").map_or("", |(_, rest)| rest);
        let (host, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let clear = host.contains('@') || !behind.contains('@');
        if !clear {
            self.fault_in(
                self.way(name),
                "has an @ behind its host; write / as %2F, ? as %3F, # as %23 and @ as %40 in a user or password",
            );
        }
        clear
    }

    /// The way in which a secret was given, for faults of what is in it.
    pub(crate) fn way(&self, name: &'static str) -> &'a str {
        let ways = [format!("{name}_env"), format!("{name}_file")];
        self.table.keys().find(|written| ways.contains(written)).map_or(name, String::as_str)
    }

    /// A table in this one; an empty one if nobody wrote it.
    pub(crate) fn section(&self, name: &str) -> Section<'a> {
        let path = self.path_of(name);
        match self.item(name) {
            Some(Item { value: Value::Table(table), origin }) => {
                Section::new(self.reading, path, table, origin)
            }
            Some(item) => {
                self.fault_in(name, format!("must be a table, not {}", written(&item.value)));
                Section::new(self.reading, path, &EMPTY, &item.origin)
            }
            None => Section::new(self.reading, path, &EMPTY, self.origin),
        }
    }

    /// The tables in a list, or nothing if nobody wrote it.
    pub(crate) fn sections(&self, name: &str) -> Vec<Section<'a>> {
        let Some(item) = self.item(name) else { return Vec::new() };
        let Value::List(items) = &item.value else {
            self.fault_in(name, format!("must be a list of tables, not {}", written(&item.value)));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let path = format!("{}[{}]", self.path_of(name), number + 1);
            match &item.value {
                Value::Table(table) => sections.push(Section::new(self.reading, path, table, &item.origin)),
                value => {
                    let problem = format!("must be a table, not {}", written(value));
                    self.reading.faults.add(Fault::new(item.origin.clone(), path, problem));
                }
            }
        }
        sections
    }

    /// The names of a table whose names are the user's, such as topics. Each is then read as a field of that table.
    pub(crate) fn names(&self) -> Vec<&'a str> {
        self.table.keys().map(String::as_str).collect()
    }

    /// Such a table, of texts, with what is made of each.
    pub(crate) fn named_texts<T>(&self, make: impl Fn(String) -> T) -> Vec<(String, T)> {
        let text = |name: &str| Some((name.to_owned(), make(self.any_text(name)?)));
        self.names().into_iter().filter_map(text).collect()
    }

    /// Takes what was read for a setting that has a default, and says which of the two it is.
    pub(crate) fn fill<T: Show>(&self, name: &str, read: Option<T>, setting: &mut T) {
        match read {
            Some(value) => *setting = value,
            None if !self.has(name) => self.reading.explanation.unset(self.path_of(name), setting.show()),
            None => {}
        }
    }

    /// Refuses every other field while `field`, without which they mean nothing, is not written.
    pub(crate) fn alone(&self, field: &str) {
        let known = self.known.borrow();
        for name in self.table.keys().filter(|name| known.contains(name)) {
            self.fault_in(name, format!("has no effect without {field}"));
        }
    }

    /// Refuses the fields that nobody has asked for, and says which there are.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        for name in self.table.keys().filter(|name| !known.contains(name)) {
            let mut allowed: Vec<&str> = known.iter().map(String::as_str).collect();
            allowed.sort_unstable();
            allowed.dedup();
            self.fault_in(name, format!("unknown setting; expected one of {}", allowed.join(", ")));
        }
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Raw(text) => Some(text),
        _ => None,
    }
}

/// Where a secret was to be found, for people. Who writes the secret itself there is not shown it.
fn place(text: &str) -> &str {
    if text.contains('@') { "(hidden)" } else { text }
}

fn duration(value: &Value, range: &RangeInclusive<Duration>) -> Option<Duration> {
    humantime::parse_duration(text(value)?.trim()).ok().filter(|duration| range.contains(duration))
}

fn a_time(range: &RangeInclusive<Duration>) -> String {
    let bounds = (range.start().show(), range.end().show());
    format!("a time such as \"500ms\", \"10s\" or \"2m\", from {} to {}", bounds.0, bounds.1)
}

/// A faulty value, for people: short texts as they are, but nothing that may hold a password.
fn written(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Raw(text) if text.len() <= 40 && !text.contains(['@', '\n', ';']) => {
            format!("{text:?}")
        }
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        value => value.kind().to_owned(),
    }
}
