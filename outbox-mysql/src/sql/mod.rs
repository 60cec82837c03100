//! Every statement of this crate, built from validated and quoted names. Values are always bound.
//!
//! Lists of rows go into a statement as one parameter, a JSON array that `JSON_TABLE` makes a table of. The order of
//! joins and the indexes are spelt out (`STRAIGHT_JOIN`, `FORCE INDEX`): the tables are empty one moment and full the
//! next, and statistics from the wrong moment would lead the optimizer astray.

mod admin;
mod ddl;
mod group;
mod inspecting;
mod reading;
mod settling;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

pub(crate) use ddl::{NEVER, SCHEMA_VERSION};
pub(crate) use reading::{Column, Ranges};

use crate::config::Names;

/// The columns of a message that neither the outbox nor the database computes, in the order of their parameters.
const ENQUEUE_COLUMNS: &str =
    "`message_id`, `topic`, `key`, `payload`, `content_type`, `headers`, `options`, `available_at`";

/// What the tables of messages, dead letters and delivered messages have in common.
const COMMON: &str = "`position`, `message_id`, `topic`, `key`, `payload`, `content_type`, `headers`, `options`, \
                      `partition`, `attempts`, `enqueued_at`";

/// The present. Everything is in UTC, whatever the session's time zone.
const NOW: &str = "UTC_TIMESTAMP(6)";

/// Stands for a time that is none, such as `0000-00-00`. No time has this number.
pub(crate) const NO_TIME: i64 = i64::MIN / 2;

/// A time in microseconds since 1970.
fn micros(time: &str) -> String {
    format!("TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', {time})")
}

/// The positions of a JSON array as a table `s`.
const POSITIONS: &str = "JSON_TABLE(?, '$[*]' COLUMNS (`position` BIGINT PATH '$')) AS s";

/// The same for statements that lock: MySQL cannot lock the rows of a join with `JSON_TABLE` (error 3569), and `DISTINCT`
/// keeps it from seeing through this.
const POSITIONS_TO_LOCK: &str = "(SELECT DISTINCT p.`position` FROM JSON_TABLE(?, '$[*]' COLUMNS (`position` BIGINT PATH '$')) AS p) AS s";

/// The statements whose texts depend on the names only. Those that depend on numbers of things are functions here.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    names: Names,
    pub(crate) insert: SqlStr,
    pub(crate) ddl: Vec<String>,
    pub(crate) finish_ddl: Vec<String>,
    pub(crate) read_meta: SqlStr,

    pub(crate) lock_group: SqlStr,
    pub(crate) forget_relays: SqlStr,
    pub(crate) join_group: SqlStr,
    pub(crate) extend_leases: SqlStr,
    pub(crate) read_group: SqlStr,
    pub(crate) own_leases: SqlStr,
    pub(crate) free_leases: SqlStr,
    pub(crate) claim_leases: SqlStr,
    pub(crate) release_leases: SqlStr,
    pub(crate) release_all_leases: SqlStr,
    pub(crate) leave_group: SqlStr,

    pub(crate) look: SqlStr,
    pub(crate) fetch: SqlStr,

    pub(crate) deliver: SqlStr,
    pub(crate) lock_leases: SqlStr,
    pub(crate) lock_rows: SqlStr,
    pub(crate) blocked: SqlStr,
    pub(crate) retry: SqlStr,
    pub(crate) set_due: SqlStr,
    pub(crate) bury: SqlStr,
    pub(crate) keep_delivered: SqlStr,
    pub(crate) delete: SqlStr,
    pub(crate) hold_later: SqlStr,
    pub(crate) fronts: SqlStr,
    pub(crate) anything: SqlStr,

    pub(crate) purge: SqlStr,
    pub(crate) stats: SqlStr,
    pub(crate) lowest: SqlStr,
    pub(crate) redrive: SqlStr,
    pub(crate) delete_dead: SqlStr,
    pub(crate) lock_dead: SqlStr,

    pub(crate) relays: SqlStr,
    pub(crate) owners: SqlStr,
    pub(crate) peek: SqlStr,
    pub(crate) clock: SqlStr,
}

