//! The machine on which the figures were measured.

use std::fs;
use std::process::Command;

/// A list in Markdown.
pub(super) fn describe() -> String {
    let facts = [
        ("Processor", processor()),
        ("Memory", memory()),
        ("System", first_line("uname", &["-sr"])),
        ("PostgreSQL", first_line("psql", &["--version"])),
        ("MariaDB", first_line("mariadbd", &["--version"])),
        ("RabbitMQ", rabbitmq()),
        ("Commit", first_line("git", &["rev-parse", "--short=12", "HEAD"])),
        ("Date", first_line("date", &["-u", "+%Y-%m-%d"])),
    ];
    facts.iter().filter_map(|(name, fact)| Some(format!("- {name}: {}\n", fact.as_deref()?))).collect()
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().ok()?;
    Some(format!(
        "{}, {cores} cores shared by clients and servers",
        model.map_or("unknown", |(_, model)| model)
    ))
}

fn memory() -> Option<String> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())?;
    Some(format!("{:.0} GiB", kib / (1 << 20) as f64))
}

fn rabbitmq() -> Option<String> {
    first_line("dpkg-query", &["-W", "-f", "${Version}", "rabbitmq-server"])
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
