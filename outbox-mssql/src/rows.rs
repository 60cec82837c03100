//! Many rows as the parameters of one statement.
//!
//! Numbers travel as JSON, texts and payloads in one piece each, cut up by the statement. Texts are not in the JSON
//! because not every server that speaks T-SQL undoes the escapes in it, and payloads because a blob in JSON would be a
//! third longer.

use serde_json::{Value, json};
use tiberius::ToSql;

/// A text that tells how a server counts characters: two where it counts UTF-16 code units, as SQL Server does under
/// the collation that statements name, and one where it counts code points, as Babelfish does.
const COUNTED: &str = "😀";

/// Rows, each an array of what was pushed for it.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// With the places of texts in code units, and in code points.
    by_units: Vec<Vec<Value>>,
    by_points: Vec<Vec<Value>>,
    texts: String,
    units: usize,
    points: usize,
    blob: Vec<u8>,
}

impl Rows {
    /// Begins a row.
    pub(crate) fn row(&mut self) -> &mut Self {
        self.by_units.push(Vec::new());
        self.by_points.push(Vec::new());
        self
    }

    /// Adds a number, a truth value or a text without any need for escapes to the row.
    pub(crate) fn plain(&mut self, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        self.add(value.clone(), value);
        self
    }

    /// Adds a text, which takes two columns: where it begins and how long it is.
    pub(crate) fn text(&mut self, text: Option<&str>) -> &mut Self {
        let Some(text) = text else { return self.plain(Value::Null).plain(Value::Null) };
        let (units, points) = (text.encode_utf16().count(), text.chars().count());
        self.add(json!(self.units + 1), json!(self.points + 1));
        self.add(json!(units), json!(points));
        self.texts.push_str(text);
        self.units += units;
        self.points += points;
        self
    }

    /// Adds bytes, which take two columns as well.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.plain(self.blob.len() + 1).plain(bytes.len());
        self.blob.extend_from_slice(bytes);
        self
    }

    fn add(&mut self, by_units: Value, by_points: Value) {
        for (rows, value) in [(&mut self.by_units, by_units), (&mut self.by_points, by_points)] {
            if let Some(row) = rows.last_mut() {
                row.push(value);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_units.is_empty()
    }

    pub(crate) fn finish(self) -> Parameters {
        Parameters {
            by_units: json!(self.by_units).to_string(),
            by_points: json!(self.by_points).to_string(),
            texts: self.texts,
            blob: self.blob,
        }
    }
}

/// The first parameters of a statement over [`Rows`]: the rows by code units, the rows by code points, all texts, the
/// text that tells which of the two to take, and all bytes.
#[derive(Debug)]
pub(crate) struct Parameters {
    by_units: String,
    by_points: String,
    texts: String,
    blob: Vec<u8>,
}

impl Parameters {
    pub(crate) fn bind(&self) -> [&dyn ToSql; 5] {
        [&self.by_units, &self.by_points, &self.texts, &COUNTED, &self.blob]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the statements do with it, by code units.
    fn cut_units(texts: &str, at: &Value, length: &Value) -> Option<String> {
        let (at, length) = (at.as_u64()? as usize, length.as_u64()? as usize);
        let units: Vec<u16> = texts.encode_utf16().collect();
        Some(String::from_utf16(&units[at - 1..at - 1 + length]).unwrap())
    }

    fn cut_points(texts: &str, at: &Value, length: &Value) -> Option<String> {
        let (at, length) = (at.as_u64()? as usize, length.as_u64()? as usize);
        Some(texts.chars().skip(at - 1).take(length).collect())
    }

    proptest! {
        #[test]
        fn what_was_put_together_is_cut_up_again(
            rows in prop::collection::vec((any::<i64>(), prop::option::of(any::<String>()), any::<Vec<u8>>()), 0..20),
        ) {
            let mut list = Rows::default();
            for (number, text, bytes) in &rows {
                list.row().plain(*number).text(text.as_deref()).bytes(bytes);
            }
            let Parameters { by_units, by_points, texts, blob } = list.finish();
            let by_units: Vec<Vec<Value>> = serde_json::from_str(&by_units).unwrap();
            let by_points: Vec<Vec<Value>> = serde_json::from_str(&by_points).unwrap();
            prop_assert_eq!(by_units.len(), rows.len());
            for ((number, text, bytes), (units, points)) in rows.iter().zip(by_units.iter().zip(&by_points)) {
                prop_assert_eq!(units[0].as_i64(), Some(*number));
                prop_assert_eq!(&cut_units(&texts, &units[1], &units[2]), text);
                prop_assert_eq!(&cut_points(&texts, &points[1], &points[2]), text);
                let at = units[3].as_u64().unwrap() as usize - 1;
                prop_assert_eq!(&blob[at..at + units[4].as_u64().unwrap() as usize], &bytes[..]);
            }
        }
    }

    #[test]
    fn no_text_is_in_the_json() {
        let mut list = Rows::default();
        list.row().text(Some("a\"b\\c\n")).plain(true);
        let Parameters { by_units, texts, .. } = list.finish();
        assert_eq!(by_units, "[[1,6,true]]");
        assert_eq!(texts, "a\"b\\c\n");
        assert!(Rows::default().is_empty());
    }
}
