//! What is shown while the demo runs: what happens, line by line, and below it how everything stands.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often the figures are printed where lines cannot be overwritten.
const PLAIN_EVERY: Duration = Duration::from_secs(3);

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    is_terminal: bool,
    start: Instant,
    /// The lines at the bottom that are drawn over.
    live: Vec<String>,
    last_plain: Option<Instant>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { is_terminal, start: Instant::now(), live: Vec::new(), last_plain: None }
    }

    /// Something has happened: a line that stays.
    pub(super) fn say(&mut self, text: &str) {
        let seconds = self.start.elapsed().as_secs();
        let erase = self.erase();
        self.print(&format!("{erase}{seconds:3} s  {text}\n{}", self.drawn()));
        self.last_plain = None;
    }

    /// How everything stands: on a terminal these lines replace those before.
    pub(super) fn show(&mut self, lines: Vec<String>) {
        if self.is_terminal {
            let erase = self.erase();
            self.live = lines;
            self.print(&format!("{erase}{}", self.drawn()));
        } else if self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) {
            self.last_plain = Some(Instant::now());
            self.print(&lines.iter().map(|line| format!("  {line}\n")).collect::<String>());
        }
    }

    /// The last figures stay, and text follows.
    pub(super) fn end(&mut self, text: &str) {
        self.live.clear();
        self.print(text);
    }

    /// Moves up to the first of the live lines, and clears from there.
    fn erase(&self) -> String {
        match self.live.len() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    /// Without wrapping: a line that takes two would not be drawn over.
    fn drawn(&self) -> String {
        let lines: String = self.live.iter().map(|line| format!("  {line}\n")).collect();
        if lines.is_empty() { lines } else { format!("\x1b[?7l{lines}\x1b[?7h") }
    }

    fn print(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Nobody reads it any more, as in `tampu demo | head`: what is shown does not matter then.
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
    }
}
