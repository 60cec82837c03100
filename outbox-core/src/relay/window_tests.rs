use proptest::prelude::*;

use super::*;

fn row(position: i64, key: Option<&str>) -> Box<Row> {
    let meta = Meta {
        position: Position(position),
        identity: Identity::new([0; 16], 0),
        partition: Partition(0),
        attempts: 0,
        due: false,
        key: key.map(Arc::from),
        size: 10,
        age: Duration::ZERO,
        fetched_at: Instant::now(),
        record: Record::default(),
    };
    let message = Message::bytes("t", "0123456789").build().unwrap();
    Box::new(Row::of(meta, message))
}

const LIMIT: CallLimit = CallLimit { messages: 10, bytes: 1_000, many_per_key: false, alone: true };

fn positions(rows: &[Box<Row>]) -> Vec<i64> {
    rows.iter().map(|row| row.meta.position.0).collect()
}

#[test]
fn a_key_has_one_message_in_flight_at_a_time() {
    let mut window = Window::default();
    for position in 1..=3 {
        assert!(matches!(window.offer(row(position, Some("a"))), Offer::Waiting));
    }
    let first = window.take(LIMIT);
    assert_eq!(positions(&first), [1]);
    assert!(window.take(LIMIT).is_empty());
    window.landed(first[0].meta.key.as_ref());
    assert_eq!(positions(&window.take(LIMIT)), [2]);
}

/// The second message that has this position, after the database lost the first one.
fn second_row(position: i64, key: Option<&str>) -> Box<Row> {
    let mut row = row(position, key);
    row.meta.identity = Identity::new([0; 16], 1);
    row
}

#[test]
fn two_messages_of_one_position_are_two_rows() {
    for key in [Some("a"), None] {
        let mut window = Window::default();
        assert!(matches!(window.offer(row(1, key)), Offer::Waiting));
        assert!(matches!(window.offer(second_row(1, key)), Offer::Waiting));
        assert!(matches!(window.offer(row(1, key)), Offer::Known));
        assert!(matches!(window.offer(second_row(1, key)), Offer::Known));
        let limit = CallLimit { many_per_key: true, ..LIMIT };
        assert_eq!(positions(&window.take(limit)), [1, 1]);
        window.forget(row(1, key).meta.row());
        assert_eq!((window.len(), window.is_empty_of(Partition(0))), (1, false));
        assert!(matches!(window.offer(second_row(1, key)), Offer::Known), "the other one is still there");
        window.forget(second_row(1, key).meta.row());
        assert_eq!((window.len(), window.bytes(), window.is_empty_of(Partition(0))), (0, 0, true));
    }
}

#[test]
fn a_row_is_taken_out_and_not_the_other_one_of_its_position() {
    for key in [Some("a"), None] {
        let mut window = Window::default();
        window.offer(row(1, key));
        window.offer(second_row(1, key));
        let name = key.map(Arc::from);
        let taken = window.take_out(second_row(1, key).meta.row(), name.as_ref()).unwrap();
        assert_eq!(taken.meta.identity, Identity::new([0; 16], 1));
        assert!(window.take_out(taken.meta.row(), name.as_ref()).is_none());
        assert_eq!(window.take(LIMIT)[0].meta.identity, Identity::new([0; 16], 0));
    }
}

#[test]
fn an_ordered_publisher_gets_a_key_in_one_call() {
    let mut window = Window::default();
    for position in 1..=3 {
        window.offer(row(position, Some("a")));
    }
    let limit = CallLimit { many_per_key: true, ..LIMIT };
    assert_eq!(positions(&window.take(limit)), [1, 2, 3]);
    window.offer(row(4, Some("a")));
    assert!(window.take(limit).is_empty(), "the next ones wait for the whole call");
}

#[test]
fn a_failure_holds_what_waits_behind_it_and_what_comes_after() {
    let mut window = Window::default();
    for position in [5, 6, 7] {
        window.offer(row(position, Some("a")));
    }
    let key = window.take(LIMIT)[0].meta.key.clone().unwrap();
    assert_eq!(positions(&window.block(&key, Position(5))), [6, 7]);
    window.landed(Some(&key));
    assert!(matches!(window.offer(row(8, Some("a"))), Offer::Blocked(_)));
    assert!(matches!(window.offer(row(4, Some("a"))), Offer::Waiting), "an earlier one is not behind it");
    assert!(matches!(window.offer(row(9, Some("b"))), Offer::Waiting), "other keys go on");
    assert!(matches!(window.offer(row(10, Some("a"))), Offer::Blocked(_)));
    // Outcomes are recorded in any order.
    window.unblock(&key, Position(5));
    assert!(matches!(window.offer(row(11, Some("a"))), Offer::Blocked(_)), "row 6 is to be held");
    window.unblock(&key, Position(7));
    assert!(matches!(window.offer(row(6, Some("a"))), Offer::Known));
    window.forget(row(6, Some("a")).meta.row());
    assert!(matches!(window.offer(row(6, Some("a"))), Offer::Waiting), "nothing in front of it fails");
    window.unblock(&key, Position(6));
    assert!(matches!(window.offer(row(12, Some("a"))), Offer::Waiting));
}

