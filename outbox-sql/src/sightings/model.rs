//! A database in miniature whose transactions interleave at random with the two reads of a fetch.

use super::*;

const PARTITIONS: u16 = 4;
const CONNECTIONS: usize = 5;

#[derive(Clone, Debug)]
struct Row {
    partition: Partition,
    key: u32,
    writer: i64,
    /// When its `INSERT` began, and when it was committed.
    begun: u64,
    committed: Option<u64>,
}

#[derive(Default, Debug)]
struct Connection {
    /// Rows of the open transaction.
    rows: Vec<i64>,
    /// Positions drawn by a statement that has not filled them, and when it began.
    drawn: VecDeque<(i64, u64)>,
    /// Whether it has filled the first one.
    begun: bool,
}

struct World {
    random: fastrand::Rng,
    rows: BTreeMap<i64, Row>,
    /// All that was ever committed, with whether it was ready.
    history: BTreeMap<i64, Row>,
    connections: Vec<Connection>,
    next: i64,
    time: u64,
    now: Instant,
    sightings: Sightings,
    assigned: BTreeSet<Partition>,
    /// Handed on since the partition was assigned.
    handed_on: BTreeSet<i64>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            rows: BTreeMap::new(),
            history: BTreeMap::new(),
            connections: (0..CONNECTIONS).map(|_| Connection::default()).collect(),
            next: 1,
            time: 0,
            now: Instant::now(),
            sightings: Sightings::new(Duration::from_secs(2)),
            assigned: BTreeSet::new(),
            handed_on: BTreeSet::new(),
        }
    }

    fn draw(&mut self, connection: usize, count: i64) {
        self.connections[connection].begun = false;
        for _ in 0..count {
            self.connections[connection].drawn.push_back((self.next, self.time));
            // Some servers leave numbers out.
            self.next += if self.random.u8(..20) == 0 { self.random.i64(1..5) } else { 1 };
        }
    }

    fn fill(&mut self, connection: usize) {
        let Some((position, begun)) = self.connections[connection].drawn.pop_front() else { return };
        let key = self.random.u32(..6);
        let partition = Partition((key % u32::from(PARTITIONS)) as u16);
        let row = Row { partition, key, writer: connection as i64, begun, committed: None };
        self.rows.insert(position, row);
        self.connections[connection].rows.push(position);
        self.connections[connection].begun = true;
    }

    /// Something happens in the database.
    fn act(&mut self) {
        self.time += 1;
        let connection = self.random.usize(..CONNECTIONS);
        let is_busy = !self.connections[connection].drawn.is_empty();
        match self.random.u8(..20) {
            // A statement goes on, perhaps slowly, or one begins.
            what if is_busy => {
                if what < 8 {
                    self.fill(connection);
                }
            }
            0..=6 => {
                self.draw(connection, 1);
                if self.random.bool() {
                    self.fill(connection);
                }
            }
            7..=8 => {
                let count = self.random.i64(2..12);
                self.draw(connection, count);
            }
            // A bulk.
            9 if self.random.u8(..8) == 0 => {
                let count = self.random.i64(260..400);
                self.draw(connection, count);
                while !self.connections[connection].drawn.is_empty() {
                    self.fill(connection);
                }
            }
            9..=14 => self.commit(connection),
            15 => {
                for position in std::mem::take(&mut self.connections[connection].rows) {
                    self.rows.remove(&position);
                }
            }
            // Back to a savepoint.
            16 => {
                let keep = self.random.usize(..=self.connections[connection].rows.len());
                for position in self.connections[connection].rows.split_off(keep) {
                    self.rows.remove(&position);
                }
            }
            _ => self.deliver(),
        }
    }

    fn commit(&mut self, connection: usize) {
        for position in std::mem::take(&mut self.connections[connection].rows) {
            if let Some(row) = self.rows.get_mut(&position) {
                row.committed = Some(self.time);
                self.history.insert(position, row.clone());
            }
        }
    }

    fn deliver(&mut self) {
        for position in self.handed_on.clone() {
            if self.random.bool() {
                self.rows.remove(&position);
            }
        }
    }

    fn interleave(&mut self) {
        for _ in 0..self.random.usize(..6) {
            self.act();
        }
    }

    fn assign_or_revoke(&mut self) {
        let partition = Partition(self.random.u16(..PARTITIONS));
        if self.assigned.remove(&partition) {
            self.sightings.revoke(partition);
        } else {
            self.assigned.insert(partition);
            self.sightings.assign(partition);
            let history = &self.history;
            self.handed_on.retain(|position| history[position].partition != partition);
        }
    }

    /// Time passes, unless a statement is between drawing its first number and inserting the row.
    fn tick(&mut self) {
        let unprotected =
            self.connections.iter().any(|connection| !connection.drawn.is_empty() && !connection.begun);
        if unprotected {
            self.now += Duration::from_millis(1);
        } else {
            self.now += Duration::from_millis(self.random.u64(..1500));
        }
    }

    fn fetch(&mut self, most: usize, limit: usize) -> usize {
        let mut next = self.sightings.clone();
        let look = next.look(self.now);
        let mut scanned: Vec<Sighted> = Vec::new();
        let mut cut_at = None;
        for (position, row) in self.rows.range(look.after.saturating_add(1)..) {
            if let Some((partitions, upto)) = &look.backfill
                && (position > upto || !partitions.contains(&row.partition))
            {
                continue;
            }
            scanned.push(sighted(*position, row));
            if scanned.len() == most {
                cut_at = Some(*position);
                break;
            }
        }
        self.interleave();
        for range in &look.again {
            scanned.extend(self.rows.range(range.clone()).map(|(position, row)| sighted(*position, row)));
        }
        self.interleave();
        let read = next.sight(&scanned, cut_at);
        self.interleave();
        if self.random.u8(..10) == 0 {
            // An error, or a dropped call.
            return 0;
        }
        let mut rows: Vec<Committed> = Vec::new();
        for range in &read.ranges {
            for (position, row) in self.rows.range(range.clone()) {
                if row.committed.is_some() && read.partitions.contains(&row.partition) {
                    rows.push(Committed {
                        position: *position,
                        partition: row.partition,
                        writer: row.writer,
                    });
                }
            }
        }
        let complete = rows.len() <= limit;
        rows.truncate(limit);
        let witnesses: Vec<i64> = read
            .witnesses
            .iter()
            .copied()
            .filter(|position| self.rows.get(position).is_some_and(|row| row.committed.is_some()))
            .collect();
        let accepted = next.confirm(&rows, complete, &witnesses);
        self.sightings = next;
        let mut count = 0;
        for (row, _) in rows.iter().zip(accepted).filter(|(_, accepted)| *accepted) {
            self.hand_on(row.position);
            count += 1;
        }
        count
    }

    fn hand_on(&mut self, position: i64) {
        let row = self.history[&position].clone();
        assert!(self.assigned.contains(&row.partition), "{position} of a partition that is not ours");
        for (earlier, other) in self.rows.range(..position) {
            let overtaken = other.key == row.key
                && other.committed.is_some_and(|committed| committed < row.begun)
                && !self.handed_on.contains(earlier);
            assert!(!overtaken, "{position} overtook {earlier}");
        }
        assert!(self.handed_on.insert(position), "{position} was handed on twice");
    }

    fn finish(&mut self) {
        for connection in 0..CONNECTIONS {
            while !self.connections[connection].drawn.is_empty() {
                self.fill(connection);
            }
            self.commit(connection);
        }
        let mut idle = 0;
        while idle < 12 {
            self.now += Duration::from_secs(1);
            // Without anything else going on.
            let quiet = std::mem::take(&mut self.connections);
            self.connections = (0..CONNECTIONS).map(|_| Connection::default()).collect();
            idle = if self.fetch_quietly() == 0 { idle + 1 } else { 0 };
            self.connections = quiet;
        }
        for (position, row) in &self.rows {
            let expected = self.assigned.contains(&row.partition);
            assert!(!expected || self.handed_on.contains(position), "{position} was never handed on");
        }
        assert!(self.sightings.pending.is_empty(), "{:?}", self.sightings.pending);
    }

    fn fetch_quietly(&mut self) -> usize {
        let rows = self.rows.clone();
        let history = self.history.clone();
        let handed_on = self.fetch(1000, 1000);
        // What the interleaving added is taken back: this is the end.
        self.rows.retain(|position, _| rows.contains_key(position));
        self.history = history;
        handed_on
    }
}

fn sighted(position: i64, row: &Row) -> Sighted {
    Sighted { position, partition: row.partition, writer: row.writer, ready: true }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for number in 0..PARTITIONS {
        if world.random.u8(..4) != 0 {
            world.assigned.insert(Partition(number));
            world.sightings.assign(Partition(number));
        }
    }
    for _ in 0..120 {
        world.interleave();
        world.tick();
        if world.random.u8(..15) == 0 {
            world.assign_or_revoke();
        }
        let (most, limit) = (world.random.usize(1..40), world.random.usize(1..60));
        world.fetch(most, limit);
    }
    world.finish();
}

#[test]
fn random_interleavings_skip_nothing_repeat_nothing_and_keep_the_order() {
    for seed in 0..200 {
        let result = std::panic::catch_unwind(|| run(seed));
        if let Err(panic) = result {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
