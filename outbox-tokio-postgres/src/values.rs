//! Values in PostgreSQL's binary format.
//!
//! They need no optional feature of the driver, which a service may have turned on for another version of the same type.

use std::borrow::Cow;
use std::error::Error;

use bytes::{BufMut, BytesMut};
use outbox_core::{MessageId, Timestamp};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

type Encoded = Result<IsNull, Box<dyn Error + Sync + Send>>;

/// The difference between the epochs of Unix and PostgreSQL (2000-01-01), in microseconds.
const EPOCH: i64 = 946_684_800_000_000;
/// PostgreSQL's version of the binary format of `jsonb`.
const JSONB_VERSION: u8 = 1;

/// A message id as `uuid`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(pub(crate) MessageId);

impl ToSql for Id {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Encoded {
        out.put_slice(self.0.as_uuid().as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }

    to_sql_checked!();
}

/// A JSON text as `jsonb`.
#[derive(Clone, Debug)]
pub(crate) struct Json(pub(crate) Cow<'static, str>);

impl ToSql for Json {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Encoded {
        out.put_u8(JSONB_VERSION);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    to_sql_checked!();
}

/// A time as `timestamptz`. The server refuses times before 4713 BC, and has all later ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl ToSql for Time {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Encoded {
        // The lowest number means `-infinity`, which the server would take.
        out.put_i64(self.0.as_micros().saturating_sub(EPOCH).max(i64::MIN + 1));
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}
