//! What is set to what, and why: for people who wonder which of three places a setting came from.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::tree::Origin;

/// What was read, in the order of reading.
#[derive(Debug, Default)]
pub(crate) struct Explanation(RefCell<Vec<Line>>);

#[derive(Debug)]
struct Line {
    field: String,
    value: String,
    origin: Option<Origin>,
}

impl Explanation {
    pub(crate) fn set(&self, field: String, value: String, origin: &Origin) {
        self.0.borrow_mut().push(Line { field, value, origin: Some(origin.clone()) });
    }

    pub(crate) fn unset(&self, field: String, value: String) {
        self.0.borrow_mut().push(Line { field, value, origin: None });
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Line { field, value, origin } in &*self.0.borrow() {
            write!(f, "{field} = {value}")?;
            match origin {
                Some(origin) => writeln!(f, "  ({origin})")?,
                None => f.write_str("  (default)\n")?,
            }
        }
        f.write_char('\n')
    }
}

/// A value as one would write it in the file.
pub(crate) trait Show {
    fn show(&self) -> String;
}

macro_rules! show {
    ($($type:ty)*) => {
        $(impl Show for $type {
            fn show(&self) -> String {
                self.to_string()
            }
        })*
    };
}

show!(bool f64 u16 u32 u64 usize);

impl Show for Duration {
    fn show(&self) -> String {
        format!("\"{}\"", humantime::format_duration(*self))
    }
}

impl Show for Option<Duration> {
    fn show(&self) -> String {
        self.map_or("\"never\"".to_owned(), |duration| duration.show())
    }
}

impl Show for String {
    fn show(&self) -> String {
        format!("{self:?}")
    }
}
