//! Connecting with a URL.

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;
use tiberius::{AuthMethod, Config, EncryptionLevel};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};
use url::Url;

/// A connection to SQL Server.
pub type Client = tiberius::Client<Compat<TcpStream>>;

/// The driver's settings for the server and the database in the URL.
pub(super) fn config(url: &Url) -> Result<Config> {
    let decoded = |text| percent_decode_str(text).decode_utf8().map(String::from);
    let mut config = Config::new();
    config.host(url.host_str().context("the URL has no host")?);
    config.port(url.port().unwrap_or(super::PORT));
    let user = decoded(url.username()).context("the user's name in the URL is not UTF-8")?;
    let password = url.password().context("the URL has no password")?;
    let password = decoded(password).context("the password in the URL is not UTF-8")?;
    config.authentication(AuthMethod::sql_server(user, password));
    match url.path().trim_matches('/') {
        "" => config.database("master"),
        database => config.database(database),
    }
    for (name, value) in url.query_pairs() {
        match (&*name, &*value) {
            ("trust_server_certificate", "true") => config.trust_cert(),
            ("trust_server_certificate", "false") => {}
            ("encrypt", "true") => config.encryption(EncryptionLevel::Required),
            ("encrypt", "false") => config.encryption(EncryptionLevel::Off),
            ("encrypt", "strict") => config.encryption(EncryptionLevel::Strict),
            ("encrypt", "DANGER_PLAINTEXT") => config.encryption(EncryptionLevel::NotSupported),
            _ => bail!("{name}={value} in the URL is not known"),
        }
    }
    Ok(config)
}

pub(super) async fn connect(url: &Url) -> Result<Client> {
    let config = config(url)?;
    let stream = TcpStream::connect(config.get_addr()).await?;
    stream.set_nodelay(true)?;
    // A login is a future of many kilobytes.
    Ok(Box::pin(Client::connect(config, stream.compat_write())).await?)
}

/// Runs a batch on a new connection.
pub(super) async fn run(url: &Url, batch: &str) -> Result<()> {
    let mut client = connect(url).await?;
    client.simple_query(batch).await?.into_results().await?;
    client.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<String> {
        // The driver shows its settings, except for the password.
        Ok(format!("{:?}", config(&Url::parse(url)?)?))
    }

    #[test]
    fn everything_in_a_url_is_understood() {
        let plain = parse("mssql://sa:secret@db.example:1500").unwrap();
        for part in ["\"db.example\"", "1500", "\"master\"", "Required", "\"sa\""] {
            assert!(plain.contains(part), "{part} is missing in {plain}");
        }
        assert!(!plain.contains("secret"), "{plain}");
        let url = "mssql://me%40home:p%2Fw%25@db.example/things?encrypt=false&trust_server_certificate=true";
        let other = parse(url).unwrap();
        for part in ["1433", "\"things\"", "Off", "\"me@home\""] {
            assert!(other.contains(part), "{part} is missing in {other}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let refusal = |url| format!("{:#}", parse(url).unwrap_err());
        assert!(refusal("mssql://sa@db.example").contains("no password"));
        assert!(refusal("mssql://sa:s@db.example?encrypt=maybe").contains("encrypt=maybe"));
        assert!(refusal("mssql://sa:s@db.example?encryption=true").contains("encryption=true"));
    }
}
