//! Settling, and the blocking of keys that goes with it.
//!
//! A row waits for its turn where `available_at` is infinity and `blocks_key` is set. Whatever is written here keeps
//! two things true of the rows of a key that block: the later one is never due before the earlier one, and behind
//! one that retries or is dead all of them wait.

use outbox_sql::postgres::Names;

use super::{
    blocked_by_earlier, first_blocking, hash, in_order_of_key, never_generic, never_generic_condition,
    same_key,
};

/// How many of the first rows of a key may be due at a time after a release. It bounds the work of one settle call;
/// each of them that is delivered makes room for another one.
const RELEASED: usize = 256;

/// What the tables of messages, dead letters and delivered messages have in common.
pub(super) const COMMON: &str = "position, message_id, topic, key, payload, content_type, headers, options, partition, \
                                 attempts, enqueued_at";

/// Rows that were fetched.
const FETCHED: &str = "unnest($1::smallint[], $2::bigint[], $3::uuid[], $4::timestamptz[]) AS s (partition, position, id, time)";

/// The same rows of `m` as in `s`, which one statement has read.
const SAME_ROW: &str = "m.partition = s.partition AND m.position = s.position";

/// The same rows of `m` as in `s`, which were fetched some time ago: another message may be at the position by now.
fn fetched_row(row: &str) -> String {
    format!(
        "{row}.partition = s.partition AND {row}.position = s.position
        AND {row}.message_id = s.id AND {row}.enqueued_at = s.time"
    )
}

/// `$1` to `$4`: partitions, the first and the last positions of runs, and a bit for each position in between; `$5`, `$6`: message ids and
/// times of enqueueing; `$7`: false. Deletes those rows of them for which nothing waits: in quiet times all.
///
/// A row is deleted only if its id and its time are among those given: then that message has been delivered, wherever it is. PostgreSQL
/// looks them up in tables of hashes. To ask for the pair that belongs to the position would take a join for each row.
///
/// Of a plain `NOT blocks_key` the planner knows how many rows meet it. If few do, it goes through them all once for each run.
///
/// The bit is looked up behind a `CASE` because PostgreSQL may ask in any order, and there is none outside of the run.
pub(super) fn deliver_free(names: &Names) -> String {
    format!(
        "DELETE FROM {} m
USING unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bytea[]) AS s (partition, first, last, taken)
WHERE m.partition = s.partition AND m.position BETWEEN s.first AND s.last
    AND CASE WHEN m.position BETWEEN s.first AND s.last
        THEN get_bit(s.taken, (m.position - s.first)::integer) = 1
            AND m.message_id = ANY($5::uuid[]) AND m.enqueued_at = ANY($6::timestamptz[]) ELSE false END
    AND m.blocks_key::integer <> 1 AND {}",
        names.message,
        never_generic_condition("$7"),
    )
}

/// `$1` to `$4`: partitions, positions, message ids, times of enqueueing; `$5`: false. Deletes, and releases what waited for the deleted rows.
pub(super) fn deliver(names: &Names, keep: bool) -> String {
    let Names { message, delivered, .. } = names;
    let (returning, kept) = if keep {
        (
            "m.*",
            format!(
                ",
kept AS (INSERT INTO {delivered} ({COMMON}) SELECT {COMMON} FROM gone)"
            ),
        )
    } else {
        ("m.position, m.partition, m.key, m.blocks_key", String::new())
    };
    format!(
        "WITH gone AS (
    DELETE FROM {message} m USING {FETCHED}
    WHERE {same_row}
    RETURNING {returning}
){kept},
released AS ({released})
SELECT 1 {never}",
        released = release_keys(
            names,
            // Put like this, the planner expects next to nothing of it, which is right. Of a boolean column it
            // expects half, and would compile the statement to machine code for the sake of what hardly ever happens.
            "(SELECT DISTINCT partition, key FROM gone WHERE blocks_key::integer = 1)",
            "AND b.position NOT IN (SELECT position FROM gone)"
        ),
        same_row = fetched_row("m"),
        never = never_generic("$5"),
    )
}

/// `$1` to `$4`: partitions, positions, message ids, times of enqueueing; `$5`: false. Locks those of these rows that no other session has locked. Returns the
/// rows that are there, and whether this transaction has locked them.
pub(super) fn lock_rows(names: &Names) -> String {
    let message = &names.message;
    format!(
        "WITH ours AS (
    SELECT m.position FROM {FETCHED}
    JOIN {message} m ON {same_row}
    FOR UPDATE OF m SKIP LOCKED
)
SELECT m.partition, m.position, m.position IN (SELECT position FROM ours)
FROM {FETCHED}
JOIN {message} m ON {same_row}
UNION ALL
SELECT NULL, NULL, NULL {never}",
        same_row = fetched_row("m"),
        never = never_generic("$5")
    )
}

