//! Fetching.

use outbox_sql::postgres::Names;

use super::{Planning, blocked_by_earlier, never_generic};

/// The columns of what a fetch returns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Position,
    Partition,
    Attempts,
    EnqueuedAt,
    MessageId,
    Topic,
    Key,
    Payload,
    ContentType,
    Headers,
    Options,
    /// When it was to be delivered, of a scheduled message that has not been tried. Of a row that [`fetch`] passes, its due time.
    DeliverAt,
    Blocked,
}

/// What the last row, which is about the fetch and has no position, says in columns of the same types. Columns of their own
/// would be in every row.
impl Column {
    pub(crate) const FETCHED_AT: Self = Self::EnqueuedAt;
    pub(crate) const NEXT_DUE: Self = Self::DeliverAt;
    pub(crate) const SNAPSHOT: Self = Self::Topic;
    pub(crate) const FENCE: Self = Self::Key;
}

/// The first of them.
const COLUMNS: &str = "position, partition, attempts, enqueued_at, message_id, topic, key, payload, content_type, \
                       headers, options";

/// The same, as they are read from the table. Hardly any message has headers and options, and an empty object costs both the
/// database and us more than nothing does.
const STORED: &str = "position, partition, attempts, enqueued_at, message_id, topic, key, payload, content_type, \
                      nullif(headers, '{}') AS headers, nullif(options, '{}') AS options";

/// A row of nothing. Its types come from the other rows.
const NO_ROW: &str = "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL";

/// The row about the fetch.
fn about(snapshot: &str, fence: &str, next_due: &str) -> String {
    format!("NULL, NULL, NULL, now(), NULL, {snapshot}, {fence}, NULL, NULL, NULL, NULL, {next_due}, NULL")
}

/// How many bytes of payload there are up to each row, in the order given. By rows, as no two are equal in it.
fn bytes_so_far(row: &str, order: &str) -> String {
    format!(
        "sum(octet_length({row}.payload)) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS bytes_so_far"
    )
}

/// Whether a row is ready, in a form that the planner sees nothing in and takes for true of half of the rows. In the
/// plain form it takes it for true of one row in two hundred while there are no statistics, and then reads and sorts
/// whole partitions instead of reading the first rows of an index.
const READY: &str = "coalesce(m.available_at IS NULL, false)";

/// How a fetch keeps within its limit of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payloads {
    /// By leaving out every payload above a limit, so that so many rows cannot have more.
    Small,
    /// By adding up the bytes from row to row, which costs a third more for a thousand small ones.
    Large,
}

