//! From SQLite's values, which are of any type whatever the column is declared as, to those of all SQL stores.

use outbox_core::{Error, Result};
use outbox_sql::row::{Cell, RawMessage};
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, TypeInfo, ValueRef};

use crate::error::store_error;

/// The columns of a message in the order of the fields, `first` being the index of the first.
pub(crate) fn raw_message(row: &SqliteRow, first: usize) -> Result<RawMessage<'_>> {
    Ok(RawMessage {
        message_id: cell(row, first)?,
        topic: cell(row, first + 1)?,
        key: cell(row, first + 2)?,
        payload: cell(row, first + 3)?,
        content_type: cell(row, first + 4)?,
        headers: cell(row, first + 5)?,
        options: cell(row, first + 6)?,
    })
}

pub(crate) fn cell(row: &SqliteRow, index: usize) -> Result<Cell<'_>> {
    let value = row.try_get_raw(index).map_err(decoding)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    // Of a value that is there this is its own type, not the column's.
    let blob = match value.type_info().name() {
        "TEXT" => false,
        "BLOB" => true,
        _ => return Ok(Cell::Number),
    };
    let bytes = <&[u8] as Decode<'_, Sqlite>>::decode(value)
        .map_err(|source| decoding(sqlx::Error::Decode(source)))?;
    Ok(if blob { Cell::Blob(bytes) } else { Cell::Text(bytes) })
}

/// The bytes of a text or a blob, if there is one.
pub(crate) fn bytes(row: &SqliteRow, index: usize) -> Result<Option<&[u8]>> {
    Ok(match cell(row, index)? {
        Cell::Text(bytes) | Cell::Blob(bytes) => Some(bytes),
        Cell::Null | Cell::Number => None,
    })
}

/// A column that the tables' own rules keep an integer.
pub(crate) fn integer(row: &SqliteRow, index: usize) -> Result<i64> {
    row.try_get(index).map_err(decoding)
}

/// A text column that may hold anything, for display.
pub(crate) fn lossy(row: &SqliteRow, index: usize) -> Result<Option<String>> {
    Ok(bytes(row, index)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

fn decoding(error: sqlx::Error) -> Error {
    store_error("reading a row", error)
}