/// `$1`: the relay; `$2`: partitions. Those that it owns.
pub(super) fn read_leases(names: &Names) -> String {
    format!(
        "SELECT partition FROM {} WHERE owner = $1 AND partition = ANY($2) ORDER BY partition",
        names.lease
    )
}

/// The same; no other relay can take them before the transaction ends.
pub(super) fn lock_leases(names: &Names) -> String {
    read_leases(names) + " FOR SHARE"
}

/// `$1` to `$8`: partitions, positions, microseconds until the next attempt, attempts, errors, whether to block, message ids, times of
/// enqueueing; `$9`: false. Returns the key, whether the row blocks now, and whether it did.
pub(super) fn retry(names: &Names) -> String {
    let message = &names.message;
    format!(
        "UPDATE {message} m SET
    attempts = s.attempts,
    last_error = s.error,
    blocks_key = s.block AND m.key IS NOT NULL,
    available_at = CASE
        WHEN s.block AND m.key IS NOT NULL AND {blocked} THEN 'infinity'
        ELSE now() + s.after * interval '1 microsecond' END
FROM (
    SELECT s.*, o.blocks_key AS did_block
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::integer[], $5::text[], $6::boolean[], $7::uuid[], $8::timestamptz[])
        AS s (partition, position, after, attempts, error, block, id, time)
    JOIN {message} o ON {old_row}
) s
WHERE {same_row} AND {fresh}
RETURNING m.partition, m.position, m.key, m.blocks_key, s.did_block",
        blocked = blocked_by_earlier(names, "m"),
        old_row = fetched_row("o"),
        same_row = fetched_row("m"),
        fresh = never_generic_condition("$9"),
    )
}

/// `$1` to `$4`: partitions, positions, message ids, times of enqueueing; `$5`: false. What nothing blocks any more is due at once, and goes on blocking, so that
/// the ready rows behind it stay behind it. Returns the key, behind whose row nothing may be due, true and false.
pub(super) fn hold(names: &Names) -> String {
    let message = &names.message;
    format!(
        "UPDATE {message} m SET
    blocks_key = m.key IS NOT NULL,
    available_at = CASE WHEN m.key IS NOT NULL AND {blocked} THEN 'infinity' ELSE now() END
FROM {FETCHED}
WHERE {same_row} AND {fresh}
RETURNING m.partition, m.position, m.key, true, false",
        blocked = blocked_by_earlier(names, "m"),
        same_row = fetched_row("m"),
        fresh = never_generic_condition("$5"),
    )
}

/// `$1` to `$7`: partitions, positions, attempts, errors, whether to block, message ids, times of enqueueing; `$8`: false. Moves the
/// rows as they are, readable or not. Returns as [`retry`] does.
pub(super) fn bury(names: &Names) -> String {
    let Names { message, dead_letter, .. } = names;
    format!(
        "WITH gone AS (
    DELETE FROM {message} m
    USING unnest($1::smallint[], $2::bigint[], $3::integer[], $4::text[], $5::boolean[], $6::uuid[], $7::timestamptz[])
        AS s (partition, position, new_attempts, error, block, id, time)
    WHERE {same_row} AND {fresh}
    RETURNING m.*, s.new_attempts, s.error, s.block AND m.key IS NOT NULL AS blocks_on
),
buried AS (
    INSERT INTO {dead_letter} ({COMMON}, blocks_key, last_error)
    SELECT {common}, blocks_on, error FROM gone
)
SELECT partition, position, key, blocks_on, blocks_key FROM gone",
        common = COMMON.replace("attempts", "new_attempts"),
        same_row = fetched_row("m"),
        fresh = never_generic_condition("$8"),
    )
}

/// `$1` to `$3`: partitions, keys, positions; `$4`: false. Whatever of these keys was due behind these positions waits again.
///
/// A key may have many more rows that wait than rows that are due, so the order is that of the index of those that are due.
pub(super) fn hold_later(names: &Names) -> String {
    format!(
        "UPDATE {message} m SET available_at = 'infinity'
FROM (
    SELECT d.partition, d.position
    FROM (
        SELECT partition, key, min(position) AS position
        FROM unnest($1::smallint[], $2::text[], $3::bigint[]) AS s (partition, key, position)
        GROUP BY partition, key
    ) k
    CROSS JOIN LATERAL (
        SELECT d.partition, d.position FROM {message} d
        WHERE {same_key} AND d.blocks_key AND d.available_at < 'infinity' AND d.position > k.position
        ORDER BY {hash}, d.available_at OFFSET 0
    ) d
) s
WHERE {SAME_ROW} AND {fresh}",
        message = names.message,
        same_key = same_key("d", "k"),
        hash = hash("d"),
        fresh = never_generic_condition("$4"),
    )
}