#[test]
fn a_row_that_comes_back_is_narrowed_down_and_then_sent_alone() {
    let mut window = Window::default();
    for position in 1..=20 {
        window.offer(row(position, None));
    }
    let limit = CallLimit { messages: 16, ..LIMIT };
    let come_back = |window: &mut Window, rows: Rows, alone| {
        for mut row in rows {
            row.meta.record.came_back(alone);
            assert!(window.put_back(row).is_none());
        }
    };
    let all = window.take(limit);
    assert_eq!(all.len(), 16);
    come_back(&mut window, all, false);
    assert_eq!(positions(&window.take(limit)), [17, 18, 19, 20], "not together with what came back");
    let part = window.take(limit);
    assert_eq!(positions(&part), [1, 2]);
    come_back(&mut window, part, false);
    for _ in 0..7 {
        assert_eq!(window.take(limit).len(), 2);
    }
    let one = window.take(limit);
    assert_eq!(positions(&one), [1]);
    come_back(&mut window, one, true);
    assert_eq!(positions(&window.take(limit)), [2]);
    let not_alone = CallLimit { alone: false, ..limit };
    assert!(window.next_is_alone() && window.take(not_alone).is_empty());
    assert_eq!(positions(&window.take(limit)), [1]);
}

#[test]
fn a_probe_is_what_has_not_failed_or_else_what_failed_least() {
    let mut window = Window::default();
    let failed = |position, key, times| {
        let mut row = row(position, key);
        (0..times).for_each(|_| row.meta.record.came_back(false));
        row
    };
    window.offer(failed(1, None, 2));
    window.offer(failed(2, Some("a"), 1));
    window.offer(row(3, Some("a")));
    let position = |row: Option<Box<Row>>| row.map(|row| row.meta.position.0);
    assert_eq!(position(window.take_probe(true)), None, "it waits behind one that has failed");
    window.offer(row(4, Some("b")));
    assert_eq!(position(window.take_probe(true)), Some(4));
    assert_eq!(position(window.take_probe(false)), Some(2));
    assert_eq!(position(window.take_probe(false)), Some(1), "the key has one in flight");
    assert_eq!(position(window.take_probe(false)), None);
    window.landed(Some(&Arc::from("a")));
    assert_eq!(
        position(window.take_out(RowId::new(Position(3), Identity::new([0; 16], 0)), Some(&Arc::from("a")))),
        Some(3)
    );
    assert!(!window.has_waiting());
}

#[test]
fn bytes_limit_a_call_but_one_row_always_goes() {
    let mut window = Window::default();
    for position in 1..=3 {
        window.offer(row(position, None));
    }
    let limit = CallLimit { bytes: 25, ..LIMIT };
    assert_eq!(positions(&window.take(limit)), [1, 2]);
    assert_eq!(positions(&window.take(CallLimit { bytes: 1, ..LIMIT })), [3]);
}

#[test]
fn a_dropped_partition_leaves_nothing_behind() {
    let mut window = Window::default();
    window.offer(row(1, Some("a")));
    window.offer(row(2, None));
    window.drop_waiting(|partition| partition == Partition(0));
    assert_eq!((window.len(), window.bytes(), window.has_waiting()), (0, 0, false));
    assert!(window.take(LIMIT).is_empty());
    assert!(matches!(window.offer(row(1, Some("a"))), Offer::Waiting));
    assert_eq!(positions(&window.take(LIMIT)), [1]);
}

#[derive(Clone, Debug)]
enum Step {
    Offer(Option<u8>),
    Take(usize),
    Land(prop::sample::Index, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::option::of(0..4_u8).prop_map(Step::Offer),
        2 => (1..6_usize).prop_map(Step::Take),
        3 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(i, back)| Step::Land(i, back)),
    ]
}

proptest! {
    /// Whatever happens, each row is handed out until it lands for good, each key in position order, and the
    /// counts come back to zero.
    #[test]
    fn nothing_is_lost_and_keys_stay_in_order(steps in prop::collection::vec(step(), 1..200), many: bool) {
        let mut window = Window::default();
        let mut flying: Vec<Box<Row>> = Vec::new();
        let mut landed: HashMap<String, i64> = HashMap::default();
        let (mut offered, mut done) = (0_i64, 0_i64);
        let limit = |messages| CallLimit { messages, bytes: 35, many_per_key: many, alone: true };
        let land = |window: &mut Window, row: Box<Row>, landed: &mut HashMap<String, i64>| {
            if let Some(key) = &row.meta.key {
                let last = landed.insert(key.to_string(), row.meta.position.0).unwrap_or(0);
                assert!(row.meta.position.0 > last, "key {key} went backwards");
            }
            window.landed(row.meta.key.as_ref());
            window.forget(row.meta.row());
        };
        for step in steps {
            match step {
                Step::Offer(key) => {
                    offered += 1;
                    let key = key.map(|key| key.to_string());
                    window.offer(row(offered, key.as_deref()));
                }
                Step::Take(messages) => flying.extend(window.take(limit(messages))),
                Step::Land(_, _) if flying.is_empty() => {}
                Step::Land(index, back) => {
                    let row = flying.remove(index.index(flying.len()));
                    // With several of a key in one call, they come back or land in order, as a call's outcomes do.
                    let row = match flying.iter().position(|other| {
                        other.meta.key.is_some()
                            && other.meta.key == row.meta.key
                            && other.meta.position < row.meta.position
                    }) {
                        Some(earlier) => std::mem::replace(&mut flying[earlier], row),
                        None => row,
                    };
                    if back && !many {
                        prop_assert!(window.put_back(row).is_none());
                    } else {
                        land(&mut window, row, &mut landed);
                        done += 1;
                    }
                }
            }
        }
        loop {
            let rows = if flying.is_empty() { window.take(limit(5)) } else { std::mem::take(&mut flying) };
            if rows.is_empty() {
                break;
            }
            let mut rows = rows;
            rows.sort_by_key(|row| row.meta.position);
            for row in rows {
                land(&mut window, row, &mut landed);
                done += 1;
            }
        }
        prop_assert_eq!(done, offered);
        prop_assert_eq!((window.len(), window.bytes(), window.has_waiting()), (0, 0, false));
        prop_assert!(window.keys.is_empty());
    }
}
