//! Rows to settle, as parallel arrays.

use outbox_sql::settle::Target;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{Decode, Encode, Postgres, Type};
use uuid::Uuid;

/// A time as PostgreSQL stores it. Not every time that it stores is one that the driver's own type can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredTime(pub(crate) i64);

impl Type<Postgres> for StoredTime {
    fn type_info() -> PgTypeInfo {
        <DateTime<Utc> as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for StoredTime {
    fn array_type_info() -> PgTypeInfo {
        <DateTime<Utc> as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for StoredTime {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for StoredTime {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(i64::from_be_bytes(value.as_bytes()?.try_into()?)))
    }
}

/// What tells rows from others that had their positions, in any order.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    pub(crate) ids: Vec<Uuid>,
    pub(crate) times: Vec<StoredTime>,
}

impl Identities {
    pub(crate) fn of(rows: &[Target]) -> Self {
        Self {
            ids: rows.iter().map(|row| Uuid::from_bytes(row.identity.id())).collect(),
            times: rows.iter().map(|row| StoredTime(row.identity.time())).collect(),
        }
    }
}

/// Rows, and what tells each of them from others.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) partitions: Vec<i16>,
    pub(crate) positions: Vec<i64>,
    pub(crate) identities: Identities,
}

impl Rows {
    pub(crate) fn of(rows: &[Target]) -> Self {
        Self {
            // There are no partitions beyond those that the column takes. No row is in this one.
            partitions: rows.iter().map(|row| i16::try_from(row.place.partition.0).unwrap_or(-1)).collect(),
            positions: rows.iter().map(Target::position).collect(),
            identities: Identities::of(rows),
        }
    }
}