/// `$1`, `$2`: partitions and keys; `$3`: false.
pub(super) fn release(names: &Names) -> String {
    let release = release_keys(
        names,
        "(SELECT DISTINCT partition, key FROM unnest($1::smallint[], $2::text[]) AS s (partition, key))",
        "",
    );
    format!("{release}\n    AND {}", never_generic_condition("$3"))
}

/// Makes the first waiting rows of some keys due, unless they are behind something that retries or is dead.
fn release_keys(names: &Names, keys: &str, except: &str) -> String {
    let Names { message, dead_letter, .. } = names;
    format!(
        "UPDATE {message} m SET available_at = now()
FROM {keys} k
CROSS JOIN LATERAL (
    SELECT b.partition, b.position, b.available_at, bool_or(b.available_at > now() AND b.available_at < 'infinity')
        OVER (ORDER BY b.position) AS behind_retry
    FROM (
        SELECT b.partition, b.position, b.available_at FROM {message} b
        WHERE {same_key} AND b.blocks_key {except}
        ORDER BY {order} LIMIT {RELEASED}
    ) b
) s
WHERE {SAME_ROW} AND s.available_at = 'infinity' AND NOT s.behind_retry
    AND coalesce({dead} > s.position, true)",
        same_key = same_key("b", "k"),
        order = in_order_of_key("b"),
        dead = first_blocking(dead_letter, "k"),
    )
}

/// `$1`: the relay; `$2`: partitions; `$3`: most rows; `$4`: from which hash on in each partition; `$5`: most keys of each;
/// `$6`: false. Releases rows that wait for nothing: the first blocking row of their key waits itself. Returns for each partition in which a key
/// is blocked how many of them were read and the last hash; and how many rows were released in all.
///
/// It steps from one blocked key to the next by the index, so it costs nothing where no key is blocked, and does not
/// read through all rows that wait behind one message.
pub(super) fn repair(names: &Names) -> String {
    let Names { message, dead_letter, lease, .. } = names;
    let first = "b.partition, hashtextextended(b.key, 0) AS hash, b.key, b.position, b.available_at";
    let order = in_order_of_key("b");
    format!(
        "WITH RECURSIVE own AS (
    SELECT l.partition, s.hash FROM {lease} l
    JOIN unnest($2::smallint[], $4::bigint[]) AS s (partition, hash) ON l.partition = s.partition
    WHERE l.owner = $1
),
front AS (
    SELECT 1::bigint AS number, b.* FROM own CROSS JOIN LATERAL (
        SELECT {first} FROM {message} b
        WHERE b.partition = own.partition AND b.blocks_key AND hashtextextended(b.key, 0) >= own.hash
        ORDER BY {order} LIMIT 1
    ) b
    UNION ALL
    SELECT front.number + 1, b.* FROM front CROSS JOIN LATERAL (
        SELECT {first} FROM {message} b
        WHERE b.partition = front.partition AND b.blocks_key AND hashtextextended(b.key, 0) > front.hash
        ORDER BY {order} LIMIT 1
    ) b
    WHERE front.number < $5
),
stuck AS (
    SELECT partition, hash, key FROM front f
    WHERE available_at = 'infinity' AND coalesce({dead_before} > f.position, true)
),
released AS (
    UPDATE {message} m SET available_at = now()
    FROM (
        SELECT s.* FROM stuck k CROSS JOIN LATERAL (
            SELECT b.partition, b.position, b.available_at, bool_or(b.available_at < 'infinity')
                OVER (ORDER BY b.position) AS behind_other
            FROM (
                SELECT b.partition, b.position, b.available_at FROM {message} b
                WHERE {same_key} AND b.blocks_key
                ORDER BY {order} LIMIT {RELEASED}
            ) b
        ) s
        WHERE NOT s.behind_other AND coalesce({dead} > s.position, true)
        ORDER BY s.position LIMIT $3
    ) s
    WHERE {SAME_ROW} AND m.available_at = 'infinity' AND {fresh}
    RETURNING m.position
)
SELECT partition, max(number), max(hash), (SELECT count(*) FROM released) FROM front GROUP BY partition",
        fresh = never_generic_condition("$6"),
        dead_before = first_blocking(dead_letter, "f"),
        dead = first_blocking(dead_letter, "k"),
        same_key = same_key("b", "k"),
    )
}
