//! Data to the standard output, everything else to the standard error, colours on a terminal only.

use std::fmt::Display;
use std::io::{self, Write};

use anstream::ColorChoice;
use anstyle::{AnsiColor, Style};

pub(crate) const HEADING: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const QUIET: Style = Style::new().dimmed();

/// Follows `--color`. Left to itself, colour depends on the terminal and on `NO_COLOR` (<https://no-color.org>).
pub(crate) fn choose_colors(choice: clap::ColorChoice) {
    let choice = match choice {
        clap::ColorChoice::Auto => ColorChoice::Auto,
        clap::ColorChoice::Always => ColorChoice::Always,
        clap::ColorChoice::Never => ColorChoice::Never,
    };
    choice.write_global();
}

/// A text in a style, which is taken away again where there are no colours.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Writes data.
///
/// # Errors
/// When nobody reads it any more.
pub(crate) fn data(text: impl Display) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// Tells a person something that is no data. Where nobody listens, nothing is lost.
pub(crate) fn noteln(text: impl Display) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Tells a person that something is wrong.
pub(crate) fn errorln(text: impl Display) {
    noteln(format_args!("{} {text}", styled(BAD, "error:")));
}

/// A text of others on one line: without what a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || ('\u{200e}'..='\u{202e}').contains(&character) {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_give_no_orders_to_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc\u{202e}d é"), "a\\u{1b}[2Jb\\nc\\u{202e}d é");
    }
}
