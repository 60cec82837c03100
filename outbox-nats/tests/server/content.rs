//! Messages that NATS cannot carry as they are.

use integration_tests::nats::StreamConfig;
use outbox_core::{Message, Publisher};

use crate::reading::read;
use crate::support::{confirmed, publisher, stream_with};

#[tokio::test]
async fn keys_and_headers_of_any_kind_arrive_as_they_are() {
    let Some((nats, stream)) = stream_with(StreamConfig::default()).await else { return };
    let publisher = publisher(nats.url());
    let message = || Message::bytes(stream.name(), "x");
    let mut messages = Vec::new();
    for key in
        ["ключ", "e\u{301}", "key ", " key", "a\tb", "a\nb", "\u{feff}bom", "\u{202e}rtl", "%_*", "a: b", ""]
    {
        messages.push(message().key(key).content_type("text/plain").build().unwrap());
    }
    for (name, value) in [
        ("Grüße", "Ünïcode ✓ 鍵"),
        ("spaces", "  a  b  "),
        ("lines", "a\r\nNats-Rollup: all"),
        ("Nats-Rollup", "all"),
        ("outbox-key", "another"),
        ("content-type", "another"),
        ("a:b", "c"),
        ("empty", ""),
    ] {
        messages.push(message().key("k").header(name, value).header("tenant", "acme").build().unwrap());
    }
    publisher.publish(&messages).await.iter().for_each(confirmed);
    // No header has commanded the server to delete a message.
    let stored = stream.messages().await;
    assert_eq!(stored.len(), messages.len());
    for message in &messages {
        let arrived = stored.iter().map(read).find(|one| one.id == Some(message.id())).unwrap();
        assert_eq!(arrived.key.as_deref(), message.key());
        assert_eq!(arrived.topic.as_deref(), Some(message.topic()));
        assert_eq!(arrived.content_type.as_deref(), message.content_type());
        assert_eq!(&arrived.headers, message.headers());
    }
}
