//! Every ready row once, at whatever time it was committed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use outbox_core::{FetchLimit, Fetched, Message, Partition, Reader, Store as _};
use tokio::sync::Mutex;

use super::scene::{
    Deadline, EVERYTHING, Scene, check_order, delivered, enqueue, keyed, name, names,
    needs_concurrent_writers, sorted_names, unkeyed,
};
use crate::case::{CaseResult, Stop, ensure, ensure_eq};
use crate::store_harness::StoreFixture;

/// `count` messages over `keys` keys, with payloads that sort in order.
fn numbered(count: usize, keys: usize) -> outbox_core::Result<Vec<Message>> {
    (0..count).map(|i| keyed(&format!("k{}", i % keys), &format!("{i:05}"))).collect()
}

fn expected(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{i:05}")).collect()
}

pub(crate) async fn each_ready_row_comes_once(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&numbered(300, 20)?).await?;
    let deadline = scene.deadline();
    let mut rows = Vec::new();
    while rows.len() < 300 {
        let batch = scene.fetch_at_most(FetchLimit { messages: 37, bytes: 1 << 20 }).await?;
        if batch.rows.is_empty() {
            deadline.pause(fixture, || format!("300 rows, of which {} were returned", rows.len())).await?;
        }
        rows.extend(batch.rows);
    }
    ensure_eq!(sorted_names(&rows), expected(300), "rows");
    ensure!(rows.iter().all(|row| !row.due && !row.blocked), "a fresh row is reported as due or blocked");
    scene.expect_nothing().await?;
    scene.enqueue(&[unkeyed("one more")?]).await?;
    scene.expect_names(&["one more"]).await?;
    scene.expect_nothing().await
}

pub(crate) async fn rows_of_a_key_come_in_position_order(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    for chunk in numbered(300, 7)?.chunks(11) {
        scene.enqueue(chunk).await?;
    }
    for limit in [10, 1, 50] {
        let mut reader = scene.store.reader();
        for partition in &scene.partitions {
            reader.assign(*partition);
        }
        let deadline = scene.deadline();
        let mut rows = Vec::new();
        while rows.len() < 300 {
            let batch = reader.fetch(FetchLimit { messages: limit, bytes: 1 << 20 }, &[]).await?;
            if batch.rows.is_empty() {
                deadline
                    .pause(fixture, || format!("300 rows, of which {} were returned", rows.len()))
                    .await?;
            }
            rows.extend(batch.rows);
        }
        check_order(&rows)?;
        ensure_eq!(sorted_names(&rows), expected(300), "rows");
    }
    Ok(())
}

pub(crate) async fn late_commits_are_delivered(fixture: &dyn StoreFixture) -> CaseResult {
    needs_concurrent_writers(fixture)?;
    let mut scene = Scene::new(fixture).await?;
    for round in 0..5 {
        let mut late = fixture.begin().await?;
        late.enqueue(&numbered(20, 20)?).await?;
        let on_time: outbox_core::Result<Vec<_>> =
            (0..40).map(|i| keyed(&format!("k{i}"), "on time")).collect();
        scene.enqueue(&on_time?).await?;
        let rows = scene.expect(40).await?;
        // Whether or not the higher rows still exist when the lower ones appear.
        if round % 2 == 0 {
            scene.deliver(&rows).await?;
        }
        late.commit().await?;
        let rows = scene.expect(20).await?;
        ensure_eq!(sorted_names(&rows), expected(20), "rows that were committed late");
        scene.deliver(&rows).await?;
        scene.expect_nothing().await?;
    }
    Ok(())
}

pub(crate) async fn late_commits_come_before_later_rows_of_their_key(
    fixture: &dyn StoreFixture,
) -> CaseResult {
    needs_concurrent_writers(fixture)?;
    let mut scene = Scene::new(fixture).await?;
    for round in 0..20 {
        let key = format!("key-{round}");
        let mut late = fixture.begin().await?;
        late.enqueue(&[keyed(&key, "late")?]).await?;
        // The reader's cursor moves past the position of the late row.
        let others: outbox_core::Result<Vec<_>> =
            (0..30).map(|i| keyed(&format!("other-{i}"), "other")).collect();
        scene.enqueue(&others?).await?;
        let rows = scene.expect(30).await?;
        if round % 2 == 0 {
            scene.deliver(&rows).await?;
        }
        late.commit().await?;
        scene.enqueue_keyed(&key, &["later"]).await?;
        // With any fetch size.
        let deadline = scene.deadline();
        let mut rows = Vec::new();
        while rows.len() < 2 {
            let batch = scene.fetch_at_most(FetchLimit { messages: 1 + round % 3, bytes: 1 << 20 }).await?;
            if batch.rows.is_empty() {
                deadline
                    .pause(fixture, || format!("2 rows, of which {:?} were returned", names(&rows)))
                    .await?;
            }
            rows.extend(batch.rows);
        }
        ensure_eq!(names(&rows), ["late", "later"], "rows of a key whose first row was committed late");
        scene.deliver(&rows).await?;
    }
    Ok(())
}

