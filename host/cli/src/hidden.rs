//! A value that is typed and not shown.

use std::io::{BufRead, Stdin, Write};

use anyhow::Context;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The terminal shows again what is typed when this goes.
struct Unseen<'a> {
    terminal: &'a Stdin,
    before: Termios,
}

impl<'a> Unseen<'a> {
    fn new(terminal: &'a Stdin) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut unseen = before.clone();
        unseen.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Now, &unseen)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Asks only once nothing is shown any more: who pastes at the first sight of the question, or types
/// ahead of it, is not too early.
pub(crate) fn ask(question: &str) -> anyhow::Result<Zeroizing<String>> {
    let terminal = std::io::stdin();
    let unseen = Unseen::new(&terminal).context("the terminal cannot hide what is typed")?;
    let mut out = std::io::stderr();
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut value = Zeroizing::new(String::new());
    terminal.lock().read_line(&mut value)?;
    drop(unseen);
    out.write_all(b"\n")?;
    let kept = value.trim_end_matches(['\r', '\n']).len();
    value.truncate(kept);
    Ok(value)
}
