//! What is said, to people or to machines.

use std::{
    io::{BufRead, IsTerminal},
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::failure::Failure;

/// Results go to standard output, progress and errors to standard error.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    colours: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some();
        Self { json, colours: !plain && std::io::stdout().is_terminal() }
    }

    /// The result: a value for machines, or lines for people.
    #[allow(clippy::print_stdout, reason = "the command's result")]
    pub(crate) fn result(&self, value: &Value, people: impl FnOnce(&Self) -> String) {
        if self.json {
            println!("{value}");
        } else {
            let text = people(self);
            println!("{}", text.trim_end());
        }
    }

    /// What happens meanwhile; machines do not need it.
    #[allow(clippy::print_stderr, reason = "progress, for people")]
    pub(crate) fn progress(&self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    pub(crate) fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    #[allow(clippy::print_stderr, reason = "the command's failure")]
    pub(crate) fn failed(&self, error: &anyhow::Error) -> ExitCode {
        let failure = error.downcast_ref::<Failure>();
        if self.json {
            let code = failure.map_or("local", Failure::code);
            eprintln!("{}", json!({"error": {"code": code, "detail": format!("{error:#}")}}));
        } else {
            eprintln!("toani: {error:#}");
        }
        ExitCode::from(failure.map_or(5, Failure::exit_code))
    }
}

/// Text that others have made, safe to show: control and bidirectional characters are escaped.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let invisible = matches!(c, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}');
        if (c.is_control() && c != '\n') || bidi || invisible {
            out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON for people: indented, with what could deceive them escaped.
pub(crate) fn pretty(value: &Value) -> String {
    escape(&serde_json::to_string_pretty(value).unwrap_or_default())
}

/// Asks the person to type a word; without a terminal there is nobody to ask.
pub(crate) fn confirmed(word: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage("without a terminal, say --yes".to_owned()).into());
    }
    #[allow(clippy::print_stderr, reason = "a question to the person")]
    {
        eprint!("Type {word} to go on: ");
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == word)
}

/// Rows in columns.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_is_shown_as_what_it_is() {
        assert_eq!(escape("a\u{202e}b\u{1b}[31m\u{200b}"), "a\\u{202e}b\\u{1b}[31m\\u{200b}");
        assert_eq!(escape("zwölf €"), "zwölf €");
    }
}
