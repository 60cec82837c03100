//! Looking at an outbox: for people, not for the relay.

use async_trait::async_trait;
use outbox_core::{ErrorKind, Finding, Group, Inspection, Position, RelayId, Result, Timestamp, Waiting};
use outbox_sql::row::attempts;
use tiberius::{Row, ToSql};

use crate::call::{again, query};
use crate::row::{Columns, unexpected};
use crate::sql::inspecting as sql;
use crate::store::{Checked, MssqlStore, number};

/// The column with which the parts of a message begin.
const CONTENT: usize = 7;
/// A transaction as old as this keeps old versions of rows, and late rows possible.
const LONG: i64 = 300;
/// How many indexes the tables are made with: message, dead letter.
const INDEXES: [i64; 2] = [3, 2];

#[async_trait]
impl Inspection for MssqlStore {
    async fn group(&self) -> Result<Option<Group>> {
        let Checked { sql, .. } = self.checked().await?;
        let [relays, owners] = self.look(&sql.group, &[]).await?;
        let relay = |row: &Row| Columns(row).uuid(0).transpose().map(|id| id.map(RelayId));
        let owner = |row: &Row| Ok((Columns(row).partition(0)?, Columns(row).uuid(1)?.map(RelayId)));
        Ok(Some(Group::new(
            relays.iter().filter_map(relay).collect::<Result<_>>()?,
            owners.iter().map(owner).collect::<Result<_>>()?,
        )))
    }

    async fn peek(&self, after: Option<Position>, limit: usize) -> Result<Option<Vec<Waiting>>> {
        let Checked { reads, .. } = self.checked().await?;
        let after = after.map_or(i64::MIN, |after| after.0);
        let [rows] = self.look(&reads.peek, &[&after, &number(limit)]).await?;
        rows.iter().map(describe).collect::<Result<_>>().map(Some)
    }

    async fn clock(&self) -> Result<Option<Timestamp>> {
        let [rows] = self.look(sql::CLOCK, &[]).await?;
        rows.first().map_or(Ok(None), |row| Columns(row).timestamp(0))
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let Checked { facts, .. } = self.checked().await?;
        if facts.is_babelfish {
            // It answers what PostgreSQL can, and not what is asked for here.
            return Ok(vec![Finding::unknown(
                "server",
                "Babelfish, of which only PostgreSQL could tell more",
            )]);
        }
        let mut findings = self.database().await?;
        findings.push(self.rights().await?);
        findings.push(self.indexes().await?);
        findings.push(self.transactions().await?);
        Ok(findings)
    }
}

impl MssqlStore {
    /// Runs a statement that only reads, and gives its first results.
    async fn look<const N: usize>(
        &self,
        statement: &str,
        parameters: &[&dyn ToSql],
    ) -> Result<[Vec<Row>; N]> {
        let Checked { pool, .. } = self.checked().await?;
        again(|| async move {
            let mut client = pool.call().await?;
            let mut results = query(&mut client, statement, parameters).await?;
            let rows = std::array::from_fn(|_| results.rows());
            client.give_back();
            Ok(rows)
        })
        .await
    }

    /// The number in the first column of the only row; `None` if it is null.
    async fn look_for_number(&self, statement: &str, parameters: &[&dyn ToSql]) -> Result<Option<i64>> {
        let [rows] = self.look(statement, parameters).await?;
        rows.first().map_or(Ok(None), |row| Columns(row).number(0))
    }

    async fn database(&self) -> Result<Vec<Finding>> {
        let [rows] = self.look(sql::DATABASE, &[]).await?;
        let Some(row) = rows.first().map(Columns) else {
            return Ok(vec![Finding::unknown("server", "the database does not say what it is")]);
        };
        let name = row.text(0)?.unwrap_or_default();
        let mut findings = vec![if row.boolean(1)? {
            Finding::good("server", format!("database {name}, which can be written to"))
        } else {
            let advice = "connect to the primary: a relay writes, and this is read-only";
            Finding::problem("server", format!("database {name}, read-only"), advice)
        }];
        findings.push(if row.boolean(2)? {
            Finding::good("isolation level", "the database keeps versions of rows: nobody waits for readers")
        } else {
            let advice = "set READ_COMMITTED_SNAPSHOT ON for the database, so that relays need not read everything \
                          twice";
            Finding::warning("isolation level", "the database keeps no versions of rows", advice)
        });
        findings.push(if row.required(3)? == 0 {
            Finding::good("durability", "every commit is on the disk before it returns")
        } else {
            let advice = "set DELAYED_DURABILITY = DISABLED, unless messages that vanish with a power loss are \
                          acceptable";
            Finding::warning("durability", "commits may return before they are on the disk", advice)
        });
        Ok(findings)
    }

    async fn rights(&self) -> Result<Finding> {
        let names = &self.checked().await?.shared.names;
        let mut lacking = Vec::new();
        for table in [&names.message, &names.dead_letter, &names.delivered, &names.lease, &names.relay] {
            if self.look_for_number(sql::RIGHTS, &[table]).await? != Some(1) {
                lacking.push(table.as_str());
            }
        }
        Ok(if lacking.is_empty() {
            Finding::good("rights", "this user may do everything that a relay does")
        } else {
            let advice = "grant SELECT, INSERT, UPDATE and DELETE on these tables to the relay's user";
            Finding::problem("rights", format!("this user lacks rights on {}", lacking.join(", ")), advice)
        })
    }

    async fn indexes(&self) -> Result<Finding> {
        let names = &self.checked().await?.shared.names;
        let mut wrong = Vec::new();
        for (table, expected) in [&names.message, &names.dead_letter].into_iter().zip(INDEXES) {
            let there = self.look_for_number(sql::INDEXES, &[table]).await?.unwrap_or(0);
            if there < expected {
                wrong.push(format!("{table} has {there} of {expected}"));
            }
        }
        Ok(if wrong.is_empty() {
            Finding::good("indexes", "all there and enabled")
        } else {
            let advice =
                "make those again that `outbox migrate --print` shows and that are missing or disabled";
            Finding::problem("indexes", wrong.join("; "), advice)
        })
    }

    async fn transactions(&self) -> Result<Finding> {
        let age = match self.look_for_number(sql::TRANSACTIONS, &[]).await {
            Ok(age) => age,
            Err(error) if error.kind() == ErrorKind::Permission => {
                let seen = "they cannot be seen without the right VIEW SERVER STATE";
                return Ok(Finding::unknown("transactions", seen));
            }
            Err(error) => return Err(error),
        };
        let seen = age.map_or("none is open".to_owned(), |age| format!("the oldest open one is {age} s old"));
        Ok(if age.unwrap_or(0) < LONG {
            Finding::good("transactions", seen)
        } else {
            let advice =
                "end it: it keeps old versions of rows, and messages it enqueued wait for its commit";
            Finding::warning("transactions", seen, advice)
        })
    }
}

fn describe(row: &Row) -> Result<Waiting> {
    let row = Columns(row);
    let enqueued_at = row.timestamp(5)?.ok_or_else(|| unexpected(5))?;
    let mut waiting = Waiting::new(Position(row.required(0)?), row.partition(1)?, enqueued_at);
    waiting.attempts = attempts(row.required(2)?);
    waiting.blocks_key = row.boolean(3)?;
    waiting.error = row.text(4)?.map(str::to_owned);
    waiting.available_at = row.timestamp(6)?;
    Ok(waiting.with(row.content(CONTENT, None)?))
}
