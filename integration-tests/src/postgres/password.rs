//! A role that needs a password, on a server where no other role does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use url::Url;

use crate::eventually::poll_until;
use crate::names;

/// How long the server may take to read its own file again.
const RELOADED: Duration = Duration::from_secs(120);

/// Creates a role with all privileges and a password, which the server requires (by SCRAM) for any
/// connection. Returns the role's name.
pub(super) async fn demand(url: &Url, password: &str) -> Result<String> {
    ensure!(password.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "no plain password");
    let role = names::fresh();
    let mut admin = PgConnection::connect(url.as_str()).await?;
    let file: String = sqlx::query_scalar("SHOW hba_file").fetch_one(&mut admin).await?;
    // The first matching line decides. The server writes the file itself, because it may be in a container.
    for statement in [
        "SET password_encryption = 'scram-sha-256'".to_owned(),
        format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{password}'"),
        format!(
            "COPY (VALUES ('host all {role} all scram-sha-256'), ('local all all trust'), ('host all all all trust')) \
             TO '{file}'"
        ),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await?;
    }
    admin.close().await?;

    let mut nobody = url.clone();
    nobody.set_username(&role).ok().context("the URL has no user")?;
    let asked = poll_until(RELOADED, || async { PgConnection::connect(nobody.as_str()).await.err() }).await;
    asked.context("the server does not ask for the password")?;
    Ok(role)
}
