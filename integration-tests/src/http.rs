//! A small HTTP client for RabbitMQ's management interface and the SQS emulator.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

/// The management interface answers in milliseconds, unless the node is stopped.
const TIMEOUT: Duration = Duration::from_secs(120);

/// An HTTP server with a user and a password.
#[derive(Clone)]
pub(crate) struct Client {
    url: Url,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(url: &Url) -> Result<Self> {
        ensure!(url.scheme() == "http", "this client supports only plain http, not {}", url.scheme());
        ensure!(url.host_str().is_some(), "the URL has no host");
        Ok(Self { url: url.clone() })
    }

    #[cfg(all(test, feature = "rabbitmq"))]
    pub(crate) fn url(&self) -> String {
        self.url.to_string()
    }

    /// Returns the body of the response to a request. `json` is the body of the request.
    ///
    /// # Errors
    /// If there is no response, or it does not report success.
    pub(crate) async fn request(&self, method: &str, path: &str, json: Option<&str>) -> Result<String> {
        tokio::time::timeout(TIMEOUT, self.exchange(method, path, json))
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {TIMEOUT:?}")))
            .with_context(|| format!("{method} {path}"))
    }

    async fn exchange(&self, method: &str, path: &str, json: Option<&str>) -> Result<String> {
        let body = json.unwrap_or("");
        let host = self.url.host_str().context("the URL has no host")?;
        let port = self.url.port_or_known_default().unwrap_or(80);
        let credentials = format!("{}:{}", self.url.username(), self.url.password().unwrap_or(""));
        let authorization = BASE64_STANDARD.encode(credentials);
        // In version 1.0 the response ends with the connection, and is not chunked.
        let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
        write!(request, "Authorization: Basic {authorization}\r\nContent-Type: application/json\r\n")?;
        write!(request, "Content-Length: {}\r\n\r\n{body}", body.len())?;

        let mut stream = TcpStream::connect((host, port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        let status = head.split_whitespace().nth(1).context("the answer has no status")?;
        ensure!(status.starts_with('2'), "status {status}: {body}");
        Ok(body.to_owned())
    }
}
