//! Every statement of this crate, built once from validated and quoted names. Values are always bound.

mod admin;
mod group;
pub(crate) mod inspecting;
mod reading;
mod settling;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use outbox_sql::postgres::{Names, ddl, enqueueing};
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

pub(crate) use reading::{Column, Payloads};

use crate::sessions::Lent;

/// The statements.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    pub(crate) insert: SqlStr,
    pub(crate) insert_batch: SqlStr,
    pub(crate) ddl: String,
    pub(crate) create_schema: SqlStr,
    pub(crate) create_tables: SqlStr,
    pub(crate) read_meta: SqlStr,
    pub(crate) renew: SqlStr,
    pub(crate) remove_stale: SqlStr,
    pub(crate) join_group: SqlStr,
    pub(crate) extend_leases: SqlStr,
    pub(crate) read_group: SqlStr,
    pub(crate) claim_leases: SqlStr,
    pub(crate) release_leases: SqlStr,
    pub(crate) leave_group: SqlStr,
    pub(crate) set_idle: SqlStr,
    pub(crate) open_gate: SqlStr,
    pub(crate) close_gate: SqlStr,
    pub(crate) reopen_gate: SqlStr,
    pub(crate) fetch: Planned,
    pub(crate) fetch_large: Planned,
    pub(crate) fetch_late: Planned,
    pub(crate) fetch_due: SqlStr,
    pub(crate) deliver_free: SqlStr,
    pub(crate) deliver: SqlStr,
    pub(crate) deliver_and_keep: SqlStr,
    pub(crate) lock_rows: SqlStr,
    pub(crate) read_leases: SqlStr,
    pub(crate) lock_leases: SqlStr,
    pub(crate) retry: SqlStr,
    pub(crate) hold: SqlStr,
    pub(crate) bury: SqlStr,
    pub(crate) hold_later: SqlStr,
    pub(crate) release: SqlStr,
    pub(crate) repair: SqlStr,
    pub(crate) purge: SqlStr,
    pub(crate) stats: SqlStr,
    pub(crate) list_dead: SqlStr,
    pub(crate) redrive: SqlStr,
    pub(crate) discard: SqlStr,
    pub(crate) count_dead: SqlStr,
    pub(crate) relays: SqlStr,
    pub(crate) owners: SqlStr,
    pub(crate) peek: SqlStr,
}

impl Statements {
    pub(crate) fn new(names: &Names) -> Self {
        Self {
            insert: text(enqueueing::insert(names)),
            insert_batch: text(enqueueing::insert_batch(names)),
            ddl: ddl::all(names),
            create_schema: text(ddl::schema(names)),
            create_tables: text(ddl::tables(names)),
            read_meta: text(format!("SELECT schema_version, partitions FROM {}", names.meta)),
            renew: text(group::renew(names)),
            remove_stale: text(group::remove_stale(names)),
            join_group: text(group::join(names)),
            extend_leases: text(group::extend(names)),
            read_group: text(group::read(names)),
            claim_leases: text(group::claim(names)),
            release_leases: text(group::release(names)),
            leave_group: text(group::leave(names)),
            set_idle: text(group::set_idle(names)),
            open_gate: text(group::open_gate(names)),
            close_gate: text(group::close_gate(names)),
            reopen_gate: text(group::reopen_gate(names)),
            fetch: Planned::new(|planning| reading::fetch(names, planning, Payloads::Small)),
            fetch_large: Planned::new(|planning| reading::fetch(names, planning, Payloads::Large)),
            fetch_late: Planned::new(|planning| reading::fetch_late(names, planning)),
            fetch_due: text(reading::fetch_due(names)),
            deliver_free: text(settling::deliver_free(names)),
            deliver: text(settling::deliver(names, false)),
            deliver_and_keep: text(settling::deliver(names, true)),
            lock_rows: text(settling::lock_rows(names)),
            read_leases: text(settling::read_leases(names)),
            lock_leases: text(settling::lock_leases(names)),
            retry: text(settling::retry(names)),
            hold: text(settling::hold(names)),
            bury: text(settling::bury(names)),
            hold_later: text(settling::hold_later(names)),
            release: text(settling::release(names)),
            repair: text(settling::repair(names)),
            purge: text(admin::purge(names)),
            stats: text(admin::stats(names)),
            list_dead: text(admin::list_dead(names)),
            redrive: text(admin::redrive(names)),
            discard: text(admin::discard(names)),
            count_dead: text(admin::count_dead(names)),
            relays: text(inspecting::relays(names)),
            owners: text(inspecting::owners(names)),
            peek: text(inspecting::peek(names)),
        }
    }
}

