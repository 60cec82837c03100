//! Sections of several kinds, not all of which have to be in a program.

use super::section::Section;

/// What reads the fields of one kind.
pub(crate) type ReadKind<T> = fn(&Section<'_>) -> Option<T>;

/// Reads a section whose field `type` says which of some kinds of settings it has. `kinds` are those of this program, and
/// `all` those that there are, each called as the feature that builds it in.
pub(crate) fn kind<T>(
    section: Section<'_>,
    kinds: &[(&'static str, ReadKind<T>)],
    all: &[&str],
) -> Option<T> {
    let words: Vec<_> = kinds.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let is_built = |wanted: &str| kinds.iter().any(|(word, _)| *word == wanted);
    if let Some(word) = all.iter().find(|word| section.says("type", word) && !is_built(word)) {
        section.fault_in(
            "type",
            format!(
                "this program was built without {word}; build it with the feature {word}. It has {}",
                words.join(" and ")
            ),
        );
        return None;
    }
    let read = section.choice("type", kinds);
    if !section.has("type") {
        section.fault(format!("type is missing; expected one of {}", words.join(", ")));
    }
    // Which other fields there are is known only with the type.
    let made = read?(&section);
    section.finish();
    made
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::explain::Explanation;
    use super::super::fault::{Fault, Faults};
    use super::super::section::Reading;
    use super::super::tree::{Origin, parse};
    use super::super::{Telemetry, telemetry};
    use super::*;

    /// What is made of a text, or everything that is said to be wrong with it.
    fn read<T>(text: &str, read: impl FnOnce(Section<'_>) -> Option<T>) -> Result<T, Vec<String>> {
        let root = parse(&"outbox.toml".into(), text).unwrap();
        let (faults, explanation, environment) = (Faults::default(), Explanation::default(), BTreeMap::new());
        let reading = Reading { faults: &faults, explanation: &explanation, environment: &environment };
        let made = read(Section::new(&reading, "", &root, &Origin::Nowhere));
        faults.or(made).map_err(|faults| faults.iter().map(Fault::to_string).collect())
    }

    #[test]
    fn a_kind_that_is_not_in_the_program_is_told_from_one_that_there_is_not() {
        let kinds: &[(&str, ReadKind<i32>)] = &[("blue", |_| Some(1)), ("red", |_| Some(2))];
        let read = |kind: &str| {
            let text = format!("\ntype = \"{kind}\"\n");
            read(&text, |section| super::kind(section, kinds, &["blue", "green", "red"]))
        };
        assert_eq!((read("blue"), read("red")), (Ok(1), Ok(2)));
        let without = "outbox.toml:2: type: this program was built without green; build it with the feature green. It \
            has \"blue\" and \"red\"";
        assert_eq!(read("green"), Err(vec![without.to_owned()]));
        let unknown = "outbox.toml:2: type: must be \"blue\" or \"red\", not \"grey\"";
        assert_eq!(read("grey"), Err(vec![unknown.to_owned()]));
    }

    #[test]
    fn telemetry_that_is_not_in_the_program_is_refused_only_if_it_is_wanted() {
        let read = |text: &str, built: bool| {
            read(text, |section| {
                Some(telemetry::read(section, built).map(|Telemetry { endpoint, .. }| endpoint))
            })
        };
        let wanted = "\nendpoint = \"http://collector:4317\"\n";
        assert_eq!(read(wanted, true), Ok(Some("http://collector:4317".to_owned())));
        let without = "outbox.toml:2: endpoint: this program was built without telemetry; build it with the feature otel";
        assert_eq!(read(wanted, false), Err(vec![without.to_owned()]));
        assert_eq!((read("", true), read("", false)), (Ok(None), Ok(None)));
    }
}
