//! A server that speaks as much of the protocol as a client needs to connect, for what no real server of the tests does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use outbox_core::{ErrorKind, Scope, Verdict};
use outbox_nats::NatsOptions;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::{assert_error, builder, message_with, publish_one};

/// What the server says of itself.
pub(crate) struct Info {
    pub(crate) version: &'static str,
}

impl Default for Info {
    fn default() -> Self {
        Self { version: "2.15.0" }
    }
}

pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(info: Info) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&lines);
                let hello = serde_json::json!({
                    "server_id": "fake", "version": info.version, "max_payload": 1 << 20, "headers": true, "jetstream": true,
                });
                tokio::spawn(async move {
                    let (reader, mut writer) = stream.into_split();
                    writer.write_all(format!("INFO {hello}\r\n").as_bytes()).await?;
                    let mut lines = BufReader::new(reader).lines();
                    while let Some(line) = lines.next_line().await? {
                        if line == "PING" {
                            writer.write_all(b"PONG\r\n").await?;
                        }
                        seen.lock().unwrap().push(line);
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The lines that clients have sent.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_ttl_is_refused_if_the_server_would_ignore_it() {
    for version in ["2.10.27", "2.9.10", "1.4.1"] {
        let server = Server::start(Info { version }).await;
        let publisher = builder(&format!("nats://{}", server.address())).build().unwrap();
        let outcome =
            publish_one(&publisher, message_with("orders", &NatsOptions::new().ttl_seconds(60))).await;
        let error =
            assert_error(&outcome, (ErrorKind::Rejected, Verdict::Retry, Scope::Message), "update it");
        assert!(error.to_string().contains(version), "{error}");
        let sent = server.seen();
        assert!(!sent.iter().any(|line| line.contains("PUB")), "{sent:?}");
    }
}
