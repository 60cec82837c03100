//! Databases in other encodings than UTF-8.

use std::borrow::Cow;

/// Which characters a database can store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// All of them.
    Unicode,
    /// Those of ISO 8859-1.
    Latin1,
    /// Those of ASCII at least.
    Other,
}

impl Encoding {
    /// By the name that PostgreSQL has for it.
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "UTF8" => Self::Unicode,
            "LATIN1" => Self::Latin1,
            _ => Self::Other,
        }
    }

    /// A string for people with a question mark for each character that the database might refuse. One such character in the error
    /// of one message would make every settle call fail that has it.
    pub(crate) fn storable(self, text: &str) -> Cow<'_, str> {
        let last = match self {
            Self::Unicode => char::MAX,
            Self::Latin1 => '\u{ff}',
            Self::Other => '\u{7f}',
        };
        if text.chars().all(|character| character <= last) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.chars().map(|character| if character <= last { character } else { '?' }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_the_encoding_lacks_are_replaced() {
        let text = "x\u{e9} \u{2014} \u{1f980}";
        for (name, expected) in [("UTF8", text), ("LATIN1", "x\u{e9} ? ?"), ("WIN1252", "x? ? ?")] {
            assert_eq!(Encoding::of(name).storable(text), expected, "{name}");
            assert_eq!(Encoding::of(name).storable("plain"), "plain");
        }
    }
}
