//! [`Roster`]: who is in flight. The count says how many, the roster says who they are and can cut them.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slab::Slab;

use crate::in_flight::thread_number;
use crate::sync::lock;

/// What kind of work was still in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum WorkKind {
    /// A connection that had not sent a whole request head, or had not closed after its last answer.
    Connection,
    /// A request whose response body had not ended.
    Request,
    /// A socket that was upgraded (WebSocket, CONNECT).
    Upgrade,
    /// A task started with [`spawn`](crate::ShutdownHandle::spawn).
    Task,
    /// A [`guard`](crate::ShutdownHandle::guard) that was held.
    Guard,
    /// The future given to [`run`](crate::ShutdownCoordinator::run).
    Main,
    /// A program that was run under the coordinator, or what it left behind.
    Process,
}

impl fmt::Display for WorkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Upgrade => "upgrade",
            Self::Task => "task",
            Self::Guard => "guard",
            Self::Main => "main",
            Self::Process => "process",
        })
    }
}

/// A piece of work that was in flight when the drain's time was up, and was cut.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Straggler {
    /// What it was.
    pub kind: WorkKind,
    /// Method and path of a request, the name of a task or guard (with the line that made it); empty for a
    /// connection that never said what it wanted.
    pub what: Cow<'static, str>,
    /// Who was at the other end, where that is known.
    pub peer: Option<SocketAddr>,
    /// How long it had been in flight.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "age_ms", serialize_with = "crate::timeline::millis")
    )]
    pub age: Duration,
    /// Bytes received and sent on its connection, where they are counted.
    pub bytes: Option<(u64, u64)>,
}

impl fmt::Display for Straggler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if !self.what.is_empty() {
            write!(f, " {}", self.what)?;
        }
        if let Some(peer) = self.peer {
            write!(f, " from {peer}")?;
        }
        write!(f, ", {:.1} s old", self.age.as_secs_f64())?;
        if let Some((received, sent)) = self.bytes {
            write!(f, ", {received} bytes in, {sent} out")?;
        }
        Ok(())
    }
}

/// Something that is in flight.
pub(crate) trait Work: Send + Sync {
    /// Adds what is in flight here, if anything is.
    fn describe(&self, into: &mut Vec<Straggler>);

    /// Force close: nothing of it may go on.
    fn cut(&self);
}

type Entries = Mutex<Slab<Arc<dyn Work>>>;

/// Who is in flight. Sharded by thread, since the layer on a stock server enters every request.
pub(crate) struct Roster {
    shards: Box<[Arc<Entries>]>,
}

impl Roster {
    /// As many as `InFlight` has at the most; each is a lock over an empty list.
    const SHARDS: usize = 16;

    pub(crate) fn new() -> Self {
        Self {
            shards: (0..Self::SHARDS).map(|_| Arc::default()).collect(),
        }
    }

    /// Enters the work until the entry is dropped.
    pub(crate) fn enter(&self, work: Arc<dyn Work>) -> Entry {
        let shard = self.shards[thread_number() % Self::SHARDS].clone();
        let key = lock(&shard).insert(work);
        Entry { shard, key }
    }

    /// Everything that is in flight now, oldest first.
    pub(crate) fn stragglers(&self) -> Vec<Straggler> {
        let mut found = Vec::new();
        for work in self.everybody() {
            work.describe(&mut found);
        }
        found.sort_by_key(|s| std::cmp::Reverse(s.age));
        found
    }

    /// Cuts everything that is in flight now.
    pub(crate) fn cut(&self) {
        for work in self.everybody() {
            work.cut();
        }
    }

    /// A copy, so that no lock is held while work is described or cut: cutting drops entries.
    fn everybody(&self) -> Vec<Arc<dyn Work>> {
        self.shards
            .iter()
            .flat_map(|shard| {
                lock(shard)
                    .iter()
                    .map(|(_, work)| work.clone())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len: usize = self.shards.iter().map(|s| lock(s).len()).sum();
        f.debug_struct("Roster")
            .field("len", &len)
            .finish_non_exhaustive()
    }
}

/// An entry in the roster; dropped, it is gone from there.
pub(crate) struct Entry {
    shard: Arc<Entries>,
    key: usize,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Out of the lock first: dropping the work may drop entries of its own.
        let work = lock(&self.shard).try_remove(self.key);
        drop(work);
    }
}
