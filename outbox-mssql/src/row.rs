//! From rows to messages, without trusting what others wrote.

use std::time::Duration;

use chrono::NaiveDateTime;
use outbox_core::{Content, Error, ErrorKind, Fetched, Identity, Partition, Position, Result, Timestamp};
use outbox_sql::row::{Cell, RawMessage, attempts};
use tiberius::{ColumnData, Row};
use uuid::Uuid;

use crate::error::map_error;
use crate::sql::Column;

/// Reads columns by their position.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'r>(pub(crate) &'r Row);

impl<'r> Columns<'r> {
    fn data(self, column: usize) -> Result<&'r ColumnData<'static>> {
        self.0.get_column_data(column).map_err(map_error)
    }

    /// A number of whatever width.
    pub(crate) fn number(self, column: usize) -> Result<Option<i64>> {
        match self.data(column)? {
            ColumnData::Bit(value) => Ok(value.map(i64::from)),
            ColumnData::U8(value) => Ok(value.map(i64::from)),
            ColumnData::I16(value) => Ok(value.map(i64::from)),
            ColumnData::I32(value) => Ok(value.map(i64::from)),
            ColumnData::I64(value) => Ok(*value),
            _ => Err(unexpected(column)),
        }
    }

    pub(crate) fn required(self, column: usize) -> Result<i64> {
        self.number(column)?.ok_or_else(|| unexpected(column))
    }

    pub(crate) fn count(self, column: usize) -> Result<usize> {
        Ok(usize::try_from(self.number(column)?.unwrap_or(0)).unwrap_or(0))
    }

    pub(crate) fn boolean(self, column: usize) -> Result<bool> {
        Ok(self.number(column)?.is_some_and(|number| number != 0))
    }

    pub(crate) fn partition(self, column: usize) -> Result<Partition> {
        u16::try_from(self.required(column)?).map(Partition).map_err(|_| unexpected(column))
    }

    /// A time in UTC.
    pub(crate) fn timestamp(self, column: usize) -> Result<Option<Timestamp>> {
        let time: Option<NaiveDateTime> = self.0.try_get(column).map_err(map_error)?;
        Ok(time.map(|time| Timestamp::from(time.and_utc())))
    }

    pub(crate) fn uuid(self, column: usize) -> Result<Option<Uuid>> {
        self.0.try_get(column).map_err(map_error)
    }

    pub(crate) fn text(self, column: usize) -> Result<Option<&'r str>> {
        self.0.try_get(column).map_err(map_error)
    }

    pub(crate) fn bytes(self, column: usize) -> Result<Option<&'r [u8]>> {
        self.0.try_get(column).map_err(map_error)
    }

    /// The message whose parts begin at a column, or what is wrong with it.
    pub(crate) fn content(self, first: usize, deliver_at: Option<Timestamp>) -> Result<Content> {
        let text = |column: usize| Ok::<_, Error>(Cell::text(self.text(first + column)?));
        let id = self.uuid(first)?;
        let raw = RawMessage {
            message_id: Cell::blob(id.as_ref().map(Uuid::as_bytes)),
            topic: text(1)?,
            key: text(2)?,
            payload: Cell::blob(self.bytes(first + 3)?),
            content_type: text(4)?,
            headers: text(5)?,
            options: text(6)?,
        };
        Ok(raw.content(deliver_at))
    }

    /// The id and the time of enqueueing in these columns.
    pub(crate) fn identity(self, message_id: usize, enqueued_at: usize) -> Result<Identity> {
        let id = self.uuid(message_id)?.ok_or_else(|| unexpected(message_id))?;
        let time = self.timestamp(enqueued_at)?.ok_or_else(|| unexpected(enqueued_at))?;
        Ok(Identity::new(id.into_bytes(), time.as_micros()))
    }

    /// A fetched row. `now` is the present by the database's clock.
    pub(crate) fn fetched(self, now: Timestamp) -> Result<Fetched> {
        let attempts = attempts(self.required(Column::Attempts as usize)?);
        let available_at = self.timestamp(Column::AvailableAt as usize)?;
        let blocks = self.boolean(Column::BlocksKey as usize)?;
        let enqueued_at = Column::EnqueuedAt as usize;
        let enqueued_at = self.timestamp(enqueued_at)?.ok_or_else(|| unexpected(enqueued_at))?;
        // Known until the first attempt; from then on the time is that of the next one.
        let deliver_at = available_at.filter(|_| attempts == 0 && !blocks);
        Ok(Fetched {
            position: Position(self.required(Column::Position as usize)?),
            identity: self.identity(Column::MessageId as usize, Column::EnqueuedAt as usize)?,
            partition: self.partition(Column::Partition as usize)?,
            attempts,
            enqueued_at,
            // Since the fetch began, or a moment later.
            age: now.since(enqueued_at).max(Duration::ZERO),
            due: available_at.is_some(),
            blocked: !blocks && self.boolean(Column::Blocked as usize)?,
            content: self.content(Column::MessageId as usize, deliver_at)?,
        })
    }
}

pub(crate) fn unexpected(column: usize) -> Error {
    Error::new(ErrorKind::Schema, "a column is not what this library expects; run migrate")
        .with("column", column)
}