impl Statements {
    pub(crate) fn new(names: &Names) -> Self {
        let names = names.clone();
        Self {
            insert: text(insert(&names, 1)),
            ddl: ddl::tables(&names),
            finish_ddl: ddl::rows(&names),
            read_meta: text(format!("SELECT `schema_version`, `partitions` FROM {}", names.meta)),
            lock_group: text(group::lock(&names)),
            forget_relays: text(group::forget(&names)),
            join_group: text(group::join(&names)),
            extend_leases: text(group::extend(&names)),
            read_group: text(group::read(&names)),
            own_leases: text(group::own(&names)),
            free_leases: text(group::free(&names)),
            claim_leases: text(group::claim(&names)),
            release_leases: text(group::release(&names)),
            release_all_leases: text(group::release_all(&names)),
            leave_group: text(group::leave(&names)),
            look: text(reading::look(&names)),
            fetch: text(reading::fetch(&names)),
            deliver: text(settling::deliver(&names)),
            lock_leases: text(settling::lock_leases(&names)),
            lock_rows: text(settling::lock_rows(&names)),
            blocked: text(settling::blocked(&names)),
            retry: text(settling::retry(&names)),
            set_due: text(settling::set_due(&names)),
            bury: text(settling::bury(&names)),
            keep_delivered: text(settling::keep_delivered(&names)),
            delete: text(settling::delete(&names.message, "position")),
            hold_later: text(settling::hold_later(&names)),
            fronts: text(settling::fronts(&names)),
            anything: text(format!("SELECT {}", reading::anything(&names.message))),
            purge: text(admin::purge(&names)),
            stats: text(admin::stats(&names)),
            lowest: text(admin::lowest(&names)),
            redrive: text(admin::redrive(&names)),
            delete_dead: text(settling::delete(&names.dead_letter, "number")),
            lock_dead: text(admin::lock_dead(&names)),
            relays: text(inspecting::relays(&names)),
            owners: text(inspecting::owners(&names)),
            peek: text(inspecting::peek(&names)),
            clock: text(inspecting::clock()),
            names,
        }
    }

    /// Inserts so many messages.
    pub(crate) fn insert_batch(&self, count: usize) -> SqlStr {
        if count == 1 { self.insert.clone() } else { text(insert(&self.names, count)) }
    }

    /// The dirty read of some partitions. See [`reading::look_back`].
    pub(crate) fn look_back(&self, partitions: usize) -> SqlStr {
        text(reading::look_back(&self.names, partitions))
    }

    /// The dirty read of some ranges. See [`reading::look_again`].
    pub(crate) fn look_again(&self, ranges: Ranges) -> SqlStr {
        text(reading::look_again(&self.names, ranges))
    }

    /// The committed read. See [`reading::read`].
    pub(crate) fn read(&self, ranges: Ranges, partitions: usize) -> SqlStr {
        text(reading::read(&self.names, ranges, partitions))
    }

    /// See [`reading::witnesses`].
    pub(crate) fn witnesses(&self) -> SqlStr {
        text(reading::witnesses(&self.names))
    }

    /// See [`reading::waiting`].
    pub(crate) fn waiting(&self, partitions: usize) -> SqlStr {
        text(reading::waiting(&self.names, partitions))
    }

    /// See [`reading::due`].
    pub(crate) fn due(&self, partitions: usize) -> SqlStr {
        text(reading::due(&self.names, partitions))
    }

    /// See [`settling::blocking`].
    pub(crate) fn blocking(&self, keys: usize) -> SqlStr {
        text(settling::blocking(&self.names, keys))
    }

    /// See [`settling::blocking_dead`].
    pub(crate) fn blocking_dead(&self) -> SqlStr {
        text(settling::blocking_dead(&self.names))
    }

    /// See [`admin::list_dead`].
    pub(crate) fn list_dead(&self, condition: &str) -> SqlStr {
        text(admin::list_dead(&self.names, condition))
    }

    /// See [`inspecting::count_dead`].
    pub(crate) fn count_dead(&self, condition: &str) -> SqlStr {
        text(inspecting::count_dead(&self.names, condition))
    }

    /// See [`admin::pick_dead`].
    pub(crate) fn pick_dead(&self, condition: &str) -> SqlStr {
        text(admin::pick_dead(&self.names, condition))
    }
}

fn insert(names: &Names, count: usize) -> String {
    let row = "(?, ?, ?, ?, ?, ?, ?, ?)";
    let rows = vec![row; count].join(", ");
    format!("INSERT INTO {} ({ENQUEUE_COLUMNS})\nVALUES {rows}", names.message)
}

/// As many question marks.
fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// A text that is cheap to clone. It is safe because its only variable parts are quoted identifiers, and numbers of
/// things.
fn text(sql: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(sql)).into_sql_str()
}

/// The columns of one table of a join.
fn of(table: &str, columns: &str) -> String {
    columns.split(", ").map(|column| format!("{table}.{column}")).collect::<Vec<_>>().join(", ")
}