/// Rows past the cursor of each partition, ready rows that have appeared not far below it, and a last row about the fetch.
///
/// Rows that are not ready are passed: they come with their due time instead of their contents, and the cursor moves over them
/// as well. A row that has a due time never becomes ready, so nothing is missed, and a million scheduled rows are walked over once
/// and not with each fetch.
///
/// `$1` to `$4`: partitions, their cursors, most rows, and most bytes, of one payload or in all; `$5`: all own partitions; `$6`: positions in
/// flight; `$7`: false; `$8`: most rows in all; `$9`: from where on to look below each cursor; `$10`: the snapshot of the
/// fetch before, in which those rows were not visible yet, or NULL if there was none.
///
/// The last limit never cuts anything off. It tells the planner how little is going to be read: it cannot know the
/// limits inside, takes a tenth of each partition for granted, and would compile the statement to machine code.
/// Likewise, of a condition put this way around it expects that most rows meet it.
///
/// If there are rows, the one about the fetch carries the id of this transaction. It was given out after the snapshot was taken,
/// so no transaction with a higher id had drawn a position by then. Fetches that find nothing use up no ids.
pub(super) fn fetch(names: &Names, planning: Planning, payloads: Payloads) -> String {
    let message = &names.message;
    let past = "m.partition = scan.own AND m.position > scan.cursor";
    // Its own transaction sees what is visible now. The snapshots are read once, and only if there is a row to be asked about. A
    // row that is visible and whose transaction this server has not given out yet came from another one, by a restored dump, say.
    // It has not appeared since the fetch before, and would otherwise come with each fetch.
    let ready = format!(
        "m.partition = scan.own AND m.position > scan.low
        AND (m.position > scan.cursor OR ({READY}
            AND NOT pg_visible_in_snapshot(m.xact, (SELECT $10::text::pg_snapshot))
            AND pg_visible_in_snapshot(m.xact, (SELECT pg_current_snapshot()))))"
    );
    let fence = format!(
        "CASE WHEN (
        SELECT true FROM unnest($1::smallint[], $2::bigint[]) AS scan (own, cursor)
        CROSS JOIN LATERAL (SELECT FROM {message} m WHERE {past} ORDER BY m.position LIMIT 1) r
        LIMIT 1
    ) THEN pg_current_xact_id()::text END"
    );
    let next_due = next_due(names, "$5", "w.position NOT IN (SELECT unnest($6::bigint[]))");
    let (columns, rows) = match payloads {
        Payloads::Small => (
            COLUMNS.replace(
                "payload",
                "CASE WHEN r.available_at IS NULL AND octet_length(r.payload) <= scan.bytes THEN r.payload END AS payload",
            ),
            format!(
                "CROSS JOIN LATERAL (
    SELECT {STORED}, available_at FROM {message} m WHERE {ready} ORDER BY m.position LIMIT scan.quota
) r"
            ),
        ),
        Payloads::Large => (
            COLUMNS.to_owned(),
            format!(
                "CROSS JOIN LATERAL (
    SELECT m.*, {bytes_so_far}
    FROM (
        SELECT {stored}, available_at FROM {message} m WHERE {ready} ORDER BY m.position LIMIT scan.quota
    ) m
) r
WHERE (r.bytes_so_far - coalesce(octet_length(r.payload), 0) >= scan.bytes) IS NOT TRUE",
                stored = STORED.replace("payload", "CASE WHEN available_at IS NULL THEN payload END AS payload"),
                bytes_so_far = bytes_so_far("m", "m.position"),
            ),
        ),
    };
    format!(
        "(SELECT {columns}, r.available_at AS deliver_at, r.available_at IS NULL AND {blocked} AS blocked
FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $9::bigint[]) AS scan (own, cursor, quota, bytes, low)
{rows}
LIMIT $8)
UNION ALL
SELECT {about}
UNION ALL
SELECT {NO_ROW} {never}",
        blocked = blocked(names, "r", "$5"),
        about = about("pg_current_snapshot()::text", &fence, &next_due),
        never = planning.never("$7"),
    )
}

/// Rows at or below the cursor of transactions that have ended since the snapshot before.
///
/// `$1` to `$7`: partitions, after which position, up to which, most rows, most bytes, the snapshot in which the rows
/// were not visible yet, and the one in which they are; `$8`: all own partitions; `$9`: false.
pub(super) fn fetch_late(names: &Names, planning: Planning) -> String {
    let message = &names.message;
    format!(
        "SELECT {COLUMNS}, NULL::timestamptz AS deliver_at, {blocked} AS blocked
FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
            $6::text[]::pg_snapshot[], $7::text[]::pg_snapshot[])
    AS scan (own, after, upto, quota, bytes, base, snapshot)
CROSS JOIN LATERAL (
    SELECT m.*, {bytes_so_far}
    FROM (
        SELECT {STORED} FROM {message} m
        WHERE m.partition = scan.own AND m.position > scan.after AND m.position <= scan.upto
            AND {READY}
            AND pg_visible_in_snapshot(m.xact, scan.snapshot) AND NOT pg_visible_in_snapshot(m.xact, scan.base)
        ORDER BY m.position LIMIT scan.quota
    ) m
) r
WHERE (r.bytes_so_far - octet_length(r.payload) >= scan.bytes) IS NOT TRUE
UNION ALL
SELECT {NO_ROW} {never}",
        bytes_so_far = bytes_so_far("m", "m.position"),
        blocked = blocked(names, "r", "$8"),
        never = planning.never("$9"),
    )
}

