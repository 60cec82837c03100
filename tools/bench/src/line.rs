//! A figure, and how it is printed and stored.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::options::Common;
use crate::stats::Summary;

/// One figure of one contender.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    /// The scenario.
    pub scenario: String,
    /// The measured quantity, such as `rate` or `p99`.
    pub metric: String,
    /// The unit.
    pub unit: String,
    /// The contender.
    pub contender: String,
    /// The circumstances.
    pub case: BTreeMap<String, Value>,
    /// The figures.
    #[serde(flatten)]
    pub summary: Summary,
    /// The relation to another contender of the same run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<Against>,
}

/// The relation of a figure to another one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Against {
    /// The other contender.
    pub contender: String,
    /// The ratios, round by round.
    pub ratio: Summary,
}

impl Line {
    /// Creates a figure with the circumstances that the options describe.
    pub fn new(
        scenario: &str,
        metric: impl Into<String>,
        unit: &str,
        contender: impl Into<String>,
        common: &Common,
        rounds: &[f64],
    ) -> Self {
        let case = BTreeMap::from([
            ("data".to_owned(), json!(if common.disk { "disk, synced" } else { "tmpfs" })),
            ("payload".to_owned(), json!(common.payload)),
        ]);
        Self {
            scenario: scenario.to_owned(),
            metric: metric.into(),
            unit: unit.to_owned(),
            contender: contender.into(),
            case,
            summary: Summary::of(rounds),
            against: Vec::new(),
        }
    }

    /// Adds a circumstance.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.case.insert(name.to_owned(), value.into());
        self
    }

    /// Relates it to another contender's figures of the same rounds.
    #[must_use]
    pub fn against(mut self, contender: impl Into<String>, rounds: &[f64]) -> Self {
        let ratio = Summary::ratio(&self.summary, &Summary::of(rounds));
        self.against.push(Against { contender: contender.into(), ratio });
        self
    }
}

/// Formats a figure for people. Figures of this kind have three significant digits.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middling if middling >= 10.0 => 1,
        middling if middling >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { median, min, max, .. } = &self.summary;
        write!(
            f,
            "{:<14} {:<8} {:<8} {:>9} {:<12} ({} to {})",
            self.scenario,
            self.contender,
            self.metric,
            short(*median),
            self.unit,
            short(*min),
            short(*max)
        )?;
        for Against { contender, ratio } in &self.against {
            write!(
                f,
                "  {} of {contender} ({} to {})",
                short(ratio.median),
                short(ratio.min),
                short(ratio.max)
            )?;
        }
        let case: Vec<String> = self
            .case
            .iter()
            .map(|(name, value)| match value {
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            })
            .collect();
        write!(f, "  [{}]", case.join(", "))
    }
}

/// The destination of figures.
#[derive(Clone, Debug)]
pub struct Output {
    json: bool,
    save: Option<PathBuf>,
}

impl Output {
    /// Creates it from the options.
    pub fn new(common: &Common) -> Self {
        Self { json: common.json, save: common.save.clone() }
    }

    /// Prints a figure, and stores it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn emit(&self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line)?;
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{text}")?
        } else {
            writeln!(out, "{line}")?
        }
        if let Some(file) = &self.save {
            let opened = OpenOptions::new().create(true).append(true).open(file);
            writeln!(opened.with_context(|| file.display().to_string())?, "{text}")?;
        }
        Ok(())
    }
}