/// How often a statement is planned.
#[derive(Clone, Copy, Debug)]
enum Planning {
    /// Once, where the session's settings leave the planner no other way than the right one.
    Once,
    /// At each use; see [`never_generic`].
    Anew,
}

impl Planning {
    /// Where the rows come from of which there are none, since `flag` is always false.
    fn never(self, flag: &str) -> String {
        match self {
            Self::Once => format!("WHERE {flag}::boolean"),
            Self::Anew => never_generic(flag),
        }
    }
}

/// A statement that is run so often that planning it would be a good part of its time.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    once: SqlStr,
    anew: SqlStr,
}

impl Planned {
    fn new(build: impl Fn(Planning) -> String) -> Self {
        Self { once: text(build(Planning::Once)), anew: text(build(Planning::Anew)) }
    }

    #[cfg(test)]
    pub(crate) fn once(&self) -> &SqlStr {
        &self.once
    }

    /// For a session.
    pub(crate) fn on(&self, session: &Lent) -> SqlStr {
        if session.is_settled() { self.once.clone() } else { self.anew.clone() }
    }
}

/// A text that is cheap to clone. It is safe because its only variable parts are quoted identifiers.
fn text(sql: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(sql)).into_sql_str()
}

/// The hash of a row's key, as the indexes by key have it.
fn hash(row: &str) -> String {
    format!("hashtextextended({row}.key, 0)")
}

/// Whether two rows have the same key.
///
/// The hash is looked up as a range of one value, together with [`in_order_of_key`]. After an equality the planner would know that
/// the order of the hashes does not matter, and would take the primary key for as good as the index by key: it has the positions of
/// a partition in the same order, but with all other keys in between. A plan made while the table is empty chooses between the
/// two by chance, and is kept.
fn same_key(one: &str, other: &str) -> String {
    let (hash, wanted) = (hash(one), hash(other));
    format!(
        "{one}.partition = {other}.partition AND {hash} BETWEEN {wanted} AND {wanted} AND {one}.key = {other}.key"
    )
}

/// The order that only an index by key has; see [`same_key`].
fn in_order_of_key(row: &str) -> String {
    format!("{}, {row}.position", hash(row))
}

/// The position of the first row of `table` that blocks the key of `row`.
fn first_blocking(table: &str, row: &str) -> String {
    format!(
        "(SELECT b.position FROM {table} b WHERE {} AND b.blocks_key ORDER BY {} LIMIT 1)",
        same_key("b", row),
        in_order_of_key("b"),
    )
}

/// Whether something before `row` blocks its key: a row that retries, waits or was released, or a dead letter.
fn blocked_by_earlier(names: &Names, row: &str) -> String {
    let before = |table: &str| format!("coalesce({} < {row}.position, false)", first_blocking(table, row));
    format!("({}\n        OR {})", before(&names.message), before(&names.dead_letter))
}

/// Something a generic plan has to pay for and a plan for given values does not, since `flag` is always false.
///
/// A generic plan is made when a statement was used a few times, which is when the relay has just started and the
/// table may be empty. Nothing but reading the whole table is cheaper then, and the plan stays when millions of rows
/// arrive. This keeps PostgreSQL planning anew for the table as it is, which takes a fraction of a millisecond.
fn never_generic(flag: &str) -> String {
    format!("FROM generate_series(1, 10000) x, generate_series(1, 10000) y WHERE {flag}::boolean")
}

/// The same as a condition, which is true. Every statement that joins its rows to parameters has it: the plan that is best for an
/// empty table reads all of the table and compares each row with each parameter.
fn never_generic_condition(flag: &str) -> String {
    format!(
        "(NOT {flag}::boolean OR (SELECT count(*) FROM generate_series(1, 10000) x, generate_series(1, 10000) y) = 0)"
    )
}
