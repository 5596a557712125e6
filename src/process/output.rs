//! What a child prints.

use std::io::{self, Read, Write};
use std::process::{ChildStderr, ChildStdout};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::watch;

/// Where the child's standard output and standard error go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// To ours, without a detour: the child has the same files open. Nothing is copied, nothing is lost, and a reader
    /// that stops reading blocks the child, all as without us. The default.
    #[default]
    Inherit,
    /// To ours, by way of us: a reader that stops reading never blocks the child. Past 8 MiB that nobody has read,
    /// output is dropped, and the gap is marked with its length.
    Forward,
    /// Line by line as [`tracing`] events of the level `INFO`, target `prestop::child`, with the fields `child`,
    /// `stream` and `pid`. Lines past 16 KiB are cut in pieces; a subscriber that blocks never blocks the child, as with
    /// [`Forward`](Self::Forward).
    Tracing,
    /// Nowhere.
    Discard,
}

/// What is read at once.
const CHUNK: usize = 8 * 1024;
/// Chunks that wait for a reader of ours: 8 MiB.
const WAITING: usize = 1024;
/// The longest line.
const LINE: usize = 16 * 1024;

/// Who the output is of.
#[derive(Clone, Debug)]
pub(super) struct Speaker {
    pub(super) name: String,
    pub(super) pid: i32,
}

/// The two threads per stream: one reads the child's pipe and never waits for anything else, one writes.
pub(super) struct Pump {
    finished: Vec<watch::Receiver<()>>,
    lines: watch::Receiver<bool>,
}

impl Pump {
    /// Starts the threads. `awaited` is a piece of a line to look out for.
    ///
    /// # Errors
    ///
    /// When a thread can't be started.
    pub(super) fn start(
        output: Output,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
        speaker: &Speaker,
        awaited: Option<&str>,
    ) -> io::Result<Self> {
        let (seen, lines) = watch::channel(false);
        let mut finished = Vec::new();
        let mut stream = |pipe: Box<dyn Read + Send>, name: &'static str| {
            let watcher = awaited.map(|what| Watcher {
                what: what.as_bytes().to_vec(),
                tail: Vec::new(),
                seen: seen.clone(),
            });
            let to = match (output, name) {
                (Output::Tracing, _) => Sink::Tracing {
                    stream: name,
                    speaker: speaker.clone(),
                    line: Vec::new(),
                },
                (_, "stdout") => Sink::File(Box::new(io::stdout())),
                _ => Sink::File(Box::new(io::stderr())),
            };
            finished.push(pump(pipe, to, watcher)?);
            Ok::<_, io::Error>(())
        };
        if let Some(pipe) = stdout {
            stream(Box::new(pipe), "stdout")?;
        }
        if let Some(pipe) = stderr {
            stream(Box::new(pipe), "stderr")?;
        }
        Ok(Self { finished, lines })
    }

    /// Resolves when the awaited text was printed; never when the child has closed its output without.
    pub(super) async fn saw_it(&self) {
        let mut lines = self.lines.clone();
        if lines.wait_for(|seen| *seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until all that the child printed was passed on. Whoever else holds the pipe open is not waited for longer
    /// than the limit.
    pub(super) async fn flush(&self, limit: Duration) {
        let all = self
            .finished
            .iter()
            .cloned()
            .map(|mut finished| async move {
                // Nothing is ever sent: the thread's end is the answer.
                while finished.changed().await.is_ok() {}
            });
        // What is not passed on by then has no reader.
        let _ = tokio::time::timeout(limit, futures::future::join_all(all)).await;
    }
}

fn pump(
    mut pipe: Box<dyn Read + Send>,
    sink: Sink,
    watcher: Option<Watcher>,
) -> io::Result<watch::Receiver<()>> {
    let (send, waiting) = sync_channel::<Vec<u8>>(WAITING);
    let (alive, finished) = watch::channel(());
    let thread = |name: &str| std::thread::Builder::new().name(name.into());
    thread("prestop-write").spawn(move || {
        let _alive = alive;
        write_all(&waiting, sink);
    })?;
    thread("prestop-read").spawn(move || read_all(&mut *pipe, &send, watcher))?;
    Ok(finished)
}

/// Reads to the end, whatever becomes of it.
fn read_all(pipe: &mut dyn Read, send: &SyncSender<Vec<u8>>, mut watcher: Option<Watcher>) {
    let mut dropped = 0_u64;
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let chunk = &buffer[..read];
        if watcher.as_mut().is_some_and(|watcher| watcher.found(chunk)) {
            watcher = None;
        }
        if dropped > 0 && send.try_send(gap(dropped)).is_ok() {
            dropped = 0;
        }
        if dropped > 0 {
            dropped += read as u64;
            continue;
        }
        match send.try_send(chunk.to_vec()) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => dropped += read as u64,
            // Our own output is closed: the child must not notice.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
    if dropped > 0 {
        // The writer may still make room, or is stuck for good and goes down with the process.
        let _ = send.send(gap(dropped));
    }
}

fn gap(bytes: u64) -> Vec<u8> {
    format!("\n[prestop: {bytes} bytes of output dropped, nobody reads ours]\n").into_bytes()
}

fn write_all(waiting: &Receiver<Vec<u8>>, mut sink: Sink) {
    while let Ok(chunk) = waiting.recv() {
        if sink.write(&chunk).is_err() {
            return;
        }
    }
    sink.end();
}

enum Sink {
    File(Box<dyn Write + Send>),
    Tracing {
        stream: &'static str,
        speaker: Speaker,
        line: Vec<u8>,
    },
}

impl Sink {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => {
                file.write_all(chunk)?;
                file.flush()
            }
            Self::Tracing { line, .. } => {
                line.extend_from_slice(chunk);
                while let Some(end) = self.line_end() {
                    self.event(end);
                }
                Ok(())
            }
        }
    }

    /// Where the first whole line, or piece of one that is too long, ends.
    fn line_end(&self) -> Option<usize> {
        let Self::Tracing { line, .. } = self else {
            return None;
        };
        let newline = line.iter().take(LINE).position(|byte| *byte == b'\n');
        newline
            .map(|at| at + 1)
            .or((line.len() >= LINE).then_some(LINE))
    }

    fn event(&mut self, end: usize) {
        if let Self::Tracing {
            stream,
            speaker,
            line,
        } = self
        {
            let bytes: Vec<u8> = line.drain(..end).collect();
            let text = String::from_utf8_lossy(&bytes);
            let (child, pid) = (&*speaker.name, speaker.pid);
            tracing::info!(target: "prestop::child", child, pid, stream, "{}", text.trim_end_matches(['\n', '\r']));
        }
    }

    fn end(&mut self) {
        if let Self::Tracing { line, .. } = self {
            let rest = line.len();
            if rest > 0 {
                self.event(rest);
            }
        }
    }
}

/// Looks out for a text, also across two chunks.
struct Watcher {
    what: Vec<u8>,
    tail: Vec<u8>,
    seen: watch::Sender<bool>,
}

impl Watcher {
    fn found(&mut self, chunk: &[u8]) -> bool {
        self.tail.extend_from_slice(chunk);
        let found = self.what.is_empty()
            || self
                .tail
                .windows(self.what.len())
                .any(|window| window == self.what);
        if found {
            self.seen.send_replace(true);
        }
        let keep = self.what.len().saturating_sub(1);
        let before = self.tail.len().saturating_sub(keep);
        self.tail.drain(..before);
        found
    }
}
