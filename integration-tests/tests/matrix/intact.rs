//! Messages arrive unchanged.

use outbox_core::{Message, RetryPolicy, TRACEPARENT, TRACESTATE};

use crate::pair::Pair;

/// Maximum size of the content other than the payload, and of the overhead of encodings.
const ROOM: usize = 4 << 10;

/// Payloads arrive byte for byte, from empty ones to the largest that the broker accepts.
pub(crate) async fn large_and_binary_payloads(pair: &Pair) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let most = pair.broker.oversized_payload().expect("every broker has a limit") - ROOM;
    // Some of them send binary data as base64.
    let most_binary = most / 4 * 3;
    let mut random = |size: usize| std::iter::repeat_with(|| dice.u8(..)).take(size).collect::<Vec<u8>>();
    let mut payloads = vec![
        (0..=u8::MAX).collect(),
        vec![0],
        b"\xff\xfe\x00\xc3\x28".to_vec(),
        "\u{7f}\u{80}\u{ffff}\r\n\t\\\"' \u{1f511}".as_bytes().to_vec(),
        b"{\"json\": \"\\u0000\"}  ".to_vec(),
        b" ".to_vec(),
        random(1_000),
        random(most_binary),
        vec![b'x'; most],
        // Not UTF-8, so that it is sent as base64 if anything is.
        vec![0xff; most_binary],
    ];
    if pair.traits().empty_payload {
        payloads.push(Vec::new());
    }
    let relay = pair.relay(RetryPolicy::default()).await;
    let mut expected = Vec::new();
    for (number, payload) in payloads.into_iter().enumerate() {
        let message = pair.message(payload).key(format!("key {}", number % 3)).build().unwrap();
        pair.commit(std::slice::from_ref(&message)).await;
        expected.push(message);
    }
    pair.exactly_and_intact(&expected).await;
    pair.wait_for_counts(0, 0).await;
    relay.shutdown().await.unwrap();
}

/// Keys in all scripts arrive unchanged, and similar keys are not equal.
pub(crate) async fn unicode_keys(pair: &Pair) {
    let long = "ключ".repeat(30);
    let keys = [
        "ключ",
        "鍵",
        "🔑",
        "é",
        "e\u{301}",
        "Key",
        "key",
        "key ",
        " key",
        "ß",
        "ss",
        "ﬁ",
        "مفتاح",
        "a\tb",
        "a\nb",
        "'; --",
        "\"quoted\"",
        "back\\slash",
        "%_*",
        "\u{feff}bom",
        "\u{202e}rtl",
        &long,
    ];
    let relay = pair.relay(RetryPolicy::default()).await;
    let mut expected = Vec::new();
    for round in 0..3 {
        let message = |key: &&str| pair.message(format!("{round} {key}")).key(*key).build().unwrap();
        let messages: Vec<Message> = keys.iter().map(message).collect();
        pair.commit(&messages).await;
        expected.extend(messages);
    }
    let received = pair.exactly_and_intact(&expected).await;
    for key in keys {
        let of = |round| format!("{round} {key}").into_bytes();
        let rounds: Vec<_> = (0..3)
            .map(|round| received.iter().position(|one| one.payload.as_ref() == of(round)).unwrap())
            .collect();
        assert!(rounds.is_sorted(), "the messages of {key:?} arrived in the order {rounds:?}");
    }
    pair.wait_for_counts(0, 0).await;
    relay.shutdown().await.unwrap();
}

/// Headers, content type and the effects of the options arrive at the consumer.
pub(crate) async fn headers_and_options(pair: &Pair) {
    let traits = pair.traits();
    let few = |builder: outbox_core::MessageBuilder| {
        builder
            .content_type("application/vnd.shop+json; charset=utf-8")
            .header("tenant", "acme")
            .header(TRACEPARENT, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .header(TRACESTATE, "vendor=1,other=x:y")
            .header("Grüße", "Ünïcode ✓ 鍵")
    };
    let many =
        (0..traits.headers.min(30)).map(|number| (format!("header-{number}"), format!("value {number}")));
    let mut expected = vec![
        pair.message("bare").build().unwrap(),
        few(pair.message("few")).key("k").build().unwrap(),
        pair.message("many").key("k").headers(many).build().unwrap(),
        pair.message("spaces")
            .key("k")
            .header("spaces", "  a  b  ")
            .header("quotes", "\"'\\")
            .build()
            .unwrap(),
        pair.message("long").key("k").header("long", "v".repeat(900)).build().unwrap(),
        // Options for other publishers are ignored.
        pair.message("others")
            .raw_options(outbox_core::Options::from_json(
                [("other".to_owned(), "anything".into())].into_iter().collect(),
            ))
            .build()
            .unwrap(),
    ];
    let (options, visible) = pair.broker.visible_options().expect("consumers see something of all options");
    let with_options = few(pair.message("options").key("with options")).raw_options(options).build().unwrap();
    expected.push(with_options.clone());

    let relay = pair.relay(RetryPolicy::default()).await;
    pair.commit(&expected).await;
    let received = pair.exactly_and_intact(&expected).await;
    let arrived = received.iter().find(|one| one.id == Some(with_options.id())).unwrap();
    for (name, value) in &visible {
        assert_eq!(arrived.options.get(name), Some(value), "{name}, of {:?}", arrived.options);
    }
    pair.wait_for_counts(0, 0).await;
    relay.shutdown().await.unwrap();
}
