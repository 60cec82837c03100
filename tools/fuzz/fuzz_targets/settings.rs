//! Any content of the settings file, variables and flags is read, or each error names its place, and no
//! secret is shown. The input is the file, and then variables (`name=value`) and flags (`--set …`), each
//! ended by a byte that is not part of UTF-8.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;

const END: u8 = 0xfe;
/// Part of every secret of the corpus.
const MARK: &str = "s3cr3t";
const SECRETS: [&str; 4] = ["url", "password", "token", "headers"];

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == END).map(|part| String::from_utf8_lossy(part).into_owned());
    let file = parts.next().unwrap_or_default();
    let mut environment = BTreeMap::new();
    let mut flags = Vec::new();
    for part in parts {
        match (part.strip_prefix("--set "), part.split_once('=')) {
            (Some(flag), _) => flags.push(flag.to_owned()),
            (None, Some((name, value))) => drop(environment.insert(name.to_owned(), value.to_owned())),
            (None, None) => {}
        }
    }
    let texts = || environment.values().chain(&flags).chain([&file]);
    // Settings may name files, and some files never end.
    if ["/dev", "/proc", "/sys"].iter().any(|folder| texts().any(|text| text.contains(folder))) {
        return;
    }
    let read = outbox_cli::fuzzing::settings(&file, &environment, &flags);
    let hidden = holds_only_secrets(&file)
        && environment.iter().all(|(name, value)| is_secret_variable(name, value))
        && flags.iter().all(|flag| is_secret_flag(flag));
    match read {
        Ok(shown) => assert!(!hidden || !shown.contains(MARK), "{shown}"),
        Err(faults) => {
            assert!(!faults.is_empty());
            let no_toml = faults[0].contains(": this is no TOML: ");
            for fault in faults {
                assert!(names_a_place(&fault, &file, &environment), "{fault}");
                assert!(!(hidden || no_toml) || !fault.contains(MARK), "{fault}");
            }
        }
    }
});

fn names_a_place(fault: &str, file: &str, environment: &BTreeMap<String, String>) -> bool {
    if let Some(rest) = fault.strip_prefix("outbox.toml:") {
        let line = rest.split_once(": ").and_then(|(line, _)| line.parse::<usize>().ok());
        return line.is_some_and(|line| (1..=file.split('\n').count()).contains(&line));
    }
    fault.starts_with("flag --set")
        || fault.strip_prefix("variable ").is_some_and(|rest| {
            environment.keys().any(|name| rest.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(": ")))
        })
        // Errors that belong to none of the three, such as a missing route.
        || fault.starts_with("settings: ")
}

/// Returns whether all marked strings are in the place of a secret, on a separate line.
fn holds_only_secrets(file: &str) -> bool {
    if !file.contains(MARK) {
        return true;
    }
    // Strings of several lines may contain text that resembles settings.
    if file.contains("\"\"\"") || file.contains("'''") {
        return false;
    }
    let mut section = "";
    file.split('\n').all(|line| {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        }
        if !line.contains(MARK) {
            return true;
        }
        // There the user chooses the names.
        if section.contains("topics") || section.contains("resource") {
            return false;
        }
        let Some((name, value)) = line.split_once('=') else { return false };
        let value = value.trim();
        let text = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
        text.is_some_and(|text| !text.contains(['"', '\'', '\\']) && is_secret(name.trim(), text))
    })
}

fn is_secret(name: &str, value: &str) -> bool {
    match name {
        "url" | "url_env" | "url_file" => !value.contains(MARK) || is_password_of_url(value),
        name => SECRETS.contains(&name),
    }
}

/// In a URL, the part between the first colon and the only `@` is meant to be the password.
fn is_password_of_url(url: &str) -> bool {
    let parts = || {
        let (before, behind) = url.split_once("://")?.1.split_once('@')?;
        let (user, _) = before.split_once(':')?;
        Some(!user.contains(MARK) && !behind.contains(MARK) && !behind.contains('@'))
    };
    parts().unwrap_or(false)
}

fn is_secret_variable(name: &str, value: &str) -> bool {
    if name.contains(MARK) || !value.contains(MARK) {
        return !name.contains(MARK);
    }
    match name.strip_prefix("OUTBOX__") {
        Some(path) => {
            let steps: Vec<String> = path.split("__").map(str::to_lowercase).collect();
            !path.to_lowercase().contains("topics")
                && !path.to_lowercase().contains("resource")
                && steps.last().is_some_and(|field| is_secret(field, value))
        }
        // Named by a setting as the source of a secret.
        None => is_password_of_url(value),
    }
}

fn is_secret_flag(flag: &str) -> bool {
    if !flag.contains(MARK) {
        return true;
    }
    // A URL without its field.
    if is_password_of_url(flag) {
        return true;
    }
    let Some((path, value)) = flag.split_once('=') else { return true };
    !path.contains(MARK)
        && !path.contains("topics")
        && !path.contains("resource")
        && path.rsplit('.').next().is_some_and(|field| is_secret(field, value))
}
