//! What the library has to say, as lines on standard error: `prestop: words field=value`.

use std::fmt::{Debug, Write as _};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// A subscriber that writes events up to this level, and knows no spans.
///
/// By a thread: a standard error that nobody reads must not keep the stop from going on. Past 1,000 lines that wait,
/// lines are dropped.
pub(crate) struct Lines {
    most: Level,
    waiting: SyncSender<Word>,
}

enum Word {
    Line(String),
    /// Dropped when everything before it was written.
    Mark(SyncSender<()>),
}

/// Waits until everything was written that was said before.
pub(crate) struct Flush(SyncSender<Word>);

impl Flush {
    /// For 200 ms at the most: then nobody reads.
    pub(crate) fn wait(&self) {
        let (mark, reached) = sync_channel(1);
        if self.0.try_send(Word::Mark(mark)).is_ok() {
            // Nothing is ever sent: its end is the answer.
            let _ = reached.recv_timeout(Duration::from_millis(200));
        }
    }
}

impl Lines {
    /// # Errors
    ///
    /// When the thread can't be started.
    pub(crate) fn new(most: Level) -> io::Result<(Self, Flush)> {
        let (waiting, words) = sync_channel(1_000);
        std::thread::Builder::new()
            .name("prestop-log".into())
            .spawn(move || write(&words))?;
        let flush = Flush(waiting.clone());
        Ok((Self { most, waiting }, flush))
    }
}

fn write(words: &Receiver<Word>) {
    for word in words {
        match word {
            // Its error is that nobody reads. One write, so that lines of the program's own do not mix with it.
            Word::Line(line) => drop(io::stderr().write_all(line.as_bytes())),
            Word::Mark(mark) => drop(mark),
        }
    }
}

static SPANS: AtomicU64 = AtomicU64::new(1);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most && metadata.target().starts_with("prestop")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(SPANS.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("prestop: {}{}\n", line.words, line.fields);
        // Full: nobody reads.
        let _ = self.waiting.try_send(Word::Line(text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    words: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.words, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.words, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}
