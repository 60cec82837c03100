//! Dead letters: from a row to one, and from a filter to a condition.

use std::borrow::Cow;
use std::collections::BTreeSet;

use outbox_core::{Content, DeadLetter, DeadLetterFilter, Position, Timestamp};
use uuid::Uuid;

use crate::text::{json_list, micros};

/// The columns that a dead letter has beside those of its message.
#[derive(Clone, Debug)]
pub struct DeadRow {
    /// Where it was.
    pub position: i64,
    /// How many attempts were made.
    pub attempts: u32,
    /// The error of the last one.
    pub error: String,
    /// Whether its key waits for it.
    pub blocks_key: bool,
    /// When it was enqueued.
    pub enqueued_at: Timestamp,
    /// When it was given up.
    pub died_at: Timestamp,
}

impl DeadRow {
    /// The dead letter with this content, readable or not.
    pub fn with(self, content: Content) -> DeadLetter {
        let (id, topic, key, message) = match content {
            Content::Message(message) => (
                Some(message.id()),
                Some(message.topic().to_owned()),
                message.key().map(str::to_owned),
                Some(message),
            ),
            Content::Malformed { id, topic, key, .. } => (id, topic, key, None),
        };
        DeadLetter {
            position: Position(self.position),
            id,
            topic,
            key,
            attempts: self.attempts,
            error: self.error,
            blocks_key: self.blocks_key,
            enqueued_at: self.enqueued_at,
            died_at: self.died_at,
            message,
        }
    }
}

/// Returns the last position of a page that has as many dead letters as were asked for. Others may be at that position, and belong to the
/// page as well.
pub fn full(page: &[DeadLetter], limit: usize) -> Option<Position> {
    page.last().filter(|_| page.len() >= limit).map(|letter| letter.position)
}

/// Replaces the dead letters at the last position of a page by all that are there.
pub fn replace_last(page: &mut Vec<DeadLetter>, all: Vec<DeadLetter>) {
    if let Some(position) = all.first().map(|letter| letter.position) {
        page.retain(|letter| letter.position != position);
        page.extend(all);
    }
}

/// Returns where dead letters are put back, given their positions, those of these that other messages have, and the lowest position of all
/// messages.
///
/// A position that is taken was assigned again, by a database that had lost its latest commits. Everything that was enqueued since
/// then is later than the dead letter, so it comes before all messages. Of several dead letters with one position the last one has it.
pub fn places(wanted: &[i64], mut taken: BTreeSet<i64>, lowest: Option<i64>) -> Vec<i64> {
    let mut free: Vec<bool> = wanted.iter().rev().map(|position| taken.insert(*position)).collect();
    free.reverse();
    let lowest = wanted.iter().copied().chain(lowest).chain([0]).min().unwrap_or(0);
    let mut next = lowest.saturating_sub_unsigned(free.iter().filter(|free| !**free).count() as u64);
    let mut place = |(position, free): (&i64, bool)| {
        if free {
            return *position;
        }
        next += 1;
        next - 1
    };
    wanted.iter().zip(free).map(&mut place).collect()
}

