//! Statements with their values, for both kinds of connections.

use std::borrow::Cow;

use diesel::data_types::PgTimestamp;
use diesel::pg::Pg;
use diesel::query_builder::{QueryFragment, QueryId};
use diesel::sql_query;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Timestamptz};
use outbox_core::{Message, MessageId, Result, Timestamp};
use outbox_sql::postgres::check_size;
use outbox_sql::values::Values;

/// The difference between the epochs of Unix and PostgreSQL (2000-01-01), in microseconds.
const EPOCH: i64 = 946_684_800_000_000;

/// Inserts one message.
pub(crate) fn insert<'m>(
    sql: &str,
    message: &'m Message,
) -> Result<impl QueryFragment<Pg> + QueryId + Send + use<'m>> {
    let row = Values::of(message)?;
    check_size(std::slice::from_ref(&row))?;
    Ok(sql_query(sql)
        .bind::<Text, _>(row.id.to_string())
        .bind::<Text, _>(row.topic)
        .bind::<Nullable<Text>, _>(row.key)
        .bind::<Binary, _>(row.payload)
        .bind::<Nullable<Text>, _>(row.content_type)
        .bind::<Text, _>(row.headers)
        .bind::<Text, _>(row.options)
        .bind::<Nullable<Timestamptz>, _>(row.available_at.map(time)))
}

/// Inserts several messages.
pub(crate) fn insert_batch<'m>(
    sql: &str,
    messages: &'m [Cow<'_, Message>],
) -> Result<impl QueryFragment<Pg> + QueryId + Send + use<'m>> {
    let rows: Vec<Values<'m>> = messages.iter().map(|message| Values::of(message)).collect::<Result<_>>()?;
    check_size(&rows)?;
    let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
    let topics: Vec<&str> = rows.iter().map(|row| row.topic).collect();
    let keys: Vec<Option<&str>> = rows.iter().map(|row| row.key).collect();
    let payloads: Vec<&[u8]> = rows.iter().map(|row| row.payload).collect();
    let content_types: Vec<Option<&str>> = rows.iter().map(|row| row.content_type).collect();
    let times: Vec<Option<PgTimestamp>> = rows.iter().map(|row| row.available_at.map(time)).collect();
    let (headers, options): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.headers, row.options)).unzip();
    Ok(sql_query(sql)
        .bind::<Array<Text>, _>(ids)
        .bind::<Array<Text>, _>(topics)
        .bind::<Array<Nullable<Text>>, _>(keys)
        .bind::<Array<Binary>, _>(payloads)
        .bind::<Array<Nullable<Text>>, _>(content_types)
        .bind::<Array<Text>, _>(headers)
        .bind::<Array<Text>, _>(options)
        .bind::<Array<Nullable<Timestamptz>>, _>(times))
}

/// Records a message for a consumer.
pub(crate) fn accept<'c>(
    sql: &str,
    consumer: &'c str,
    id: MessageId,
) -> impl QueryFragment<Pg> + QueryId + Send + use<'c> {
    sql_query(sql).bind::<Text, _>(consumer).bind::<Text, _>(id.to_string())
}

/// Deletes entries of an inbox.
pub(crate) fn purge(sql: &str, micros: i64, limit: i64) -> impl QueryFragment<Pg> + QueryId + Send + use<> {
    sql_query(sql).bind::<BigInt, _>(micros).bind::<BigInt, _>(limit)
}

/// A time in the units of PostgreSQL, which refuses times before 4713 BC.
fn time(time: Timestamp) -> PgTimestamp {
    // The lowest number means `-infinity`, which the server would take.
    PgTimestamp(time.as_micros().saturating_sub(EPOCH).max(i64::MIN + 1))
}
