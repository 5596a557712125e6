//! [`Output`]: what a program writes on standard output, line by line.

use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;

/// Of a program that writes more, its first and its last lines are kept, so many of each.
const KEPT: usize = 1_000;

#[derive(Debug)]
pub(super) struct Output(watch::Sender<Lines>);

#[derive(Debug, Default)]
struct Lines {
    first: Vec<String>,
    last: VecDeque<String>,
    over: bool,
}

impl Lines {
    fn all(&self) -> impl Iterator<Item = &str> {
        self.first.iter().chain(&self.last).map(String::as_str)
    }

    fn push(&mut self, line: String) {
        if self.first.len() < KEPT {
            self.first.push(line);
            return;
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

impl Output {
    pub(super) fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// Reads to the end, so that a program never waits for its reader.
    pub(super) async fn read(&self, from: impl AsyncRead + Unpin) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // An error is an end, too: nobody reads any more.
        while let Ok(1..) = from.read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']).to_owned();
            line.clear();
            self.0.send_modify(|lines| lines.push(text));
        }
        self.0.send_modify(|lines| lines.over = true);
    }

    /// What `find` makes of the first line of which it makes anything; nothing when the output ends without one.
    pub(super) async fn find<T>(&self, mut find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let mut found = None;
        let look = |lines: &Lines| {
            found = lines.all().find_map(&mut find);
            found.is_some() || lines.over
        };
        // The sender is in `self`.
        let _ = self.0.subscribe().wait_for(look).await;
        found
    }

    /// All of it, when it is over.
    pub(super) async fn whole(&self) -> Vec<String> {
        let mut end = self.0.subscribe();
        let lines = end.wait_for(|lines| lines.over).await;
        lines.map_or_else(
            |_| Vec::new(),
            |lines| lines.all().map(str::to_owned).collect(),
        )
    }

    /// The last lines so far, for an error.
    pub(super) fn last(&self, count: usize) -> String {
        let lines = self.0.borrow();
        let all: Vec<_> = lines.all().collect();
        all[all.len().saturating_sub(count)..].join("\n")
    }
}
