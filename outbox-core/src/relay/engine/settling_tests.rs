use super::*;
use crate::identity::Identity;
use crate::message::Message;
use crate::relay::window::Row;
use crate::store::{Content, Fetched, Position};
use crate::time::Timestamp;

/// An outcome; the key `-` stands for none.
fn outcome(position: i64, key: &str, now: Instant) -> Pending {
    let mut message = Message::bytes("t", "");
    if key != "-" {
        message = message.key(key);
    }
    let fetched = Fetched {
        position: Position(position),
        identity: Identity::new([0; 16], position),
        partition: Partition(0),
        attempts: 0,
        enqueued_at: Timestamp::from_micros(0),
        age: Duration::ZERO,
        due: false,
        blocked: false,
        content: Content::Message(message.build().unwrap()),
    };
    Pending::new(Row::new(fetched, now), Settlement::Delivered, Duration::ZERO, now)
}

fn positions<'a>(rows: impl IntoIterator<Item = &'a Settle>) -> Vec<i64> {
    rows.into_iter().map(|settle| settle.position.0).collect()
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "no")
}

/// A store that refuses some positions.
struct Refusing {
    refused: Vec<i64>,
    recorded: Vec<i64>,
    calls: u32,
}

/// Settles until nothing can be done but to wait for refused rows, at most `limit` rows a call.
fn settle(settling: &mut Settling, store: &mut Refusing, limit: usize, now: &mut Instant) {
    loop {
        let Some(next) = settling.next_start(*now, false) else { return };
        *now = (*now).max(next);
        if settling.failed.is_empty() && settling.pending.is_empty() {
            return;
        }
        let mut calls = Vec::new();
        while let Some(call) = settling.start(*now, false, limit) {
            calls.push(call);
        }
        for (id, rows) in calls {
            store.calls += 1;
            let call = settling.ended(id).unwrap();
            let rows = positions(&rows);
            if !rows.iter().any(|row| store.refused.contains(row)) {
                store.recorded.extend(rows);
                settling.recorded(call.batch.rows);
            } else if rows.len() > 1 {
                settling.divide(call.batch, *now);
            } else {
                let refusals = call.batch.refusals + 1;
                settling.refuse(call.batch.rows.into_iter().next().unwrap(), refusals, *now);
            }
        }
    }
}

#[test]
fn a_refused_row_stops_only_what_is_behind_it_in_its_key() {
    let mut now = Instant::now();
    for refused in 0..60 {
        let mut settling = Settling::default();
        let key = |position: i64| ["-", "a", "b", "c", "c", "c"][usize::try_from(position % 6).unwrap()];
        for position in 0..60 {
            settling.push(outcome(position, key(position), now));
        }
        let mut store = Refusing { refused: vec![refused], recorded: Vec::new(), calls: 0 };
        settle(&mut settling, &mut store, 1_000, &mut now);
        let is_behind =
            |position: i64| position >= refused && key(position) == key(refused) && key(refused) != "-";
        let mut expected: Vec<i64> =
            (0..60).filter(|position| *position != refused && !is_behind(*position)).collect();
        let by_key = |rows: &[i64], name: &str| -> Vec<i64> {
            rows.iter().copied().filter(|position| key(*position) == name).collect()
        };
        for name in ["a", "b", "c"] {
            assert!(by_key(&store.recorded, name).is_sorted(), "{name}: {:?}", store.recorded);
        }
        let mut recorded = store.recorded.clone();
        recorded.sort_unstable();
        expected.sort_unstable();
        assert_eq!(recorded, expected, "position {refused} is refused");
        assert!(store.calls <= 40, "{} calls", store.calls);

        // The store takes the row after all.
        store.refused.clear();
        settling.hurry(now);
        now += LONGEST_TRIAL_PAUSE;
        let (id, rows) = settling.start(now, false, 1_000).unwrap();
        assert_eq!(positions(&rows), [refused]);
        store.recorded.push(refused);
        let call = settling.ended(id).unwrap();
        settling.recorded(call.batch.rows);
        settle(&mut settling, &mut store, 1_000, &mut now);
        assert!(settling.is_empty());
        for name in ["a", "b", "c"] {
            assert!(by_key(&store.recorded, name).is_sorted(), "{name}: {:?}", store.recorded);
        }
        assert_eq!(store.recorded.len(), 60);
    }
}

#[test]
fn a_slow_call_holds_up_its_own_keys_only() {
    let now = Instant::now();
    let mut settling = Settling::default();
    settling.push(outcome(1, "a", now));
    let (_, rows) = settling.start(now, false, 10).unwrap();
    assert_eq!(positions(&rows), [1]);
    settling.push(outcome(2, "a", now));
    settling.push(outcome(3, "b", now));
    assert_eq!(settling.next_start(now, false), Some(now + SLOW));
    assert_eq!(settling.next_start(now, true), None);
    assert!(settling.start(now, false, 10).is_none());
    let (_, rows) = settling.start(now + SLOW, false, 10).unwrap();
    assert_eq!(positions(&rows), [3], "key a waits for the slow call");
    assert_eq!(settling.next_start(now + SLOW, false), None);
}

