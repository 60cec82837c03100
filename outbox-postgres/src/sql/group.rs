//! Relays and leases.

use outbox_sql::postgres::Names;
use outbox_sql::postgres::ddl::asleep;

/// Drops relays that are gone, and adds or renews this one. A relay whose time had run out begins anew. Returns whether this one
/// was no member before.
pub(super) fn join(names: &Names) -> String {
    let relay = &names.relay;
    format!(
        "WITH gone AS (DELETE FROM {relay} WHERE expires_at <= now() AND relay_id <> $1),
member AS (SELECT FROM {relay} WHERE relay_id = $1 AND expires_at > now())
INSERT INTO {relay} AS r (relay_id, expires_at) VALUES ($1, now() + $2 * interval '1 microsecond')
ON CONFLICT (relay_id) DO UPDATE SET
    expires_at = excluded.expires_at,
    idle = r.idle AND r.expires_at > now()
RETURNING NOT EXISTS (SELECT FROM member)"
    )
}

pub(super) fn extend(names: &Names) -> String {
    format!("UPDATE {} SET expires_at = now() + $2 * interval '1 microsecond' WHERE owner = $1", names.lease)
}

/// How many relays there are, how many of them come before this one, how many partitions there are, and those it has.
pub(super) fn read(names: &Names) -> String {
    let Names { relay, lease, .. } = names;
    format!(
        "SELECT count(*), count(*) FILTER (WHERE relay_id < $1),
    (SELECT count(*) FROM {lease}),
    ARRAY(SELECT partition FROM {lease} WHERE owner = $1 ORDER BY partition)
FROM {relay}"
    )
}

/// Longer than the lease of any relay, in microseconds: 25 hours. Leases of relays with other settings must not be taken for wrong.
const FAR_OFF: i64 = 25 * 3600 * 1_000_000;

/// Renews a relay that is in the group, and its leases, in one statement that waits for no other relay. Returns whether it was in
/// the group, how many others have run out of time, what [`read`] does, how many partitions there are to be taken, and the relays
/// whose time ends further away than any lease lasts, each with the version of its row.
///
/// The relay's row comes first and its leases in order, as everywhere, so that nobody waits in a circle.
pub(super) fn renew(names: &Names) -> String {
    let Names { relay, lease, .. } = names;
    let until = "now() + $2 * interval '1 microsecond'";
    format!(
        "WITH me AS (
    UPDATE {relay} SET expires_at = {until} WHERE relay_id = $1 AND expires_at > now() RETURNING relay_id
), mine AS (
    SELECT partition FROM {lease} WHERE owner = $1 AND (SELECT true FROM me) ORDER BY partition FOR UPDATE
), renewed AS (
    UPDATE {lease} l SET expires_at = {until} FROM mine WHERE l.partition = mine.partition RETURNING l.partition
)
SELECT EXISTS (SELECT FROM me), count(*) FILTER (WHERE relay_id <> $1 AND expires_at <= now()),
    count(*), count(*) FILTER (WHERE relay_id < $1),
    (SELECT count(*) FROM {lease}),
    ARRAY(SELECT partition FROM renewed ORDER BY partition),
    (SELECT count(*) FROM {lease} WHERE owner IS NULL OR (owner <> $1 AND expires_at <= now())),
    ARRAY(SELECT r.relay_id FROM {relay} r WHERE {far} ORDER BY r.relay_id),
    ARRAY(SELECT r.xmin::text::bigint FROM {relay} r WHERE {far} ORDER BY r.relay_id)
FROM {relay}",
        far = format_args!(
            "r.relay_id <> $1 AND r.expires_at > now() + greatest(2 * $2, {FAR_OFF}) * interval '1 microsecond'"
        )
    )
}

/// `$1`, `$2`: relays and the versions of their rows. Removes those that have not been renewed since, with their leases.
pub(super) fn remove_stale(names: &Names) -> String {
    let Names { relay, lease, .. } = names;
    format!(
        "WITH gone AS (
    DELETE FROM {relay} r USING unnest($1::uuid[], $2::bigint[]) AS s (relay_id, version)
    WHERE r.relay_id = s.relay_id AND r.xmin::text::bigint = s.version
    RETURNING r.relay_id
)
UPDATE {lease} SET owner = NULL, expires_at = NULL WHERE owner IN (SELECT relay_id FROM gone)"
    )
}

/// Takes free and expired partitions. Waits for the locks of a former owner that is just settling.
pub(super) fn claim(names: &Names) -> String {
    let lease = &names.lease;
    format!(
        "UPDATE {lease} l SET owner = $1, expires_at = now() + $2 * interval '1 microsecond'
FROM (
    SELECT partition FROM {lease}
    WHERE owner IS NULL OR (owner <> $1 AND expires_at <= now())
    ORDER BY partition LIMIT $3 FOR UPDATE
) free
WHERE l.partition = free.partition
RETURNING l.partition"
    )
}

pub(super) fn release(names: &Names) -> String {
    format!(
        "UPDATE {} SET owner = NULL, expires_at = NULL WHERE owner = $1 AND partition = ANY($2)",
        names.lease
    )
}

pub(super) fn leave(names: &Names) -> String {
    let Names { relay, lease, .. } = names;
    format!(
        "WITH left_group AS (DELETE FROM {relay} WHERE relay_id = $1)
UPDATE {lease} SET owner = NULL, expires_at = NULL WHERE owner = $1"
    )
}

pub(super) fn set_idle(names: &Names) -> String {
    format!("UPDATE {} SET idle = $2 WHERE relay_id = $1 AND idle <> $2", names.relay)
}

/// Has commits ask whether a relay sleeps. To be run after the relay's own row says so.
pub(super) fn open_gate(names: &Names) -> String {
    format!("SELECT setval({}, 1)", names.sleepers_literal)
}

/// Has commits ask no more, if no relay sleeps. One that has just lain down may be missed, so if there is a row
/// [`reopen_gate`] has to be run afterwards: either that sees it, or its own [`open_gate`] comes later.
pub(super) fn close_gate(names: &Names) -> String {
    format!("SELECT setval({}, 0) WHERE NOT EXISTS ({})", names.sleepers_literal, asleep(names))
}

pub(super) fn reopen_gate(names: &Names) -> String {
    format!("{} WHERE EXISTS ({})", open_gate(names), asleep(names))
}
