//! Fetching.

use super::{DECLARE_NOW, NEVER, SEEK, positions};
use crate::config::Names;

/// How committed rows are read that others may be writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The database keeps versions of rows (`READ_COMMITTED_SNAPSHOT`), so that a statement shows one moment and waits
    /// for nobody.
    Versions,
    /// It does not. Rows that others have locked are passed by, and a statement does not show one moment: each is
    /// followed by the same again, see [`crate::reader::whole`].
    Locks,
}

impl Reading {
    /// `READCOMMITTEDLOCK`, because `READPAST` is not allowed with versions, and somebody may turn them on any time
    /// (<https://learn.microsoft.com/sql/t-sql/queries/hints-transact-sql-table>).
    fn hints(self) -> &'static [&'static str] {
        match self {
            Self::Versions => &[],
            Self::Locks => &["READCOMMITTEDLOCK", "READPAST", "ROWLOCK"],
        }
    }

    /// The hints of a table, behind some others.
    fn with(self, others: &[&str]) -> String {
        let all: Vec<&str> = others.iter().chain(self.hints()).copied().collect();
        if all.is_empty() { String::new() } else { format!(" WITH ({})", all.join(", ")) }
    }

    /// A statement, as often as it has to be run.
    fn repeated(self, statement: &str) -> String {
        match self {
            Self::Versions => format!("{statement};"),
            Self::Locks => format!("{statement};\n{statement};"),
        }
    }
}

/// The columns of what [`ReadStatements::fetch`] returns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Position,
    Partition,
    Attempts,
    EnqueuedAt,
    AvailableAt,
    BlocksKey,
    /// Whether something in front of it blocks its key.
    Blocked,
    /// From here on the message, up to the options.
    MessageId,
}

/// The statements that read what others may be writing.
#[derive(Clone, Debug)]
pub(crate) struct ReadStatements {
    pub(crate) look: String,
    pub(crate) read: String,
    pub(crate) due: String,
    pub(crate) fetch: String,
    pub(crate) stats: String,
    pub(crate) peek: String,
}

impl ReadStatements {
    pub(super) fn new(names: &Names, reading: Reading) -> Self {
        Self {
            look: look(names, reading),
            read: read(names, reading),
            due: due(names, reading),
            fetch: fetch(names, reading),
            stats: super::admin::stats(names, &reading.with(&[])),
            peek: super::inspecting::peek(names, &reading.with(&[])),
        }
    }
}

const RANGES: &str = "OPENJSON(@P1) WITH (low bigint '$[0]', high bigint '$[1]') AS r";

/// Whether the row's partition is marked in a text of zeros and ones. Not a join, so that nothing stands between the
/// index and the rows in their order.
fn marked(row: &str, parameter: &str) -> String {
    format!("SUBSTRING({parameter}, {row}.partition + 1, 1) = N'1'")
}

/// The dirty read. `@P1`: ranges; `@P2`, `@P3`: after and up to which position the scan goes; `@P4`: its partitions, as
/// marks; `@P5`: most rows; `@P6`: all own partitions; `@P7`: how many waiting rows of each.
///
/// Gives the rows of the scan; then those in the ranges; then the present; then for each partition the first rows that
/// wait for a time.
fn look(names: &Names, reading: Reading) -> String {
    let Names { message, message_due, .. } = names;
    let columns =
        "m.position, m.partition, m.writer, CASE WHEN m.available_at IS NULL THEN 1 ELSE 0 END AS ready";
    format!(
        "SELECT TOP (@P5) {columns}
FROM {message} AS m WITH (READUNCOMMITTED)
WHERE m.position > @P2 AND m.position <= @P3 AND {marked}
ORDER BY m.position OPTION (MAXDOP 1);
SELECT {columns}
FROM {RANGES} INNER JOIN {message} AS m WITH (FORCESEEK, READUNCOMMITTED) ON m.position BETWEEN r.low AND r.high
{SEEK};
SELECT CONVERT(datetime2(6), SYSUTCDATETIME());
SELECT w.position, w.available_at
FROM OPENJSON(@P6) WITH (partition smallint '$') AS o
CROSS APPLY (
    SELECT TOP (@P7) m.position, m.available_at FROM {message} AS m{waiting}
    WHERE m.partition = o.partition AND m.available_at IS NOT NULL AND m.available_at < {NEVER}
    ORDER BY m.available_at, m.position
) AS w {SEEK};",
        marked = marked("m", "@P4"),
        waiting = reading.with(&[&format!("INDEX({message_due})")]),
    )
}