/// Rows whose time has come, the longest due first, and a last row about the fetch.
///
/// `$1`: own partitions; `$2`: most rows; `$3`: most bytes; `$4`: positions in flight; `$5`: false; `$6`: for each partition, the
/// position up to which its ready rows were read. A due row behind it may be of the same key as a ready row that was not read.
///
/// Within a key the order by time is the order by position, because settling keeps it so.
pub(super) fn fetch_due(names: &Names) -> String {
    let message = &names.message;
    format!(
        "SELECT {COLUMNS}, CASE WHEN r.attempts = 0 AND NOT r.blocks_key THEN r.available_at END AS deliver_at,
    NOT r.blocks_key AND {blocked} AS blocked
FROM (
    SELECT w.*, {bytes_so_far}
    FROM (
        SELECT w.* FROM unnest($1::smallint[], $6::bigint[]) AS own (partition, read_to)
        CROSS JOIN LATERAL (
            SELECT {STORED}, available_at, blocks_key FROM {message} w
            WHERE w.partition = own.partition AND w.available_at <= now() AND (w.position <= own.read_to OR w.key IS NULL)
                AND w.position NOT IN (SELECT unnest($4::bigint[]))
            ORDER BY w.available_at, w.position LIMIT $2
        ) w
        ORDER BY w.available_at, w.position LIMIT $2
    ) w
) r
WHERE (r.bytes_so_far - octet_length(r.payload) >= $3) IS NOT TRUE
UNION ALL
SELECT {about}
UNION ALL
SELECT {NO_ROW} {never}",
        bytes_so_far = bytes_so_far("w", "w.available_at, w.position"),
        blocked = blocked(names, "r", "$1"),
        about = about("NULL", "NULL", &next_due(names, "$1", "w.available_at > now()")),
        never = never_generic("$5"),
    )
}

/// Whether a row that does not block by itself is blocked.
fn blocked(names: &Names, row: &str, partitions: &str) -> String {
    format!(
        "(CASE WHEN {row}.key IS NULL THEN false
    WHEN {anything} THEN {earlier}
    ELSE false END)",
        anything = anything_blocks(names, partitions),
        earlier = blocked_by_earlier(names, row)
    )
}

/// Whether anything at all blocks a key in these partitions. It depends on no row, so it is found out once, and only
/// if there are rows. The sort keeps the planner on the index: without statistics it takes half of the table for
/// blocking, and would look for the first such row by reading the table from its start.
fn anything_blocks(names: &Names, partitions: &str) -> String {
    let first = |table: &str| {
        format!(
            "(SELECT true FROM unnest({partitions}::smallint[]) AS own (partition)
        CROSS JOIN LATERAL (
            SELECT FROM {table} b WHERE b.partition = own.partition AND b.blocks_key
            ORDER BY hashtextextended(b.key, 0), b.position LIMIT 1
        ) first LIMIT 1)"
        )
    };
    format!(
        "coalesce(\n        {},\n        {},\n        false)",
        first(&names.message),
        first(&names.dead_letter)
    )
}

/// The time of the next row that waits for its time, among those that `condition` admits.
fn next_due(names: &Names, partitions: &str, condition: &str) -> String {
    format!(
        "(
        SELECT min(next.available_at) FROM unnest({partitions}::smallint[]) AS own (partition)
        CROSS JOIN LATERAL (
            SELECT w.available_at FROM {} w
            WHERE w.partition = own.partition AND w.available_at < 'infinity' AND {condition}
            ORDER BY w.available_at, w.position LIMIT 1
        ) next
    )",
        names.message
    )
}
