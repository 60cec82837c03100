//! Every statement of this crate, built once from validated and quoted names. Values are always bound.
//!
//! Ways of access are spelt out (`FORCESEEK`, `INDEX`, `LOOP JOIN`, `FORCE ORDER`): the tables are empty one moment and
//! full the next, and statistics that were gathered at the wrong moment would lead the optimizer astray. None of these
//! hints is needed for what comes out. The locking hints of [`Reading`] keep readers from waiting; that nothing is
//! overlooked or comes in the wrong order does not rest on them either.

mod admin;
mod ddl;
mod group;
mod inbox;
pub(crate) mod inspecting;
mod keys;
mod reading;
mod settling;
#[cfg(test)]
mod tests;

pub(crate) use ddl::SCHEMA_VERSION;
pub(crate) use inbox::InboxStatements;
pub(crate) use reading::{Column, ReadStatements, Reading};

use crate::config::Names;

/// A time that never comes, for rows that wait for their turn.
const NEVER: &str = "'9999-12-31T23:59:59.999999'";

/// Declares the present, as the columns have it.
const DECLARE_NOW: &str = "DECLARE @now datetime2(6) = SYSUTCDATETIME();";

/// One plan whatever the statistics say: the list first, then a seek for each of its rows.
const SEEK: &str = "OPTION (LOOP JOIN, FORCE ORDER, MAXDOP 1)";

/// Binary, and never one of those that count surrogate pairs as one.
const BINARY: &str = "Latin1_General_100_BIN2";

/// The columns of a message that neither the outbox nor the database computes.
const ENQUEUE_COLUMNS: &str =
    "message_id, topic, [key], payload, content_type, headers, options, available_at";

/// The statements.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    pub(crate) insert: String,
    pub(crate) insert_ready: String,
    pub(crate) insert_batch: String,
    pub(crate) ddl: String,
    pub(crate) server: String,
    pub(crate) lock: String,
    pub(crate) read_meta: String,
    pub(crate) join_group: String,
    pub(crate) claim_leases: String,
    pub(crate) release_leases: String,
    pub(crate) leave_group: String,
    pub(crate) group: String,
    pub(crate) versions: ReadStatements,
    pub(crate) locks: ReadStatements,
    pub(crate) deliver: String,
    pub(crate) deliver_and_keep: String,
    pub(crate) lock_leases: String,
    pub(crate) lock_rows: String,
    pub(crate) retry: String,
    pub(crate) bury: String,
    pub(crate) delete: String,
    pub(crate) delete_and_keep: String,
    pub(crate) blocked: String,
    pub(crate) set_due: String,
    pub(crate) hold_later: String,
    pub(crate) blocking: String,
    pub(crate) fronts: String,
    pub(crate) purge: String,
    pub(crate) pick_dead: (String, String),
    pub(crate) list_dead: (String, String),
    pub(crate) lock_dead: String,
    pub(crate) own_positions: String,
    pub(crate) lowest: String,
    pub(crate) redrive: String,
    pub(crate) drawn_positions: String,
    pub(crate) delete_dead: String,
}

impl Statements {
    pub(crate) fn new(names: &Names) -> Self {
        Self {
            insert: insert(names),
            insert_ready: insert_ready(names),
            insert_batch: insert_batch(names),
            ddl: ddl::schema(names) + &ddl::tables(names),
            server: group::server(names),
            lock: group::lock(),
            read_meta: group::read_meta(names),
            join_group: group::join(names),
            claim_leases: group::claim(names),
            release_leases: group::release(names),
            leave_group: group::leave(names),
            group: inspecting::group(names),
            versions: ReadStatements::new(names, Reading::Versions),
            locks: ReadStatements::new(names, Reading::Locks),
            deliver: settling::deliver(names, false),
            deliver_and_keep: settling::deliver(names, true),
            lock_leases: settling::lock_leases(names),
            lock_rows: settling::lock_rows(&names.message, "position"),
            retry: settling::retry(names),
            bury: settling::bury(names),
            delete: settling::delete(&names.message, "position"),
            delete_and_keep: settling::delete_and_keep(names),
            blocked: keys::blocked(names),
            set_due: keys::set_due(names),
            hold_later: keys::hold_later(names),
            blocking: keys::blocking(names),
            fronts: keys::fronts(names),
            purge: admin::purge(names),
            pick_dead: admin::pick_dead(names),
            list_dead: admin::list_dead(names),
            lock_dead: settling::lock_rows(&names.dead_letter, "number"),
            own_positions: format!("SET IDENTITY_INSERT {} ON", names.message),
            lowest: admin::lowest(names),
            redrive: admin::redrive(names),
            drawn_positions: format!("SET IDENTITY_INSERT {} OFF", names.message),
            delete_dead: settling::delete(&names.dead_letter, "number"),
        }
    }
}

/// `@P1` to `@P8`: the columns, in their order.
fn insert(names: &Names) -> String {
    format!(
        "INSERT INTO {} ({ENQUEUE_COLUMNS})\nVALUES (@P1, @P2, @P3, @P4, @P5, @P6, @P7, @P8)",
        names.message
    )
}

/// The same without a time. The driver sends what is `None` without a type; SQL Server would take that for a time, too, but
/// Babelfish would not.
fn insert_ready(names: &Names) -> String {
    insert(names).replace(", available_at", "").replace(", @P8", "")
}

/// The parameters of [`Parameters`](crate::rows::Parameters). Positions are drawn in the order of the sort:
/// <https://learn.microsoft.com/sql/t-sql/statements/insert-transact-sql#remarks>.
fn insert_batch(names: &Names) -> String {
    let text = |column: &str| text("s", column);
    format!(
        "{DECLARE_LIST}
INSERT INTO {message} ({ENQUEUE_COLUMNS})
SELECT s.message_id, {topic}, {key}, SUBSTRING(@P5, s.payload_at, s.payload_length), {content_type}, {headers},
    {options}, s.available_at
FROM OPENJSON(@list) WITH (
    number int '$[0]', message_id uniqueidentifier '$[1]', available_at datetime2(6) '$[2]',
    topic_at int '$[3]', topic_length int '$[4]', key_at int '$[5]', key_length int '$[6]',
    content_type_at int '$[7]', content_type_length int '$[8]', headers_at int '$[9]', headers_length int '$[10]',
    options_at int '$[11]', options_length int '$[12]', payload_at int '$[13]', payload_length int '$[14]'
) AS s
ORDER BY s.number",
        message = names.message,
        topic = text("topic"),
        key = text("key"),
        content_type = text("content_type"),
        headers = text("headers"),
        options = text("options"),
    )
}

/// Chooses the list that counts as the server does.
const DECLARE_LIST: &str = "DECLARE @list nvarchar(max) = \
                            CASE WHEN LEN(@P4 COLLATE Latin1_General_100_BIN2) = 2 THEN @P1 ELSE @P2 END;";

/// A text of a list, by its place in the third parameter.
fn text(list: &str, column: &str) -> String {
    format!("SUBSTRING(@P3 COLLATE {BINARY}, {list}.{column}_at, {list}.{column}_length)")
}

/// A list of positions in a parameter, as a table `s`.
fn positions(parameter: &str) -> String {
    format!("OPENJSON({parameter}) WITH (position bigint '$') AS s")
}
