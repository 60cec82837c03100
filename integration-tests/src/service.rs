//! The services that the harness knows, and how each is had.

use std::fmt;

/// A service the harness knows how to provide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Service {
    /// PostgreSQL, as the system has it.
    Postgres,
    /// PostgreSQL of a newer major version than the system's.
    PostgresNext,
    /// MariaDB.
    MariaDb,
    /// MySQL, the original.
    MySql,
    /// Microsoft SQL Server.
    SqlServer,
    /// RabbitMQ with its management plugin.
    RabbitMq,
    /// Google's own fake of Pub/Sub.
    PubSub,
    /// Something that behaves as Amazon SQS does.
    Sqs,
    /// NATS with JetStream.
    Nats,
}

impl Service {
    /// Every service, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Postgres,
        Self::PostgresNext,
        Self::MariaDb,
        Self::MySql,
        Self::SqlServer,
        Self::RabbitMq,
        Self::PubSub,
        Self::Sqs,
        Self::Nats,
    ];

    /// The name in `OUTBOX_TEST_REQUIRE`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::PostgresNext => "postgres-next",
            Self::MariaDb => "mariadb",
            Self::MySql => "mysql",
            Self::SqlServer => "sqlserver",
            Self::RabbitMq => "rabbitmq",
            Self::PubSub => "pubsub",
            Self::Sqs => "sqs",
            Self::Nats => "nats",
        }
    }

    /// The variable that holds the URL of a server to use.
    pub const fn url_variable(self) -> &'static str {
        match self {
            Self::Postgres => "OUTBOX_TEST_POSTGRES_URL",
            Self::PostgresNext => "OUTBOX_TEST_POSTGRES_NEXT_URL",
            Self::MariaDb => "OUTBOX_TEST_MARIADB_URL",
            Self::MySql => "OUTBOX_TEST_MYSQL_URL",
            Self::SqlServer => "OUTBOX_TEST_MSSQL_URL",
            Self::RabbitMq => "OUTBOX_TEST_RABBITMQ_URL",
            Self::PubSub => "OUTBOX_TEST_PUBSUB_URL",
            Self::Sqs => "OUTBOX_TEST_SQS_URL",
            Self::Nats => "OUTBOX_TEST_NATS_URL",
        }
    }

    /// Whether the harness can start it without containers. Of the others there is no server that could be
    /// installed on every machine, so `all` demands them only where they are within reach.
    pub(crate) const fn is_local(self) -> bool {
        !matches!(self, Self::SqlServer)
    }

    /// What to do to have the server.
    pub(crate) fn remedy(self) -> String {
        let variable = self.url_variable();
        let installed =
            |package| format!("run scripts/test, which installs it; or `apt-get install {package}`");
        let first = match self {
            Self::Postgres => installed("postgresql"),
            Self::MariaDb => installed("mariadb-server"),
            Self::RabbitMq => installed("rabbitmq-server"),
            Self::PostgresNext | Self::MySql | Self::Sqs | Self::Nats => {
                "run scripts/test, which downloads it".to_owned()
            }
            Self::PubSub => {
                return "run scripts/test, which downloads and builds it; or scripts/container-images pubsub"
                    .to_owned();
            }
            Self::SqlServer => {
                return format!(
                    "start Docker and set OUTBOX_TEST_MSSQL_ACCEPT_EULA=Y if you accept Microsoft's terms; \
                     or set {variable} to a server of yours"
                );
            }
        };
        format!("{first}; or start Docker; or set {variable} to a server of yours")
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::PostgresNext => "a newer PostgreSQL",
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
            Self::SqlServer => "SQL Server",
            Self::RabbitMq => "RabbitMQ",
            Self::PubSub => "Pub/Sub",
            Self::Sqs => "a server of the SQS protocol",
            Self::Nats => "NATS",
        })
    }
}
