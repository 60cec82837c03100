//! PostgreSQL through tokio-postgres.

use std::time::Instant;

use anyhow::Result;
use async_trait::async_trait;
use deadpool_postgres::{Manager, Pool, Transaction};
use outbox_core::Message;
use outbox_tokio_postgres::{Config, Outbox};
use tokio_postgres::NoTls;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{Write, Writer};

const BUSINESS: &str = "INSERT INTO business (body) VALUES ($1)";
const BARE: &str = "INSERT INTO plain (message_id, topic, key, payload) VALUES ($1, $2, $3, $4)";
const BARE_BATCH: &str = "INSERT INTO plain (message_id, topic, key, payload) \
                          SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[])";

/// A service with tokio-postgres and a pool.
#[derive(Debug)]
pub struct TokioPostgres {
    pool: Pool,
    outbox: Outbox,
    prepared: bool,
}

impl TokioPostgres {
    /// A service with this number of connections, with or without prepared statements. The bare insert and
    /// the outbox insert are sent in the same way.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn new(url: &str, connections: usize, prepared: bool) -> Result<Self> {
        let pool = Pool::builder(Manager::new(url.parse()?, NoTls)).max_size(connections).build()?;
        Ok(Self { pool, outbox: Outbox::new(Config::new())?, prepared })
    }

    async fn execute(
        &self,
        transaction: &Transaction<'_>,
        sql: &str,
        values: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<()> {
        if self.prepared {
            let statement = transaction.prepare_cached(sql).await?;
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|(value, _)| *value).collect();
            transaction.execute(&statement, &values).await?;
        } else {
            transaction.execute_typed(sql, values).await?;
        }
        Ok(())
    }

    async fn write(&self, transaction: &Transaction<'_>, write: &Write<'_>) -> Result<()> {
        match write {
            Write::Business(body) => self.execute(transaction, BUSINESS, &[(body, Type::BYTEA)]).await,
            Write::Bare([message]) => {
                let id = message.id();
                let values: [(&(dyn ToSql + Sync), Type); 4] = [
                    (id.as_uuid(), Type::UUID),
                    (&message.topic(), Type::TEXT),
                    (&message.key(), Type::TEXT),
                    (&&message.payload()[..], Type::BYTEA),
                ];
                self.execute(transaction, BARE, &values).await
            }
            Write::Bare(messages) => {
                let ids: Vec<Uuid> = messages.iter().map(|message| *message.id().as_uuid()).collect();
                let topics: Vec<&str> = messages.iter().map(Message::topic).collect();
                let keys: Vec<Option<&str>> = messages.iter().map(Message::key).collect();
                let payloads: Vec<&[u8]> = messages.iter().map(|message| &message.payload()[..]).collect();
                let values: [(&(dyn ToSql + Sync), Type); 4] = [
                    (&ids, Type::UUID_ARRAY),
                    (&topics, Type::TEXT_ARRAY),
                    (&keys, Type::TEXT_ARRAY),
                    (&payloads, Type::BYTEA_ARRAY),
                ];
                self.execute(transaction, BARE_BATCH, &values).await
            }
            Write::Enqueue(messages) if self.prepared => self.enqueue_prepared(transaction, messages).await,
            Write::Enqueue([message]) => Ok(self.outbox.enqueue(&**transaction, message).await?),
            Write::Enqueue(messages) => Ok(self.outbox.enqueue_batch(&**transaction, messages).await?),
        }
    }

    async fn enqueue_prepared(&self, transaction: &Transaction<'_>, messages: &[Message]) -> Result<()> {
        if let [message] = messages {
            let statement = transaction.prepare_cached(self.outbox.insert_sql()).await?;
            self.outbox.enqueue_prepared(&**transaction, &statement, message).await?;
        } else {
            let statement = transaction.prepare_cached(self.outbox.insert_batch_sql()).await?;
            self.outbox.enqueue_batch_prepared(&**transaction, &statement, messages).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Writer for TokioPostgres {
    async fn commit(&self, writes: &[Write<'_>]) -> Result<Instant> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        for write in writes {
            self.write(&transaction, write).await?;
        }
        let committing = Instant::now();
        transaction.commit().await?;
        Ok(committing)
    }
}
