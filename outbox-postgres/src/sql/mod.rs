//! Every statement of this crate, built once from validated and quoted names. Values are always bound.

mod admin;
mod ddl;
mod group;
pub(crate) mod inspecting;
mod reading;
mod settling;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

pub(crate) use ddl::SCHEMA_VERSION;
pub(crate) use reading::{Column, Payloads};

use crate::config::Names;
use crate::sessions::Lent;

/// The columns of a message that neither the outbox nor the database computes, in the order of `INSERT_VALUES`.
const ENQUEUE_COLUMNS: &str = "message_id, topic, key, payload, content_type, headers, options, available_at";

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
        let message = &names.message;
        Self {
            insert: text(format!(
                "INSERT INTO {message} ({ENQUEUE_COLUMNS})\nVALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
            )),
            // Positions are drawn after the sort, so they follow the order of the arrays.
            insert_batch: text(format!(
                "INSERT INTO {message} ({ENQUEUE_COLUMNS})
SELECT {ENQUEUE_COLUMNS}
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::jsonb[], $7::jsonb[],
            $8::timestamptz[])
    WITH ORDINALITY AS new ({ENQUEUE_COLUMNS}, number)
ORDER BY number"
            )),
            ddl: ddl::schema(names) + &ddl::tables(names),
            create_schema: text(ddl::schema(names)),
            create_tables: text(ddl::tables(names)),
            read_meta: text(format!("SELECT schema_version, partitions FROM {}", names.meta)),
            renew: text(group::renew(names)),
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

    /// For a session.
    pub(crate) fn on(&self, session: &Lent) -> SqlStr {
        if session.is_settled() { self.once.clone() } else { self.anew.clone() }
    }
}

/// A text that is cheap to clone. It is safe because its only variable parts are quoted identifiers.
fn text(sql: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(sql)).into_sql_str()
}

/// Whether something before `row` blocks its key: a row that retries, waits or was released, or a dead letter.
fn blocked_by_earlier(names: &Names, row: &str) -> String {
    let Names { message, dead_letter, .. } = names;
    let same_key = |other: &str| {
        format!(
            "{other}.partition = {row}.partition AND hashtextextended({other}.key, 0) = hashtextextended({row}.key, 0)
            AND {other}.key = {row}.key AND {other}.blocks_key AND {other}.position < {row}.position"
        )
    };
    format!(
        "(EXISTS (SELECT FROM {message} b WHERE {})
        OR EXISTS (SELECT FROM {dead_letter} b WHERE {}))",
        same_key("b"),
        same_key("b")
    )
}

/// Something a generic plan has to pay for and a plan for given values does not, since `flag` is always false.
///
/// A generic plan is made when a statement was used a few times, which is when the relay has just started and the
/// table may be empty. Nothing but reading the whole table is cheaper then, and the plan stays when millions of rows
/// arrive. This keeps PostgreSQL planning anew for the table as it is, which takes a fraction of a millisecond.
fn never_generic(flag: &str) -> String {
    format!("FROM generate_series(1, 10000) x, generate_series(1, 10000) y WHERE {flag}::boolean")
}

/// The same as a condition, which is true.
fn never_generic_condition(flag: &str) -> String {
    format!(
        "(NOT {flag}::boolean OR (SELECT count(*) FROM generate_series(1, 10000) x, generate_series(1, 10000) y) = 0)"
    )
}
