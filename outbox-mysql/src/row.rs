//! From rows to messages, without trusting what others wrote.

use outbox_core::{Content, Error, ErrorKind, Fetched, Identity, Partition, Position, Result, Timestamp};
use outbox_sql::row::{Cell, RawMessage, attempts, identity};
use sqlx::Row as _;
use sqlx::mysql::MySqlRow;

use crate::error::map_error;
use crate::sql::{Column, NO_TIME};

/// Reads columns by their position.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'r>(pub(crate) &'r MySqlRow);

impl<'r> Columns<'r> {
    /// Whatever type the column has. The driver would refuse some of what is stored.
    fn bytes(self, column: usize) -> Result<Option<&'r [u8]>> {
        self.0.try_get_unchecked(column).map_err(map_error)
    }

    pub(crate) fn bigint(self, column: usize) -> Result<Option<i64>> {
        self.0.try_get_unchecked(column).map_err(map_error)
    }

    pub(crate) fn required(self, column: usize) -> Result<i64> {
        self.bigint(column)?.ok_or_else(|| unexpected(column))
    }

    pub(crate) fn boolean(self, column: usize) -> Result<bool> {
        Ok(self.bigint(column)?.is_some_and(|number| number != 0))
    }

    /// A time in microseconds. Times that are none, such as `0000-00-00`, are `NULL`.
    pub(crate) fn timestamp(self, column: usize) -> Result<Option<Timestamp>> {
        Ok(self.bigint(column)?.map(Timestamp::from_micros))
    }

    /// A text that only the database itself writes.
    pub(crate) fn own_text(self, column: usize) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(column)? else { return Ok(None) };
        String::from_utf8(bytes.to_vec()).map(Some).map_err(|source| unexpected(column).with_source(source))
    }

    pub(crate) fn lossy_text(self, column: usize) -> Result<Option<String>> {
        Ok(self.bytes(column)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    }

    pub(crate) fn partition(self, column: usize) -> Result<Partition> {
        let number = u16::try_from(self.required(column)?).map_err(|_| unexpected(column))?;
        Ok(Partition(number))
    }

    /// The message whose parts begin at a column, or what is wrong with it.
    pub(crate) fn content(self, first: usize, deliver_at: Option<Timestamp>) -> Result<Content> {
        let text = |column: usize| Ok::<_, Error>(Cell::text(self.bytes(first + column)?));
        let raw = RawMessage {
            message_id: Cell::blob(self.bytes(first)?),
            topic: text(1)?,
            key: text(2)?,
            payload: Cell::blob(self.bytes(first + 3)?),
            content_type: text(4)?,
            headers: text(5)?,
            options: text(6)?,
        };
        Ok(raw.content(deliver_at))
    }

    /// The id as it is stored, and the time of enqueueing in microseconds; one that is no time stands for the lowest number.
    pub(crate) fn identity(self, message_id: usize, enqueued_at: usize) -> Result<Identity> {
        let time = self.bigint(enqueued_at)?.unwrap_or(NO_TIME);
        Ok(identity(Cell::blob(self.bytes(message_id)?), time))
    }

    pub(crate) fn fetched(self, due: bool) -> Result<Fetched> {
        let now = self.timestamp(Column::Now as usize)?.ok_or_else(|| unexpected(Column::Now as usize))?;
        let enqueued_at = self.timestamp(Column::EnqueuedAt as usize)?.unwrap_or(now);
        let deliver_at = self.timestamp(Column::DeliverAt as usize)?;
        Ok(Fetched {
            position: Position(self.required(Column::Position as usize)?),
            identity: self.identity(Column::MessageId as usize, Column::EnqueuedAt as usize)?,
            partition: self.partition(Column::Partition as usize)?,
            attempts: attempts(self.required(Column::Attempts as usize)?),
            enqueued_at,
            age: now.since(enqueued_at),
            due,
            blocked: self.boolean(Column::Blocked as usize)?,
            content: self.content(Column::MessageId as usize, deliver_at)?,
        })
    }
}

fn unexpected(column: usize) -> Error {
    Error::new(ErrorKind::Schema, "a column is not what this library expects; run migrate")
        .with("column", column)
}
