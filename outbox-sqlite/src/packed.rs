//! Many rows in one.
//!
//! The driver copies each value of a row by itself, and hands each row from its thread to ours, which is woken up for it. That takes
//! several times as long as reading the row. So what can be is read as a single row: the columns as JSON, and the payloads one
//! behind the other.
//!
//! That is for rows as they usually are. Others (large ones, texts that are not UTF-8, bytes where a text belongs) are left to a
//! statement that reads them one by one.

use outbox_core::{Fetched, Result};
use outbox_sql::row::{Cell, RawMessage};
use serde::Deserialize;
use sqlx::sqlite::SqliteRow;

use crate::reader::{Known, fetched};
use crate::row::bytes;

/// A row in the order in which the statement lists its columns. Of an unusual one there is only the position.
#[derive(Debug, Deserialize)]
struct Packed {
    position: i64,
    #[serde(default)]
    partition: i64,
    #[serde(default)]
    attempts: i64,
    #[serde(default)]
    enqueued_at: i64,
    #[serde(default)]
    blocked: i64,
    #[serde(default)]
    message_id: Option<String>,
    #[serde(default)]
    topic: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    payload: usize,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    headers: Option<String>,
    #[serde(default)]
    options: Option<String>,
}

/// The rows up to the first unusual one, and whether there is one. `None` if that comes first, or the texts cannot be read in this way.
pub(crate) fn unpack(row: &SqliteRow, now: i64) -> Result<Option<(Vec<Fetched>, bool)>> {
    let list = bytes(row, 0)?.unwrap_or_default();
    // A text that is not UTF-8 makes it no JSON. Which one it is will be seen where they are read one by one.
    let Ok(list) = serde_json::from_slice::<Vec<Packed>>(list) else { return Ok(None) };
    let mut payloads = bytes(row, 1)?.unwrap_or_default();
    let mut rows = Vec::with_capacity(list.len());
    for packed in &list {
        let Some(message_id) = &packed.message_id else {
            return Ok((!rows.is_empty()).then_some((rows, true)));
        };
        let Some((payload, rest)) = payloads.split_at_checked(packed.payload) else { return Ok(None) };
        payloads = rest;
        let message = RawMessage {
            message_id: Cell::Text(message_id.as_bytes()),
            topic: Cell::Text(packed.topic.as_bytes()),
            key: Cell::text(packed.key.as_deref()),
            payload: Cell::Blob(payload),
            content_type: Cell::text(packed.content_type.as_deref()),
            headers: Cell::Text(packed.headers.as_deref().unwrap_or("{}").as_bytes()),
            options: Cell::Text(packed.options.as_deref().unwrap_or("{}").as_bytes()),
        };
        let known = Known {
            position: packed.position,
            partition: packed.partition,
            attempts: packed.attempts,
            enqueued_at: packed.enqueued_at,
            now,
            due: false,
            blocked: packed.blocked != 0,
            scheduled: None,
        };
        rows.push(fetched(known, message)?);
    }
    Ok(payloads.is_empty().then_some((rows, false)))
}