#[test]
fn a_call_that_failed_is_repeated_with_the_same_rows() {
    let now = Instant::now();
    let mut settling = Settling::default();
    settling.push(outcome(1, "a", now));
    settling.push(outcome(2, "b", now));
    let (id, rows) = settling.start(now, false, 10).unwrap();
    assert_eq!(positions(&rows), [1, 2]);
    settling.push(outcome(3, "a", now));
    let call = settling.ended(id).unwrap();
    assert_eq!(blame(&error(ErrorKind::Unavailable), &call, None), Blame::Store);
    let later = now + Duration::from_secs(1);
    settling.repeat(call.batch, now, later);
    assert_eq!(settling.next_start(now, true), Some(later));
    let (id, rows) = settling.start(later, true, 10).unwrap();
    assert_eq!(positions(&rows), [1, 2]);
    assert!(settling.start(later, true, 10).is_none(), "one call finds out whether the store is back");
    let call = settling.ended(id).unwrap();
    settling.recorded(call.batch.rows);
    let (_, rows) = settling.start(later, false, 10).unwrap();
    assert_eq!(positions(&rows), [3]);
}

#[test]
fn errors_of_the_whole_store_divide_nothing_while_it_answers_nothing_else() {
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let mut settling = Settling::default();
    settling.push(outcome(1, "a", now));
    settling.push(outcome(2, "b", now));
    let (id, _) = settling.start(now, false, 10).unwrap();
    let call = settling.ended(id).unwrap();
    for (kind, answered, expected) in [
        (ErrorKind::Unavailable, Some(at(1)), Blame::Store),
        (ErrorKind::Schema, Some(at(1)), Blame::Store),
        (ErrorKind::Interrupted, Some(at(1)), Blame::Store),
        (ErrorKind::Permission, Some(at(1)), Blame::Store),
        (ErrorKind::Conflict, Some(at(1)), Blame::Store),
        (ErrorKind::Timeout, None, Blame::Store),
        (ErrorKind::Timeout, Some(at(0)), Blame::Store),
        (ErrorKind::Timeout, Some(at(1)), Blame::Rows),
        (ErrorKind::Malformed, None, Blame::Rows),
        (ErrorKind::TooLarge, None, Blame::Rows),
    ] {
        assert_eq!(blame(&error(kind), &call, answered), expected, "{kind} at first");
    }
    settling.repeat(call.batch, at(2), at(3));
    let (id, _) = settling.start(at(3), false, 10).unwrap();
    let call = settling.ended(id).unwrap();
    for (kind, answered, expected) in [
        (ErrorKind::Unavailable, Some(at(4)), Blame::Store),
        (ErrorKind::Interrupted, Some(at(1)), Blame::Store),
        (ErrorKind::Interrupted, Some(at(4)), Blame::Rows),
        (ErrorKind::Permission, Some(at(4)), Blame::Rows),
        (ErrorKind::Conflict, Some(at(4)), Blame::Store),
    ] {
        assert_eq!(blame(&error(kind), &call, answered), expected, "{kind} at the second call");
    }
}

#[test]
fn refused_rows_make_no_flood_of_calls() {
    let mut now = Instant::now();
    let mut settling = Settling::default();
    for position in 0..500 {
        settling.push(outcome(position, "-", now));
    }
    let (began, settled_down) = (now, Duration::from_secs(3_600));
    let mut calls = 0;
    while now.duration_since(began) < settled_down * 2 {
        now = now.max(settling.next_start(now, false).unwrap());
        let Some((id, rows)) = settling.start(now, false, 1_000) else { continue };
        calls += u32::from(now.duration_since(began) > settled_down);
        let call = settling.ended(id).unwrap();
        if rows.len() > 1 {
            settling.divide(call.batch, now);
        } else {
            let refusals = call.batch.refusals + 1;
            settling.refuse(call.batch.rows.into_iter().next().unwrap(), refusals, now);
        }
    }
    assert_eq!(settling.refused.len(), 500);
    assert!(calls <= 721, "{calls} calls in an hour");
}

/// Held rows that are recorded without the row that holds them would be released ahead of it.
#[test]
fn outcomes_behind_a_row_that_is_given_up_are_given_up_with_it() {
    let now = Instant::now();
    for stopped_during_the_call in [true, false] {
        let mut settling = Settling::default();
        for (position, key) in [(1, "a"), (2, "a"), (3, "b")] {
            settling.push(outcome(position, key, now));
        }
        let (id, _) = settling.start(now, false, 1).unwrap();
        let call = settling.ended(id).unwrap();
        settling.replace(call.batch.rows.into_iter().next().unwrap(), None, now);
        let (id, rows) = settling.start(now, false, 10).unwrap();
        assert_eq!(positions(&rows), [1]);
        let refused = settling.ended(id).unwrap().batch.rows.into_iter().next().unwrap();
        let given_up: Vec<_> = if stopped_during_the_call {
            settling.given_up(refused.row.meta.key.as_ref())
        } else {
            settling.refuse(refused, 2, now);
            settling.give_up(|_| true)
        };
        let given_up: Vec<_> = given_up.iter().map(|pending| pending.row.meta.position.0).collect();
        assert_eq!(given_up, if stopped_during_the_call { vec![2] } else { vec![1, 2] });
        let rest: Vec<_> = settling.unrecorded().map(|pending| pending.row.meta.position.0).collect();
        assert_eq!(rest, [3]);
    }
}
