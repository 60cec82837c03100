//! Whatever the names of schema and tables are, the statements stay the same: those of the default names,
//! with other names in the same quotes. And every URL of a library is accepted or refused. The input is a
//! byte for the partitions, and then a prefix, a schema and a URL, each ended by a byte that is not part of
//! UTF-8.

#![no_main]

use libfuzzer_sys::fuzz_target;
use outbox_core::{ErrorKind, Result};

const END: u8 = 0xfe;
/// Part of the passwords of the corpus.
const MARK: &str = "s3cr3t";

fuzz_target!(|data: &[u8]| {
    let Some((partitions, rest)) = data.split_first() else { return };
    let partitions = u16::from(*partitions);
    let mut parts = rest.splitn(3, |byte| *byte == END).map(String::from_utf8_lossy);
    let mut next = || parts.next().unwrap_or_default().into_owned();
    let (prefix, schema, url) = (next(), next(), next());
    let schema = Some(schema).filter(|schema| !schema.is_empty());

    for (dialect, statements) in
        [(&POSTGRES, postgres as Statements), (&MYSQL, mysql), (&MSSQL, mssql), (&SQLITE, sqlite)]
    {
        match statements(&prefix, schema.as_deref(), partitions) {
            Err(error) => {
                assert!(error.kind() == ErrorKind::Config && error.report().len() > 10, "{}", error.report());
            }
            Ok(theirs) => {
                let usual = statements("outbox", schema.as_ref().map(|_| "public"), partitions).unwrap();
                assert!(usual.len() == theirs.len());
                for (theirs, usual) in theirs.iter().zip(&usual) {
                    assert!(dialect.shape(theirs) == dialect.shape(usual), "{theirs}");
                }
            }
        }
    }
    urls(&url);
});

type Statements = fn(&str, Option<&str>, u16) -> Result<Vec<String>>;

macro_rules! statements {
    ($name:ident, $crate_name:ident, $schema:ident) => {
        fn $name(prefix: &str, schema: Option<&str>, partitions: u16) -> Result<Vec<String>> {
            use $crate_name::{Config, Inbox, Outbox};
            let mut config = Config::new().prefix(prefix).partitions(partitions);
            if let Some(schema) = schema {
                config = config.$schema(schema);
            }
            let table = config.message_table()?;
            let (outbox, inbox) = (Outbox::new(config.clone())?, Inbox::new(config)?);
            Ok(vec![outbox.ddl(), inbox.ddl(), outbox.insert_sql().to_owned(), table])
        }
    };
}

statements!(postgres, outbox_postgres, schema);
statements!(mysql, outbox_mysql, database);
statements!(mssql, outbox_mssql, schema);

/// It has no schemas, and its names are so simple that the table's needs no quotes.
fn sqlite(prefix: &str, _: Option<&str>, partitions: u16) -> Result<Vec<String>> {
    use outbox_sqlite::{Config, Inbox, Outbox};
    let config = Config::new().prefix(prefix).partitions(partitions);
    let (outbox, inbox) = (Outbox::new(config.clone())?, Inbox::new(config)?);
    Ok(vec![outbox.ddl(), inbox.ddl(), outbox.insert_sql().to_owned()])
}

/// The quoting rules of a database.
struct Dialect {
    /// The quotes around a name.
    name: (char, char),
    /// Strings may contain statements, whose names are then quoted twice.
    nested: bool,
}

const POSTGRES: Dialect = Dialect { name: ('"', '"'), nested: false };
const MYSQL: Dialect = Dialect { name: ('`', '`'), nested: false };
const MSSQL: Dialect = Dialect { name: ('[', ']'), nested: true };
const SQLITE: Dialect = Dialect { name: ('"', '"'), nested: false };

impl Dialect {
    /// A statement without its names, and the state of a hash of them.
    fn shape(&self, sql: &str) -> String {
        let mut shape = String::new();
        let mut rest = sql;
        while let Some(first) = rest.chars().next() {
            let (begin, end) = self.name;
            if first == begin {
                let (_, behind) = quoted(rest, end).expect("a name does not end");
                shape.push_str("<name>");
                rest = behind;
            } else if first == '\'' {
                let (text, behind) = quoted(rest, '\'').expect("a text does not end");
                shape.push('\'');
                if self.nested && shape.ends_with("SCHEMA_ID(N'") {
                    shape.push_str("<name>");
                } else if self.nested
                    && ["EXEC(N'", "OBJECT_ID(N'"].iter().any(|before| shape.ends_with(before))
                {
                    shape.push_str(&self.shape(&text));
                } else if let Some(hash) = text.strip_prefix("outbox_").filter(|hash| hash.len() == 16) {
                    assert!(hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
                    shape.push_str("<hash>");
                } else {
                    shape.push_str(&text);
                }
                shape.push('\'');
                rest = behind;
            } else if rest.starts_with("--") {
                let line = rest.find('\n').unwrap_or(rest.len());
                shape.push_str(&rest[..line]);
                rest = &rest[line..];
            } else {
                shape.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        shape
    }
}

/// The text between the opening and the closing quote, and the text after it. A quote within a name is
/// doubled.
fn quoted(text: &str, end: char) -> Option<(String, &str)> {
    let mut inner = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character != end {
            inner.push(character);
        } else if characters.next_if(|(_, next)| *next == end).is_some() {
            inner.push(end);
        } else {
            return Some((inner, &text[at + end.len_utf8()..]));
        }
    }
    None
}

/// Parses a URL with the libraries. Neither of them connects yet.
fn urls(url: &str) {
    use outbox_amqp::AmqpPublisher;
    use outbox_pubsub::PubSubPublisher;
    let refusals =
        [AmqpPublisher::builder(url).build().err(), PubSubPublisher::emulator_builder(url).build().err()];
    for error in refusals.into_iter().flatten() {
        assert!(error.kind() == ErrorKind::Config, "{}", error.report());
        assert!(!url.contains(MARK) || !error.report().contains(MARK), "{}", error.report());
    }
}