/// The committed read, without content. `@P1`: ranges; `@P2`: partitions, as marks; `@P3`: most rows; `@P4`: witnesses.
///
/// Gives the ready rows with the sizes of their payloads, twice if need be; then which of the witnesses have a row. They
/// come last: where a row was seen, the witness of its transaction has to be there.
fn read(names: &Names, reading: Reading) -> String {
    let message = &names.message;
    let seek = reading.with(&["FORCESEEK"]);
    let rows = format!(
        "SELECT TOP (@P3) m.position, m.partition, m.writer, DATALENGTH(m.payload)
FROM {RANGES} INNER JOIN {message} AS m{seek} ON m.position BETWEEN r.low AND r.high
WHERE m.available_at IS NULL AND {marked}
ORDER BY m.position {SEEK}",
        marked = marked("m", "@P2"),
    );
    format!(
        "{rows}
SELECT m.position FROM {witnesses} INNER JOIN {message} AS m{seek} ON m.position = s.position {SEEK};",
        rows = reading.repeated(&rows),
        witnesses = positions("@P4"),
    )
}

/// Due rows without content, the longest due first. `@P1`: partitions, each with the position up to which its ready rows
/// were read; `@P2`: most rows of each. Then the next time of each that is to come.
///
/// Within a key the order by time is the order by position, because settling keeps it so.
fn due(names: &Names, reading: Reading) -> String {
    let Names { message, message_due, .. } = names;
    let rows = format!(
        "SELECT w.position, w.partition, w.key_hash, w.available_at, DATALENGTH(m.payload)
FROM OPENJSON(@P1) WITH (partition smallint '$[0]', upto bigint '$[1]') AS o
CROSS APPLY (
    SELECT TOP (@P2) m.position, m.partition, m.key_hash, m.available_at FROM {message} AS m{indexed}
    WHERE m.partition = o.partition AND m.available_at IS NOT NULL AND m.available_at <= @now
        AND m.position <= o.upto
    ORDER BY m.available_at, m.position
) AS w
INNER JOIN {message} AS m{seek} ON m.position = w.position {SEEK}",
        indexed = reading.with(&[&format!("INDEX({message_due})")]),
        seek = reading.with(&["FORCESEEK"]),
    );
    format!(
        "{DECLARE_NOW}
{rows}
SELECT w.available_at
FROM OPENJSON(@P1) WITH (partition smallint '$[0]') AS o
CROSS APPLY (
    SELECT TOP (1) m.available_at FROM {message} AS m{indexed}
    WHERE m.partition = o.partition AND m.available_at IS NOT NULL AND m.available_at > @now
        AND m.available_at < {NEVER}
    ORDER BY m.available_at, m.position
) AS w {SEEK};",
        rows = reading.repeated(&rows),
        indexed = reading.with(&[&format!("INDEX({message_due})")]),
    )
}

/// `@P1`: positions. Rows with their content, and whether something in front of them blocks their key.
///
/// Where nothing at all blocks, that is found out once. It is read without passing by locked rows: only relays write
/// blocking ones, and one that was overlooked would let others overtake it.
fn fetch(names: &Names, reading: Reading) -> String {
    let Names { message, dead_letter, message_blocking, dead_letter_blocking, .. } = names;
    format!(
        "{DECLARE_NOW}
DECLARE @any int = CASE
    WHEN EXISTS (SELECT 1 FROM {message} AS b WITH (INDEX({message_blocking})) WHERE b.blocks_key = 1) THEN 1
    WHEN EXISTS (SELECT 1 FROM {dead_letter} AS b WITH (INDEX({dead_letter_blocking})) WHERE b.blocks_key = 1) THEN 1
    ELSE 0 END;
SELECT m.position, m.partition, m.attempts, m.enqueued_at, m.available_at, m.blocks_key,
    CASE WHEN @any = 1 AND m.key_hash IS NOT NULL AND {blocked} THEN 1 ELSE 0 END,
    m.message_id, m.topic, m.[key], m.payload, m.content_type, m.headers, m.options
FROM {positions} INNER JOIN {message} AS m{seek} ON m.position = s.position
WHERE m.available_at IS NULL OR m.available_at <= @now {SEEK};",
        blocked = super::keys::blocked_by_earlier(names, "m"),
        positions = positions("@P1"),
        seek = reading.with(&["FORCESEEK"]),
    )
}
