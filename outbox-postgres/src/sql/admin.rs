//! Counting, purging, and looking after dead letters.

use outbox_sql::postgres::Names;

use super::never_generic_condition;
use super::settling::COMMON;

/// `$1`: age in microseconds; `$2`: most rows; `$3`: false.
pub(super) fn purge(names: &Names) -> String {
    let delivered = &names.delivered;
    format!(
        "DELETE FROM {delivered} m
USING (
    SELECT delivered_at, position FROM {delivered}
    WHERE delivered_at <= now() - $1 * interval '1 microsecond'
    ORDER BY delivered_at, position LIMIT $2
) s
WHERE m.delivered_at = s.delivered_at AND m.position = s.position AND {}",
        never_generic_condition("$3")
    )
}

/// `$1`: how far to count; `$2`: how many rows of each partition to look at for the oldest one; `$3`: partitions.
///
/// A row that is scheduled and whose time has not come is not late, however long ago it was enqueued.
pub(super) fn stats(names: &Names) -> String {
    let Names { message, dead_letter, .. } = names;
    format!(
        "SELECT
    (SELECT count(*) FROM (SELECT FROM {message} LIMIT $1) counted),
    (SELECT count(*) FROM (SELECT FROM {dead_letter} LIMIT $1) counted),
    now(),
    (SELECT oldest.enqueued_at
        FROM generate_series(0, $3 - 1) AS own (partition)
        CROSS JOIN LATERAL (
            SELECT m.position, m.enqueued_at
            FROM (
                SELECT m.* FROM {message} m WHERE m.partition = own.partition ORDER BY m.position LIMIT $2
            ) m
            WHERE m.available_at IS NULL OR m.available_at <= now() OR m.blocks_key OR m.attempts > 0
            ORDER BY m.position LIMIT 1
        ) oldest
        ORDER BY oldest.position LIMIT 1)"
    )
}

/// `$1` to `$6`: positions, id, topic, key, part of the error, age in microseconds; each may be `NULL`.
const FILTER: &str = "($1::bigint[] IS NULL OR d.position = ANY($1))
    AND ($2::uuid IS NULL OR d.message_id = $2)
    AND ($3::text IS NULL OR d.topic = $3)
    AND ($4::text IS NULL OR d.key = $4)
    AND ($5::text IS NULL OR position($5 IN d.last_error) > 0)
    AND ($6::bigint IS NULL OR d.died_at <= now() - $6 * interval '1 microsecond')";

/// `$7`: after which position; `$8`: most rows, except that all of the last position come. The first columns are those of
/// [`Column`](super::Column).
pub(super) fn list_dead(names: &Names) -> String {
    format!(
        "SELECT d.position, d.partition, d.attempts, d.enqueued_at, d.message_id, d.topic, d.key, d.payload,
    d.content_type, d.headers, d.options, NULL::timestamptz, d.blocks_key, d.died_at, d.last_error
FROM (
    SELECT d.* FROM {} d
    WHERE {FILTER}
        AND ($7::bigint IS NULL OR d.position > $7)
    ORDER BY d.position FETCH FIRST $8 ROWS WITH TIES
) d
ORDER BY d.position, d.enqueued_at, d.number",
        names.dead_letter
    )
}

/// `$7`: how far to count.
pub(super) fn count_dead(names: &Names) -> String {
    format!("SELECT count(*) FROM (SELECT FROM {} d WHERE {FILTER} LIMIT $7) counted", names.dead_letter)
}

/// Takes the first `$7` matching dead letters away.
fn take_dead(names: &Names) -> String {
    let dead_letter = &names.dead_letter;
    format!(
        "WITH picked AS (
    SELECT d.number FROM {dead_letter} d
    WHERE {FILTER}
    ORDER BY d.position, d.enqueued_at, d.number LIMIT $7 FOR UPDATE
),
gone AS (
    DELETE FROM {dead_letter} d USING picked p WHERE d.number = p.number RETURNING d.*
)"
    )
}

/// Puts dead letters back where they were. If a position is taken by another message, or is yet to be assigned, since the database has
/// lost its latest commits, they come before everything else of their partition: whatever has been enqueued since then is later.
pub(super) fn redrive(names: &Names) -> String {
    format!(
        "{taken},
assigned AS (
    SELECT CASE WHEN has_sequence_privilege(s.name, 'USAGE, SELECT')
        THEN coalesce(pg_sequence_last_value(s.name::regclass), 0) END AS last
    FROM (SELECT pg_get_serial_sequence({message_literal}, 'position') AS name) s
),
placed AS (
    SELECT g.*, CASE
        WHEN row_number() OVER (PARTITION BY g.partition, g.position ORDER BY g.enqueued_at DESC, g.number DESC) = 1
            AND coalesce(g.position <= (SELECT last FROM assigned), true)
            AND NOT EXISTS (SELECT FROM {message} m WHERE m.partition = g.partition AND m.position = g.position)
        THEN g.position
        ELSE (SELECT least(min(m.position), 0) FROM {message} m WHERE m.partition = g.partition)
            - row_number() OVER (PARTITION BY g.partition ORDER BY g.position DESC, g.enqueued_at DESC, g.number DESC)
        END AS place
    FROM gone g
),
back AS (
    INSERT INTO {message} ({columns}, blocks_key, available_at)
    OVERRIDING SYSTEM VALUE
    SELECT {values}, blocks_key, now() FROM placed
)
SELECT partition, place, key, blocks_key, message_id, enqueued_at FROM placed",
        taken = take_dead(names),
        message_literal = names.message_literal,
        message = names.message,
        // The database computes the partition anew, from the same columns.
        columns = COMMON.replace("partition, ", ""),
        values = COMMON.replace("position", "place").replace("partition, ", "").replace("attempts", "0"),
    )
}

pub(super) fn discard(names: &Names) -> String {
    format!(
        "{}\nSELECT partition, position, key, blocks_key, message_id, enqueued_at FROM gone",
        take_dead(names)
    )
}
