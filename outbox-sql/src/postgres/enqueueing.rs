//! The statements of a service that enqueues.

use super::Names;

/// The columns of a message that the service sets, in the order of the parameters.
const COLUMNS: &str = "message_id, topic, key, payload, content_type, headers, options, available_at";

/// Inserts one message. One parameter for each column.
///
/// The casts cost nothing where a driver binds the types of the columns. Other drivers bind text for `uuid` and `jsonb`.
pub fn insert(names: &Names) -> String {
    let message = &names.message;
    format!(
        "INSERT INTO {message} ({COLUMNS})\nVALUES ($1::uuid, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8::timestamptz)"
    )
}

/// Inserts several messages. One parameter for each column, an array of the values of all messages.
///
/// Positions are drawn after the sort, so they follow the order of the arrays.
pub fn insert_batch(names: &Names) -> String {
    let message = &names.message;
    format!(
        "INSERT INTO {message} ({COLUMNS})
SELECT {COLUMNS}
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::jsonb[], $7::jsonb[],
            $8::timestamptz[])
    WITH ORDINALITY AS new ({COLUMNS}, number)
ORDER BY number"
    )
}
