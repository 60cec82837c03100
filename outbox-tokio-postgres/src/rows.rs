//! The parameters of the statements.

use std::borrow::Cow;

use outbox_core::{Message, Result};
use outbox_sql::postgres::check_size;
use outbox_sql::values::Values;
use tokio_postgres::types::{ToSql, Type};

use crate::values::{Id, Json, Time};

/// How many parameters each statement has.
const COUNT: usize = 8;

type Param<'p> = &'p (dyn ToSql + Sync);

/// One message.
pub(crate) struct Row<'m> {
    id: Id,
    topic: &'m str,
    key: Option<&'m str>,
    payload: &'m [u8],
    content_type: Option<&'m str>,
    headers: Json,
    options: Json,
    available_at: Option<Time>,
}

impl<'m> Row<'m> {
    pub(crate) fn of(message: &'m Message) -> Result<Self> {
        let values = Values::of(message)?;
        check_size(std::slice::from_ref(&values))?;
        Ok(Self::from(values))
    }

    pub(crate) fn params(&self) -> [Param<'_>; COUNT] {
        [
            &self.id,
            &self.topic,
            &self.key,
            &self.payload,
            &self.content_type,
            &self.headers,
            &self.options,
            &self.available_at,
        ]
    }

    pub(crate) fn typed(&self) -> [(Param<'_>, Type); COUNT] {
        let [id, topic, key, payload, content_type, headers, options, available_at] = self.params();
        [
            (id, Type::UUID),
            (topic, Type::TEXT),
            (key, Type::TEXT),
            (payload, Type::BYTEA),
            (content_type, Type::TEXT),
            (headers, Type::JSONB),
            (options, Type::JSONB),
            (available_at, Type::TIMESTAMPTZ),
        ]
    }
}

impl<'m> From<Values<'m>> for Row<'m> {
    fn from(values: Values<'m>) -> Self {
        Self {
            id: Id(values.id),
            topic: values.topic,
            key: values.key,
            payload: values.payload,
            content_type: values.content_type,
            headers: Json(values.headers),
            options: Json(values.options),
            available_at: values.available_at.map(Time),
        }
    }
}

/// Several messages: an array for each column.
pub(crate) struct Batch<'m> {
    ids: Vec<Id>,
    topics: Vec<&'m str>,
    keys: Vec<Option<&'m str>>,
    payloads: Vec<&'m [u8]>,
    content_types: Vec<Option<&'m str>>,
    headers: Vec<Json>,
    options: Vec<Json>,
    times: Vec<Option<Time>>,
}

impl<'m> Batch<'m> {
    pub(crate) fn of(messages: &'m [Cow<'_, Message>]) -> Result<Self> {
        let rows: Vec<Values<'m>> =
            messages.iter().map(|message| Values::of(message)).collect::<Result<_>>()?;
        check_size(&rows)?;
        let count = rows.len();
        let mut batch = Self {
            ids: Vec::with_capacity(count),
            topics: Vec::with_capacity(count),
            keys: Vec::with_capacity(count),
            payloads: Vec::with_capacity(count),
            content_types: Vec::with_capacity(count),
            headers: Vec::with_capacity(count),
            options: Vec::with_capacity(count),
            times: Vec::with_capacity(count),
        };
        for row in rows.into_iter().map(Row::from) {
            batch.ids.push(row.id);
            batch.topics.push(row.topic);
            batch.keys.push(row.key);
            batch.payloads.push(row.payload);
            batch.content_types.push(row.content_type);
            batch.headers.push(row.headers);
            batch.options.push(row.options);
            batch.times.push(row.available_at);
        }
        Ok(batch)
    }

    pub(crate) fn params(&self) -> [Param<'_>; COUNT] {
        [
            &self.ids,
            &self.topics,
            &self.keys,
            &self.payloads,
            &self.content_types,
            &self.headers,
            &self.options,
            &self.times,
        ]
    }

    pub(crate) fn typed(&self) -> [(Param<'_>, Type); COUNT] {
        let [ids, topics, keys, payloads, content_types, headers, options, times] = self.params();
        [
            (ids, Type::UUID_ARRAY),
            (topics, Type::TEXT_ARRAY),
            (keys, Type::TEXT_ARRAY),
            (payloads, Type::BYTEA_ARRAY),
            (content_types, Type::TEXT_ARRAY),
            (headers, Type::JSONB_ARRAY),
            (options, Type::JSONB_ARRAY),
            (times, Type::TIMESTAMPTZ_ARRAY),
        ]
    }
}