pub(crate) async fn open_transactions_hold_up_nobody(fixture: &dyn StoreFixture) -> CaseResult {
    needs_concurrent_writers(fixture)?;
    let mut scene = Scene::new(fixture).await?;
    let mut open = fixture.begin().await?;
    open.enqueue(&[keyed("k0", "open")?]).await?;
    for _ in 0..20 {
        // Also its own key: the row of an open transaction is invisible.
        scene.enqueue(&numbered(10, 5)?).await?;
        let rows = scene.expect(10).await?;
        scene.deliver(&rows).await?;
        scene.store.heartbeat(scene.relay, super::scene::LONG).await?;
    }
    open.commit().await?;
    let rows = scene.expect_names(&["open"]).await?;
    scene.deliver(&rows).await?;
    scene.expect_drained().await
}

pub(crate) async fn random_interleavings_lose_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    let seed = fastrand::u64(..);
    let most_open = if fixture.traits().concurrent_writers { 5 } else { 1 };
    super::interleaving::run(fixture, seed, most_open).await.map_err(|stop| match stop {
        Stop::Failed(text) => Stop::Failed(format!("with seed {seed}: {text}")),
        stop => stop,
    })
}

pub(crate) async fn the_limit_of_messages_is_kept(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&numbered(200, 50)?).await?;
    let mut rows = Vec::new();
    for limit in [1, 40, 7, 100, 1000] {
        let batch = scene.fetch_at_most(FetchLimit { messages: limit, bytes: 1 << 20 }).await?;
        let most = limit.max(scene.partitions.len());
        ensure!(batch.rows.len() <= most, "asked for {limit} rows, got {}", batch.rows.len());
        rows.extend(batch.rows);
    }
    rows.extend(scene.expect(200 - rows.len()).await?);
    ensure_eq!(sorted_names(&rows), expected(200), "rows");
    check_order(&rows)
}

pub(crate) async fn the_limit_of_bytes_is_kept(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    const SIZE: usize = 10_000;
    let messages: outbox_core::Result<Vec<_>> =
        (0..120).map(|i| Message::bytes("t", vec![b'x'; SIZE]).key(format!("k{}", i % 30)).build()).collect();
    scene.enqueue(&messages?).await?;
    let limit = FetchLimit { messages: 1000, bytes: 15 * SIZE };
    let deadline = scene.deadline();
    let mut seen = 0;
    while seen < 120 {
        let batch = scene.fetch_at_most(limit).await?;
        // In addition to the limit, one row per partition is allowed.
        let most = 15 + scene.partitions.len();
        ensure!(
            batch.rows.len() <= most,
            "{} rows of {SIZE} bytes were returned at {limit:?}",
            batch.rows.len()
        );
        if batch.rows.is_empty() {
            deadline.pause(fixture, || format!("120 rows, of which {seen} were returned")).await?;
        }
        seen += batch.rows.len();
        scene.deliver(&batch.rows).await?;
    }
    // Rows larger than the limit are still returned, one after the other.
    scene.enqueue_keyed("k", &["a", "b", "c"]).await?;
    let mut names = Vec::new();
    while names.len() < 3 {
        let batch = scene.fetch_at_most(FetchLimit { messages: 1000, bytes: 1 }).await?;
        ensure!(batch.rows.len() <= 1, "rows of one partition were returned together at a limit of one byte");
        if batch.rows.is_empty() {
            deadline.pause(fixture, || format!("3 rows, of which {names:?} were returned")).await?;
        }
        names.extend(batch.rows.iter().map(name));
    }
    ensure_eq!(names, ["a", "b", "c"], "rows larger than the limit");
    Ok(())
}

