//! What is printed while the run goes on.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::load::Load;

/// The lines of one strategy. Events are lines; on a terminal the counts are one more line, written over and over.
pub struct Progress {
    began: Instant,
    rewrites: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            rewrites: io::stdout().is_terminal(),
        }
    }

    /// Something happened.
    pub fn event(&self, what: &str) {
        let clear = if self.rewrites { "\r\x1b[K" } else { "" };
        say(&format!("{clear}  {:5.1} s  {what}\n", self.seconds()));
    }

    /// Shows the counts until it is dropped.
    pub async fn show(&self, load: &Load) {
        if !self.rewrites {
            return std::future::pending().await;
        }
        let mut tick = interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            say(&format!(
                "\r\x1b[K  {:5.1} s  {}",
                self.seconds(),
                counts(load)
            ));
        }
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// The counts so far, as words.
pub fn counts(load: &Load) -> String {
    let (sent, failed) = load.tally().totals();
    format!("{sent} sent, {failed} failed")
}

/// Prints at once. Whoever closed stdout (`| head`) has seen enough, and is no reason to panic. What could not be
/// written for another reason (a full disk, say) is not forgotten: [`unsaid`].
pub fn say(text: &str) {
    let mut stdout = io::stdout();
    let mut rest = text.as_bytes();
    let mut write = || -> io::Result<()> {
        while !rest.is_empty() {
            rest = &rest[stdout.write(rest)?..];
        }
        stdout.flush()
    };
    let began = Instant::now();
    loop {
        match write() {
            // Somebody has made it non-blocking, and reads slowly.
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < PATIENCE => {
                // As a pipe that blocks would have it.
                std::thread::park_timeout(Duration::from_millis(10));
            }
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                let _ = UNSAID.set(error.to_string());
                return;
            }
            _ => return,
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
static UNSAID: OnceLock<String> = OnceLock::new();

/// Why something that was to be printed was not, if so: then nobody knows how the run ended.
///
/// # Errors
///
/// That is all that it does.
pub fn unsaid() -> Result<(), String> {
    match UNSAID.get() {
        None => Ok(()),
        Some(error) => Err(format!("writing to standard output: {error}")),
    }
}
