//! `outbox doctor`: what is wrong, and what to do about it.

use std::time::Instant;

use outbox_core::{Error, ErrorKind, Finding, Health, Result, Timestamp};
use serde_json::json;

use crate::cli::DoctorArgs;
use crate::config::{Config, Route};
use crate::exit::Failure;
use crate::outboxes;
use crate::output::{self, BAD, GOOD, HEADING, QUIET, WARNING, styled};

/// A relay decides nothing by its own clock, but its log is read by it, and `deliver_at` is written by somebody's.
const MOST_SKEW: i64 = 5_000_000;

pub(crate) async fn run(config: &Config, args: &DoctorArgs) -> Result<(), Failure> {
    let names: Vec<_> = args.route.route.iter().cloned().collect();
    let mut ill = false;
    for route in outboxes::select(config, &names)? {
        let mut findings = store(route).await;
        findings.extend(broker(route).await);
        ill |= findings.iter().any(|finding| finding.health == Health::Problem);
        tell(route, &findings, args.json)?;
    }
    if ill { Err(Failure::unhealthy()) } else { Ok(()) }
}

async fn store(route: &Route) -> Vec<Finding> {
    let began = Instant::now();
    let opened = match outboxes::open(route).await {
        Ok(opened) => opened,
        Err(error) => return vec![trouble("database", &error)],
    };
    let mut findings = Vec::new();
    match opened.store.stats(1).await {
        Ok(_) => {
            let seen = format!("it answers, and its tables have the right version ({:.0?})", began.elapsed());
            findings.push(Finding::good("database", seen));
        }
        Err(error) => findings.push(trouble("database", &error)),
    }
    if let Some(inspection) = opened.store.inspection() {
        match inspection.clock().await {
            Ok(Some(theirs)) => findings.push(skew(theirs, Timestamp::now())),
            Ok(None) => {}
            Err(error) => findings.push(trouble("clock", &error)),
        }
        match inspection.diagnose().await {
            Ok(more) => findings.extend(more),
            Err(error) => findings.push(trouble("checks of the store", &error)),
        }
    }
    opened.outbox.close().await;
    findings
}

fn skew(theirs: Timestamp, ours: Timestamp) -> Finding {
    let difference = theirs.as_micros().saturating_sub(ours.as_micros());
    #[allow(clippy::cast_precision_loss, reason = "people read this")]
    let seen =
        format!("the database's clock differs by {:+.1} s from this machine's", difference as f64 / 1e6);
    if difference.abs() <= MOST_SKEW {
        return Finding::good("clock", seen);
    }
    let advice =
        "set both by NTP: scheduled messages and the ages that are shown follow the database's clock";
    Finding::warning("clock", seen, advice)
}

async fn broker(route: &Route) -> Vec<Finding> {
    let began = Instant::now();
    let check = async { route.publisher.open().await?.check().await };
    match check.await {
        Ok(more) => {
            let seen =
                format!("it answers, and everything that the settings name exists ({:.0?})", began.elapsed());
            let mut findings = vec![Finding::good("broker", seen)];
            findings.extend(more);
            findings
        }
        Err(error) => vec![trouble("broker", &error)],
    }
}

/// What an error says, and what to do about it.
fn trouble(check: &'static str, error: &Error) -> Finding {
    let advice = match error.kind() {
        ErrorKind::Schema => "run `outbox migrate` with a role that may create tables",
        ErrorKind::Permission => "check the user and password, or the credentials, and their permissions",
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Interrupted => {
            "check the host and port, whether the server runs, and the network between it and this machine"
        }
        ErrorKind::NotFound => "create the object named here, or correct the settings",
        ErrorKind::Config => "correct the settings",
        _ => "see the message",
    };
    Finding::problem(check, error.report(), advice)
}

fn tell(route: &Route, findings: &[Finding], json: bool) -> Result<(), Failure> {
    if !json {
        let title = format!("{}: {} to {}", route.name, route.store.place(), route.publisher.place());
        output::data(format_args!("{}\n", styled(HEADING, title)))?;
    }
    for Finding { check, health, seen, advice, .. } in findings {
        let (style, word) = match health {
            Health::Good => (GOOD, "good"),
            Health::Warning => (WARNING, "warning"),
            Health::Problem => (BAD, "problem"),
            _ => (QUIET, "unknown"),
        };
        if json {
            let line = json!({
                "route": route.name, "check": check, "health": word, "seen": seen, "advice": advice,
            });
            output::data(format_args!("{line}\n"))?;
            continue;
        }
        // Padded before it is styled, since a style is of no width.
        output::data(format_args!("  {} {check:<22} {seen}\n", styled(style, format_args!("{word:<8}"))))?;
        if let Some(advice) = advice {
            output::data(format_args!("  {:<8} {:<22} -> {advice}\n", "", ""))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_may_be_off_by_a_little() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        assert_eq!(skew(at(100), at(104)).health, Health::Good);
        let off = skew(at(200), at(100));
        assert_eq!(
            (off.health, off.seen.as_str()),
            (Health::Warning, "the database's clock differs by +100.0 s from this machine's")
        );
    }
}