pub(crate) async fn more_is_honest(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    ensure!(!scene.fetch().await?.more, "an empty outbox reports more rows");
    scene.enqueue(&numbered(400, 1)?).await?;
    let mut seen = 0;
    while seen < 400 {
        let batch = scene.fetch_at_most(FetchLimit { messages: 20, bytes: 1 << 20 }).await?;
        ensure!(
            !batch.rows.is_empty(),
            "{seen} of 400 committed rows were returned, and now no further row is"
        );
        seen += batch.rows.len();
        ensure!(batch.more || seen > 360, "{} rows are left, and no more are announced", 400 - seen);
        scene.deliver(&batch.rows).await?;
    }
    // A store may need one or two fetches to detect the end, and must then report it.
    let mut more = 0;
    for _ in 0..20 {
        more += usize::from(scene.fetch().await?.more);
    }
    ensure!(more <= 3, "{more} of 20 fetches of an empty outbox reported more rows");
    Ok(())
}

pub(crate) async fn dropped_fetches_lose_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::new(fixture).await?;
    let mut rows = Vec::new();
    for round in 0..10 {
        scene.enqueue(&numbered(30, 10)?).await?;
        let mut came = Vec::new();
        for _ in 0..5 {
            // Polled once, or for a random moment. A fetch that is done by then counts.
            let fetch = scene.reader.fetch(EVERYTHING, &[]);
            let done = if random.bool() {
                fetch.now_or_never()
            } else {
                let moment = Duration::from_micros(random.u64(0..1500));
                tokio::time::timeout(moment, fetch).await.ok()
            };
            came.extend(done.transpose()?.map(|batch| batch.rows).unwrap_or_default());
        }
        ensure!(came.len() <= 30, "seed {seed}, round {round}: {} of 30 rows were returned", came.len());
        came.extend(scene.expect(30 - came.len()).await?);
        check_order(&came)?;
        ensure_eq!(sorted_names(&came), expected(30), "seed {seed}, round {round}: rows");
        scene.deliver(&came).await?;
        rows.extend(came);
    }
    let positions: BTreeSet<_> = rows.iter().map(|row| row.position).collect();
    ensure_eq!(positions.len(), 300, "seed {seed}: number of different rows");
    scene.expect_drained().await
}

pub(crate) async fn broken_connections_lose_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let mut rows = Vec::new();
    for round in 0..3 {
        scene.enqueue(&numbered(100, 10)?).await?;
        let part = scene.fetch_at_most(FetchLimit { messages: 30, bytes: 1 << 20 }).await?.rows;
        let mut came = part;
        if !fixture.break_connections().await? {
            return Err(Stop::NotApplicable("the fixture cannot break connections".to_owned()));
        }
        let deadline = scene.deadline();
        while came.len() < 100 {
            match scene.reader.fetch(EVERYTHING, &[]).await {
                Ok(batch) if !batch.rows.is_empty() => came.extend(batch.rows),
                // The error itself is not a failure: the relay repeats the call.
                _ => {
                    deadline
                        .pause(fixture, || format!("100 rows, of which {} were returned", came.len()))
                        .await?
                }
            }
        }
        check_order(&came)?;
        ensure_eq!(sorted_names(&came), expected(100), "rows of round {round}");
        let batch: Vec<_> = came.iter().map(delivered).collect();
        while let Err(error) = scene.store.settle(scene.relay, &batch, false).await {
            deadline.pause(fixture, || format!("a settle call that works, after {error}")).await?;
        }
        rows.extend(came);
    }
    let positions: BTreeSet<_> = rows.iter().map(|row| row.position).collect();
    ensure_eq!(positions.len(), 300, "number of different rows");
    scene.expect_drained().await
}

pub(crate) async fn assigning_again_starts_from_the_beginning(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    let rows = scene.fetch_keyed("k", &["a", "b", "c"]).await?;
    let Some(partition) = rows.first().map(|row| row.partition) else { return Ok(()) };
    scene.deliver(&rows[1..2]).await?;
    scene.expect_nothing().await?;
    scene.reader.revoke(partition);
    scene.expect_nothing().await?;
    scene.enqueue_keyed("k", &["d"]).await?;
    scene.expect_nothing().await?;
    scene.reader.assign(partition);
    scene.expect_names(&["a", "c", "d"]).await?;
    scene.expect_nothing().await?;
    // Also without revoking it in between.
    scene.reader.assign(partition);
    scene.expect_names(&["a", "c", "d"]).await?;
    Ok(())
}

pub(crate) async fn only_assigned_partitions_are_read(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&numbered(200, 100)?).await?;
    let mut reader = scene.store.reader();
    ensure_eq!(reader.fetch(EVERYTHING, &[]).await?.rows.len(), 0, "rows without an assigned partition");
    let half = scene.partitions.len() / 2;
    let (mine, others) = scene.partitions.split_at(half.max(1));
    let (mine, others) = (mine.to_vec(), others.to_vec());
    for partition in &mine {
        reader.assign(*partition);
    }
    let first = scene.expect(200).await?;
    read_only(fixture, &mut *reader, &mine, &first).await?;
    // Partitions that are added later are read from their start, and released ones are not read.
    for partition in &mine {
        reader.revoke(*partition);
    }
    for partition in &others {
        reader.assign(*partition);
    }
    scene.enqueue(&numbered(200, 100)?).await?;
    let second = scene.expect(200).await?;
    read_only(fixture, &mut *reader, &others, &[first, second].concat()).await
}

