//! What a report measures, and for how long at most.

use std::time::Duration;

/// One run of this program.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) arguments: Vec<String>,
    /// Longer than it takes on a quiet machine, so that one step cannot use up everybody's time.
    pub(super) limit: Duration,
}

/// The name, the arguments, what `--quick` has instead of the last of them, and the limit in seconds.
type Plan = (&'static str, &'static str, &'static str, &'static str, u64);

/// The most important ones first, so that a report that is interrupted has them.
const PLANS: [Plan; 30] = [
    ("drain-postgres", "drain", "--messages 200000 --rounds 5", "--messages 50000 --rounds 3", 120),
    (
        "drain-amqp-classic",
        "drain --publisher amqp",
        "--messages 50000 --rounds 5",
        "--messages 20000 --rounds 3",
        240,
    ),
    (
        "drain-amqp-quorum",
        "drain --publisher amqp --queue quorum",
        "--messages 50000 --rounds 5",
        "--messages 20000 --rounds 3",
        180,
    ),
    ("wakeup-postgres", "wakeup", "--rounds 5 --commits 40", "--rounds 3 --commits 15", 120),
    (
        "steady-amqp",
        "steady --publisher amqp --queue quorum",
        "--rounds 3 --seconds 4 --percent 10,30,50,70,90",
        "--rounds 3 --seconds 2 --percent 10,90",
        300,
    ),
    (
        "enqueue-postgres",
        "enqueue",
        "--rounds 5 --seconds 1.2 --clients 1,16,64",
        "--rounds 3 --seconds 0.5 --clients 1,16",
        240,
    ),
    (
        "drain-mariadb",
        "drain --store mariadb",
        "--messages 100000 --rounds 5",
        "--messages 30000 --rounds 3",
        180,
    ),
    (
        "drain-sqlite",
        "drain --store sqlite",
        "--messages 100000 --rounds 5",
        "--messages 30000 --rounds 3",
        120,
    ),
    (
        "held-snapshot-postgres",
        "held-snapshot",
        "--messages 200000 --rounds 3",
        "--messages 50000 --rounds 2",
        240,
    ),
    (
        "relays-postgres",
        "relays",
        "--rounds 3 --messages 100000 --seconds 10",
        "--rounds 2 --messages 30000 --seconds 3 --counts 1,4",
        420,
    ),
    ("idle-postgres", "idle", "--rounds 1 --seconds 20", "--rounds 1 --seconds 5", 90),
    ("idle-mariadb", "idle --store mariadb", "--rounds 1 --seconds 20", "--rounds 1 --seconds 5", 90),
    ("idle-sqlite", "idle --store sqlite", "--rounds 1 --seconds 20", "--rounds 1 --seconds 5", 90),
    (
        "memory-postgres",
        "memory --payloads 1024",
        "--rounds 1 --backlogs 10000,100000,1000000",
        "--rounds 1 --backlogs 10000,100000",
        240,
    ),
    (
        "memory-payloads",
        "memory --payloads 200,4096",
        "--rounds 1 --backlogs 100000",
        "--rounds 1 --backlogs 20000",
        120,
    ),
    ("instructions", "instructions", "--rounds 1", "--rounds 1", 120),
    ("wakeup-mariadb", "wakeup --store mariadb", "--rounds 3 --commits 20", "--rounds 2 --commits 10", 90),
    ("wakeup-sqlite", "wakeup --store sqlite", "--rounds 3 --commits 20", "--rounds 2 --commits 10", 90),
    (
        "enqueue-mariadb",
        "enqueue --store mariadb",
        "--rounds 3 --seconds 1 --clients 16",
        "--rounds 2 --seconds 0.5 --clients 16",
        120,
    ),
    (
        "enqueue-sqlite",
        "enqueue --store sqlite",
        "--rounds 3 --seconds 1 --clients 1",
        "--rounds 2 --seconds 0.5 --clients 1",
        90,
    ),
    ("drain-sqs", "drain --publisher sqs", "--messages 5000 --rounds 5", "--messages 2000 --rounds 3", 180),
    (
        "drain-kinesis",
        "drain --publisher kinesis",
        "--messages 20000 --rounds 5",
        "--messages 5000 --rounds 3",
        180,
    ),
    (
        "drain-pubsub",
        "drain --publisher pubsub --only ours,memory",
        "--messages 10000 --rounds 5",
        "--messages 3000 --rounds 3",
        180,
    ),
    (
        "drain-postgres-4k",
        "drain --payload 4096",
        "--messages 40000 --rounds 5",
        "--messages 10000 --rounds 3",
        150,
    ),
    (
        "drain-postgres-disk",
        "drain --disk",
        "--messages 100000 --rounds 5",
        "--messages 20000 --rounds 2",
        180,
    ),
    (
        "drain-amqp-classic-disk",
        "drain --publisher amqp --disk",
        "--messages 30000 --rounds 5",
        "--messages 10000 --rounds 2",
        240,
    ),
    (
        "drain-amqp-quorum-disk",
        "drain --publisher amqp --queue quorum --disk",
        "--messages 30000 --rounds 5",
        "--messages 10000 --rounds 2",
        240,
    ),
    (
        "drain-mariadb-disk",
        "drain --store mariadb --disk",
        "--messages 50000 --rounds 3",
        "--messages 10000 --rounds 2",
        180,
    ),
    (
        "drain-sqlite-disk",
        "drain --store sqlite --disk",
        "--messages 50000 --rounds 3",
        "--messages 10000 --rounds 2",
        120,
    ),
    ("backlog-postgres", "backlog", "--rounds 3 --large 10000000", "--rounds 2 --large 500000", 480),
];

/// All steps of a report.
pub(super) fn all(quick: bool) -> Vec<Step> {
    PLANS
        .iter()
        .map(|(name, arguments, full, short, limit)| {
            let size = if quick { short } else { full };
            let arguments = arguments.split(' ').chain(size.split(' ')).map(str::to_owned).collect();
            Step { name, arguments, limit: Duration::from_secs(*limit) }
        })
        .collect()
}

/// Whether a step is among those that were asked for: by its name, or by a part of it that is no step's name. All are, if none
/// was asked for.
pub(super) fn is_wanted(asked: &[String], name: &str) -> bool {
    let is_name = |part: &str| PLANS.iter().any(|(name, ..)| *name == part);
    let means = |part: &String| part == name || (!is_name(part) && name.contains(part.as_str()));
    asked.is_empty() || asked.iter().any(means)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser;

    use super::*;
    use crate::options::Arguments;

    #[test]
    fn a_name_means_one_step_and_a_part_of_it_several() {
        let wanted = |asked: &[&str], name| {
            is_wanted(&asked.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>(), name)
        };
        assert!(wanted(&[], "idle-postgres"));
        assert!(wanted(&["drain-postgres"], "drain-postgres"));
        assert!(!wanted(&["drain-postgres"], "drain-postgres-disk"));
        assert!(wanted(&["idle", "drain-"], "drain-postgres-disk"));
        assert!(!wanted(&["idle"], "drain-postgres"));
    }

    #[test]
    fn every_step_is_understood_and_has_a_name_of_its_own() {
        for quick in [false, true] {
            let mut names = HashSet::new();
            for step in all(quick) {
                let arguments =
                    std::iter::once("outbox-bench").chain(step.arguments.iter().map(String::as_str));
                Arguments::try_parse_from(arguments).unwrap_or_else(|error| panic!("{}: {error}", step.name));
                assert!(names.insert(step.name), "{} is there twice", step.name);
            }
        }
    }
}
