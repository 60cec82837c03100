//! From rows to messages, without trusting what others wrote.

use std::time::Duration;

use outbox_core::{Content, Error, ErrorKind, Fetched, Identity, Partition, Position, Result, Timestamp};
use outbox_sql::row::{Cell, RawMessage, attempts};
use sqlx::postgres::{PgRow, PgValueRef};
use sqlx::{Row as _, ValueRef as _};

use crate::error::map_error;
use crate::sql::Column;

/// From 1970-01-01, where we count from, to 2000-01-01, where PostgreSQL does, in microseconds.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// Reads columns by their position.
///
/// Values that anybody may have written are taken as bytes: the driver's own conversions fail or panic on what
/// PostgreSQL allows, such as a time of infinity, and one such row must not stop all others.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'r>(pub(crate) &'r PgRow);

impl<'r> Columns<'r> {
    fn value(self, column: usize) -> Result<Option<PgValueRef<'r>>> {
        let value = self.0.try_get_raw(column).map_err(map_error)?;
        Ok((!value.is_null()).then_some(value))
    }

    pub(crate) fn bytes(self, column: usize) -> Result<Option<&'r [u8]>> {
        let Some(value) = self.value(column)? else { return Ok(None) };
        value.as_bytes().map(Some).map_err(|source| unexpected(column).with_source(source))
    }

    fn fixed<const N: usize>(self, column: usize) -> Result<Option<[u8; N]>> {
        let Some(bytes) = self.bytes(column)? else { return Ok(None) };
        bytes.try_into().map(Some).map_err(|_| unexpected(column))
    }

    pub(crate) fn bigint(self, column: usize) -> Result<Option<i64>> {
        Ok(self.fixed(column)?.map(i64::from_be_bytes))
    }

    pub(crate) fn boolean(self, column: usize) -> Result<bool> {
        Ok(self.fixed(column)?.is_some_and(|[byte]: [u8; 1]| byte != 0))
    }

    /// A time. Infinity becomes the latest or the earliest there is.
    pub(crate) fn timestamp(self, column: usize) -> Result<Option<Timestamp>> {
        let micros = self.bigint(column)?;
        Ok(micros.map(|micros| Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH))))
    }

    /// A text that only the database itself writes.
    pub(crate) fn own_text(self, column: usize) -> Result<Option<&'r str>> {
        let Some(bytes) = self.bytes(column)? else { return Ok(None) };
        std::str::from_utf8(bytes).map(Some).map_err(|source| unexpected(column).with_source(source))
    }

    pub(crate) fn lossy_text(self, column: usize) -> Result<Option<String>> {
        Ok(self.bytes(column)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    pub(crate) fn position(self) -> Result<Option<Position>> {
        Ok(self.bigint(Column::Position as usize)?.map(Position))
    }

    pub(crate) fn partition(self) -> Result<Partition> {
        let number = self.fixed(Column::Partition as usize)?.map(i16::from_be_bytes);
        let number = number.and_then(|number| u16::try_from(number).ok());
        number.map(Partition).ok_or_else(|| unexpected(Column::Partition as usize))
    }

    pub(crate) fn attempts(self) -> Result<u32> {
        // Below zero only if somebody wrote it there.
        let stored = self.fixed(Column::Attempts as usize)?.map_or(0, i32::from_be_bytes);
        Ok(attempts(i64::from(stored)))
    }

    pub(crate) fn enqueued_at(self) -> Result<Timestamp> {
        let column = Column::EnqueuedAt as usize;
        self.timestamp(column)?.ok_or_else(|| unexpected(column))
    }

    /// Both values as they are stored: a time may be infinite.
    pub(crate) fn identity(self) -> Result<Identity> {
        let id = self.fixed(Column::MessageId as usize)?;
        let time = self.bigint(Column::EnqueuedAt as usize)?;
        let missing = || unexpected(Column::MessageId as usize);
        Ok(Identity::new(id.ok_or_else(missing)?, time.ok_or_else(missing)?))
    }

    /// The message, or what is wrong with it.
    pub(crate) fn content(self) -> Result<Content> {
        let text = |column: Column| Ok::<_, Error>(Cell::text(self.bytes(column as usize)?));
        let json = |column: Column| Ok::<_, Error>(self.bytes(column as usize)?.map_or(EMPTY, json));
        let raw = RawMessage {
            message_id: Cell::blob(self.bytes(Column::MessageId as usize)?),
            topic: text(Column::Topic)?,
            key: text(Column::Key)?,
            payload: Cell::blob(self.bytes(Column::Payload as usize)?),
            content_type: text(Column::ContentType)?,
            headers: json(Column::Headers)?,
            options: json(Column::Options)?,
        };
        Ok(raw.content(self.timestamp(Column::DeliverAt as usize)?))
    }

    /// A fetched row, all but its age, which [`aged`] sets.
    pub(crate) fn fetched(self, position: Position, due: bool) -> Result<Fetched> {
        Ok(Fetched {
            position,
            identity: self.identity()?,
            partition: self.partition()?,
            attempts: self.attempts()?,
            enqueued_at: self.enqueued_at()?,
            age: Duration::ZERO,
            due,
            blocked: self.boolean(Column::Blocked as usize)?,
            content: self.content()?,
        })
    }

    /// Nothing if the fetch has left the payload out.
    pub(crate) fn payload_len(self) -> Result<Option<usize>> {
        Ok(self.bytes(Column::Payload as usize)?.map(<[u8]>::len))
    }
}

/// Sets the ages of rows that were fetched at `now`.
pub(crate) fn aged(rows: &mut [Fetched], now: Timestamp) {
    for row in rows {
        row.age = now.since(row.enqueued_at);
    }
}

fn unexpected(column: usize) -> Error {
    Error::new(ErrorKind::Schema, "a column is not what this library expects; run migrate")
        .with("column", column)
}

/// What a fetch leaves out of the columns of JSON, which cannot be NULL.
const EMPTY: Cell<'static> = Cell::Text(b"{}");

/// The text of a jsonb value, which comes behind a byte with its version.
fn json(value: &[u8]) -> Cell<'_> {
    value.split_first().map_or(Cell::Null, |(_, json)| Cell::Text(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_version_byte_is_no_panic() {
        assert_eq!(json(b""), Cell::Null);
        assert_eq!(json(b"\x01{}"), Cell::Text(b"{}"));
    }
}