/// Reads all of these rows in the assigned partitions, and fails if any other row is returned.
async fn read_only(
    fixture: &dyn StoreFixture,
    reader: &mut dyn Reader,
    assigned: &[Partition],
    all: &[Fetched],
) -> CaseResult {
    let expected = all.iter().filter(|row| assigned.contains(&row.partition)).count();
    let deadline = Deadline::new(fixture);
    let mut seen = 0;
    loop {
        let rows = reader.fetch(EVERYTHING, &[]).await?.rows;
        if let Some(row) = rows.iter().find(|row| !assigned.contains(&row.partition)) {
            let partition = row.partition;
            return Err(Stop::Failed(format!(
                "a row of {partition} was returned; assigned are {assigned:?}"
            )));
        }
        seen += rows.len();
        if seen >= expected && rows.is_empty() {
            ensure_eq!(seen, expected, "number of rows of {assigned:?}");
            return Ok(());
        }
        if rows.is_empty() {
            deadline.pause(fixture, || format!("{expected} rows, of which {seen} were returned")).await?;
        }
    }
}

pub(crate) async fn readers_are_independent(fixture: &dyn StoreFixture) -> CaseResult {
    let mut scene = Scene::new(fixture).await?;
    scene.enqueue(&numbered(50, 10)?).await?;
    scene.expect(50).await?;
    scene.reader = scene.store.reader();
    scene.assign_all();
    let rows = scene.expect(50).await?;
    ensure_eq!(sorted_names(&rows), expected(50), "rows of a second reader");
    Ok(())
}

pub(crate) async fn reading_and_settling_at_once_loses_nothing(fixture: &dyn StoreFixture) -> CaseResult {
    const COUNT: usize = 600;
    let mut scene = Scene::new(fixture).await?;
    let other = fixture.store().await?;
    let (relay, traits_deadline) = (scene.relay, scene.deadline());
    let fetched: Arc<Mutex<Vec<Fetched>>> = Arc::default();
    let writers = async {
        // Two writers concurrently, or one after the other if the store has one at a time.
        let [first, second] = [0, 1].map(|writer| async move {
            for chunk in 0..30 {
                let messages: outbox_core::Result<Vec<_>> = (0..COUNT / 60)
                    .map(|i| keyed(&format!("w{writer}-{}", i % 5), &format!("{writer}.{chunk:02}.{i:02}")))
                    .collect();
                enqueue(fixture, &messages?).await?;
            }
            Ok::<(), Stop>(())
        });
        if fixture.traits().concurrent_writers {
            tokio::try_join!(first, second)?;
        } else {
            first.await?;
            second.await?;
        }
        Ok::<(), Stop>(())
    };
    let reading = async {
        let mut rows: Vec<Fetched> = Vec::new();
        while rows.len() < COUNT {
            let batch = scene.fetch_at_most(FetchLimit { messages: 50, bytes: 1 << 20 }).await?;
            if batch.rows.is_empty() {
                let seen = rows.len();
                traits_deadline
                    .pause(fixture, || format!("{COUNT} rows, of which {seen} were returned"))
                    .await?;
            }
            fetched.lock().await.extend(batch.rows.iter().cloned());
            rows.extend(batch.rows);
        }
        Ok::<_, Stop>(rows)
    };
    let settling = async {
        let mut settled = 0;
        while settled < COUNT {
            let batch: Vec<_> = fetched.lock().await.drain(..).map(|row| delivered(&row)).collect();
            if batch.is_empty() {
                let what = || format!("{COUNT} rows to settle, of which {settled} have come");
                traits_deadline.pause(fixture, what).await?;
                continue;
            }
            settled += batch.len();
            other.settle(relay, &batch, false).await?;
        }
        Ok::<(), Stop>(())
    };
    let ((), rows, ()) = tokio::try_join!(writers, reading, settling)?;
    check_order(&rows)?;
    let payloads: BTreeSet<_> = rows.iter().map(name).collect();
    ensure_eq!((rows.len(), payloads.len()), (COUNT, COUNT), "number of rows, and of different ones");
    scene.expect_drained().await
}
