//! The blocking of keys.
//!
//! A row waits for its turn where `available_at` is the time that never comes and `blocks_key` is set. Whatever is
//! written here keeps two things true of the rows of a key that block: the later one is never due before the earlier
//! one, and behind one that retries or is dead all of them wait.

use super::{DECLARE_NOW, NEVER, SEEK};
use crate::config::Names;

/// How many of the first rows of a key may be due at a time after a release. It bounds the work of one settle call;
/// each of them that is delivered makes room for another one.
const RELEASED: usize = 256;

/// Keys in a parameter, as a table `k`.
const KEYS: &str = "OPENJSON(@P1) WITH (partition smallint '$[0]', key_hash bigint '$[1]') AS k";

/// Whether something before `row` blocks its key: a row that retries, waits or was released, or a dead letter.
pub(super) fn blocked_by_earlier(names: &Names, row: &str) -> String {
    let Names { message, dead_letter, message_blocking, dead_letter_blocking, .. } = names;
    let earlier = |table: &str, index: &str| {
        format!(
            "EXISTS (SELECT 1 FROM {table} AS b WITH (INDEX({index})) WHERE b.blocks_key = 1
        AND b.partition = {row}.partition AND b.key_hash = {row}.key_hash AND b.position < {row}.position)"
        )
    };
    format!(
        "({}\n        OR {})",
        earlier(message, message_blocking),
        earlier(dead_letter, dead_letter_blocking)
    )
}

/// `@P1`: positions, each with its partition and the hash of its key. Those that something in front of them blocks.
pub(super) fn blocked(names: &Names) -> String {
    format!(
        "SELECT s.position
FROM OPENJSON(@P1) WITH (position bigint '$[0]', partition smallint '$[1]', key_hash bigint '$[2]') AS s
WHERE {} OPTION (MAXDOP 1)",
        blocked_by_earlier(names, "s")
    )
}

/// `@P1`: positions, each with whether it waits for its turn, or else is due at once, and whether it blocks.
pub(super) fn set_due(names: &Names) -> String {
    format!(
        "{DECLARE_NOW}
UPDATE m SET blocks_key = s.blocks, available_at = CASE WHEN s.waits = 1 THEN {NEVER} ELSE @now END
FROM OPENJSON(@P1) WITH (position bigint '$[0]', waits int '$[1]', blocks int '$[2]') AS s
INNER JOIN {} AS m WITH (FORCESEEK) ON m.position = s.position {SEEK}",
        names.message
    )
}

/// `@P1`: keys, each with a position. Whatever of these keys was due behind these positions waits again.
pub(super) fn hold_later(names: &Names) -> String {
    let Names { message, message_blocking, .. } = names;
    format!(
        "UPDATE m SET available_at = {NEVER}
FROM (
    SELECT b.position
    FROM OPENJSON(@P1) WITH (partition smallint '$[0]', key_hash bigint '$[1]', position bigint '$[2]') AS s
    INNER JOIN {message} AS b WITH (INDEX({message_blocking})) ON b.blocks_key = 1
        AND b.partition = s.partition AND b.key_hash = s.key_hash AND b.position > s.position
    WHERE b.available_at < {NEVER}
) AS l
INNER JOIN {message} AS m WITH (FORCESEEK) ON m.position = l.position {SEEK}"
    )
}

/// `@P1`: keys. The first blocking rows of each: whether they wait for their turn, and whether for a time that is to
/// come. Then for each key the first dead letter that blocks it.
pub(super) fn blocking(names: &Names) -> String {
    let Names { message, dead_letter, message_blocking, dead_letter_blocking, .. } = names;
    format!(
        "{DECLARE_NOW}
SELECT k.partition, k.key_hash, f.position, CASE WHEN f.available_at = {NEVER} THEN 1 ELSE 0 END,
    CASE WHEN f.available_at > @now AND f.available_at < {NEVER} THEN 1 ELSE 0 END
FROM {KEYS}
CROSS APPLY (
    SELECT TOP ({RELEASED}) b.position, b.available_at FROM {message} AS b WITH (INDEX({message_blocking}))
    WHERE b.blocks_key = 1 AND b.partition = k.partition AND b.key_hash = k.key_hash ORDER BY b.position
) AS f {SEEK};
SELECT k.partition, k.key_hash, f.position
FROM {KEYS}
CROSS APPLY (
    SELECT TOP (1) b.position FROM {dead_letter} AS b WITH (INDEX({dead_letter_blocking}))
    WHERE b.blocks_key = 1 AND b.partition = k.partition AND b.key_hash = k.key_hash ORDER BY b.position
) AS f {SEEK};"
    )
}

/// `@P1`: partitions; `@P2`: most keys. Keys whose first blocking row waits, and not for a dead letter.
pub(super) fn fronts(names: &Names) -> String {
    let Names { message, dead_letter, message_blocking, dead_letter_blocking, .. } = names;
    format!(
        "SELECT TOP (@P2) f.partition, f.key_hash
FROM (
    SELECT b.partition, b.key_hash, MIN(b.position) AS position
    FROM OPENJSON(@P1) WITH (partition smallint '$') AS s
    INNER JOIN {message} AS b WITH (INDEX({message_blocking})) ON b.blocks_key = 1 AND b.partition = s.partition
    GROUP BY b.partition, b.key_hash
) AS f
INNER JOIN {message} AS m WITH (FORCESEEK) ON m.position = f.position
WHERE m.available_at = {NEVER} AND NOT EXISTS (
    SELECT 1 FROM {dead_letter} AS d WITH (INDEX({dead_letter_blocking}))
    WHERE d.blocks_key = 1 AND d.partition = f.partition AND d.key_hash = f.key_hash AND d.position < f.position)
ORDER BY f.position {SEEK}"
    )
}