/// A value of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// How a database spells the parts of a condition. Each has one parameter, but for the id.
#[derive(Clone, Debug)]
pub struct Dialect {
    /// Always true.
    pub everything: &'static str,
    /// Positions that are in a JSON list.
    pub positions: &'static str,
    /// The id, and the parameters it is given as.
    pub id: (&'static str, fn(Uuid) -> Vec<Value>),
    /// The topic, byte by byte, and the parameter it is given as.
    pub topic: (&'static str, fn(&str) -> Value),
    /// The key, byte by byte, and the parameter it is given as.
    pub key: (&'static str, fn(&str) -> Value),
    /// A part of the error's text.
    pub error_contains: &'static str,
    /// An age in microseconds at least.
    pub older_than: Cow<'static, str>,
    /// A position to begin behind.
    pub after: &'static str,
    /// A position.
    pub at: &'static str,
}

/// A condition as SQL, with the values of its parameters in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The text.
    pub sql: String,
    /// The values.
    pub values: Vec<Value>,
}

impl Condition {
    /// What a filter selects, behind some position.
    pub fn new(dialect: &Dialect, filter: &DeadLetterFilter, after: Option<Position>) -> Self {
        let mut condition = Self { sql: dialect.everything.to_owned(), values: Vec::new() };
        if let Some(positions) = &filter.positions {
            let list = json_list(positions.iter().map(|position| position.0));
            condition.and(dialect.positions, [Value::Text(list)]);
        }
        if let Some(id) = filter.id {
            let (sql, values) = dialect.id;
            condition.and(sql, values(Uuid::from(id)));
        }
        if let Some(topic) = &filter.topic {
            let (sql, value) = dialect.topic;
            condition.and(sql, [value(topic)]);
        }
        if let Some(key) = &filter.key {
            let (sql, value) = dialect.key;
            condition.and(sql, [value(key)]);
        }
        if let Some(text) = &filter.error_contains {
            condition.and(dialect.error_contains, [Value::Text(text.clone())]);
        }
        if let Some(age) = filter.older_than {
            condition.and(&dialect.older_than, [Value::Integer(micros(age))]);
        }
        if let Some(after) = after {
            condition.and(dialect.after, [Value::Integer(after.0)]);
        }
        condition
    }

    /// The same at one position only.
    #[must_use]
    pub fn at(&self, dialect: &Dialect, position: Position) -> Self {
        let mut condition = self.clone();
        condition.and(dialect.at, [Value::Integer(position.0)]);
        condition
    }

    fn and(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql.push_str(" AND ");
        self.sql.push_str(sql);
        self.values.extend(values);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use outbox_core::MessageId;

    use super::*;

    const DIALECT: Dialect = Dialect {
        everything: "TRUE",
        positions: "p IN (?)",
        id: ("(i = ? OR i = ?)", |id| {
            vec![Value::Text(id.to_string()), Value::Bytes(id.as_bytes().to_vec())]
        }),
        topic: ("t = ?", |topic| Value::Text(topic.to_owned())),
        key: ("k = ?", |key| Value::Bytes(key.as_bytes().to_vec())),
        error_contains: "e LIKE ?",
        older_than: Cow::Borrowed("d < ?"),
        after: "p > ?",
        at: "p = ?",
    };

    #[test]
    fn a_dead_letter_whose_position_is_taken_comes_first() {
        assert_eq!(places(&[5, 7], BTreeSet::new(), Some(3)), [5, 7]);
        assert_eq!(places(&[5, 7], BTreeSet::from([7]), None), [5, -1]);
        assert_eq!(places(&[5, 5, 7, 9], BTreeSet::from([7]), Some(5)), [-2, 5, -1, 9]);
        assert_eq!(places(&[5, 6], BTreeSet::from([5, 6]), Some(-4)), [-6, -5]);
        assert_eq!(places(&[-9, 6], BTreeSet::from([6]), Some(-4)), [-9, -10]);
        assert!(places(&[], BTreeSet::from([1]), None).is_empty());
    }

    #[test]
    fn an_empty_filter_selects_everything() {
        let condition = Condition::new(&DIALECT, &DeadLetterFilter::default(), None);
        assert_eq!(condition, Condition { sql: "TRUE".to_owned(), values: Vec::new() });
    }

    #[test]
    fn every_condition_has_its_values_in_its_place() {
        let mut filter = DeadLetterFilter::default();
        filter.positions = Some(vec![Position(1), Position(2)]);
        filter.id = Some(MessageId::from(Uuid::nil()));
        filter.topic = Some("topic".to_owned());
        filter.key = Some("key".to_owned());
        filter.error_contains = Some("error".to_owned());
        filter.older_than = Some(Duration::from_micros(7));
        let condition = Condition::new(&DIALECT, &filter, Some(Position(9)));
        assert_eq!(
            condition.sql,
            "TRUE AND p IN (?) AND (i = ? OR i = ?) AND t = ? AND k = ? AND e LIKE ? AND d < ? AND p > ?"
        );
        assert_eq!(condition.values.len(), condition.sql.matches('?').count());
        assert_eq!(condition.values[0], Value::Text("[1,2]".to_owned()));
        assert_eq!(condition.values.last(), Some(&Value::Integer(9)));
        let at = condition.at(&DIALECT, Position(8));
        assert_eq!(at.sql, format!("{} AND p = ?", condition.sql));
        assert_eq!(at.values.last(), Some(&Value::Integer(8)));
    }
}
