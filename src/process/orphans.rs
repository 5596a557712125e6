//! Orphans: who becomes our child because its parent has ended, and must be reaped by us.
//!
//! PID 1 (and a subreaper) becomes the parent of every process below it whose own parent ends. Nobody else can wait for
//! those, and a pod's process table is finite. But a program has children that somebody waits for, too: tokio's,
//! `std::process`'s, ours. Whoever reaps with "wait for any" takes their exit codes away. So an ended child is reaped
//! here only when it is nobody else's:
//!
//! - not one that [`Child`](super::child::Child) waits for, and
//! - not of our own process group: what this program starts without more ado stays in it, and
//! - seen as ended twice, [`PATIENCE`] apart: whoever waits for it has waited by then.
//!
//! The kernel is asked by `/proc`: `waitid(P_ALL, WNOWAIT)` gives the same ended child again and again, so that one
//! that must be left alone would hide all others.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, WaitId, WaitIdOptions, child_subreaper, getpid, set_child_subreaper, waitid,
};
use tokio::signal::unix::Signal as Arrivals;
use tokio::time::Instant;

use super::table::{self, Entry};
use crate::sync::lock;

/// How long an ended child is left to whoever may be about to wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// SIGCHLD comes per child; a crowd is looked at together.
const TOGETHER: Duration = Duration::from_millis(20);

/// The children that [`Child`](super::child::Child) waits for.
static OURS: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

/// Says, while it lives, that a child is waited for.
pub(super) struct Ours(i32);

/// Held while a child is started.
pub(super) struct Birth(MutexGuard<'static, Option<HashSet<i32>>>);

impl Ours {
    pub(super) fn birth() -> Birth {
        Birth(lock(&OURS))
    }
}

impl Birth {
    pub(super) fn born(&mut self, pid: i32) -> Ours {
        self.0.get_or_insert_default().insert(pid);
        Ours(pid)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(ours) = &mut *lock(&OURS) {
            ours.remove(&self.0);
        }
    }
}

/// Whether orphans come to us: we are PID 1, or have asked for them.
pub(super) fn come_to_us() -> bool {
    getpid().is_init() || child_subreaper().is_ok_and(|subreaper| subreaper.is_some())
}

/// Whether there may be some; no look at the process table where there is no child at all.
pub(super) fn may_be_there() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    come_to_us() && !matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

/// Asks the kernel for them. It concerns the whole process, for as long as it lives.
pub(super) fn adopt() -> std::io::Result<()> {
    // Any value but none; the kernel keeps a flag.
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Whether this child is one that came to us: to be ended and reaped by us, and by nobody else.
fn is_orphan(entry: &Entry, us: &Entry, ours: &HashSet<i32>) -> bool {
    entry.parent == us.pid && entry.group != us.group && !ours.contains(&entry.pid)
}

/// This process. Its group is 0 where the leader is outside of the PID namespace, and so is then that of its children.
fn us() -> Option<Entry> {
    Entry::read(getpid().as_raw_nonzero().get())
}

/// Adopted processes that run, with all that descend from them.
pub(super) fn adopted(entries: &[Entry]) -> Vec<i32> {
    let Some(us) = us().filter(|_| come_to_us()) else {
        return Vec::new();
    };
    let ours = lock(&OURS).clone().unwrap_or_default();
    let orphans = entries.iter().filter(|entry| is_orphan(entry, &us, &ours));
    orphans
        .flat_map(|entry| {
            let below = table::descendants(entries, entry.pid);
            std::iter::once(entry.pid).chain(below)
        })
        .collect()
}

/// Reaps orphans, one look per crowd of SIGCHLD, until it is dropped.
pub(super) async fn reap(mut died: Arrivals) {
    let mut seen: HashMap<(i32, u64), Instant> = HashMap::new();
    loop {
        if seen.is_empty() {
            died.recv().await;
            tokio::time::sleep(TOGETHER).await;
        } else {
            // Somebody is left to others: look again when their time is over.
            tokio::select! {
                _ = died.recv() => tokio::time::sleep(TOGETHER).await,
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
        look(&mut seen);
    }
}

/// One look: reaps whom nobody has reaped since a look at least [`PATIENCE`] ago.
fn look(seen: &mut HashMap<(i32, u64), Instant>) -> usize {
    // Held throughout: no child of ours is born between the look and the reaping.
    let ours = lock(&OURS);
    let empty = HashSet::new();
    let ours = ours.as_ref().unwrap_or(&empty);
    let (Ok(all), Some(us)) = (table::all(), us()) else {
        return 0;
    };
    let mut reaped = 0;
    let mut still = HashMap::new();
    for entry in all.iter().filter(|e| e.zombie && is_orphan(e, &us, ours)) {
        let key = (entry.pid, entry.started);
        let since = seen.get(&key).copied().unwrap_or_else(Instant::now);
        if since.elapsed() < PATIENCE {
            still.insert(key, since);
            continue;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let pid = Pid::from_raw(entry.pid).map(WaitId::Pid);
        if pid.is_some_and(|pid| matches!(waitid(pid, options), Ok(Some(_)))) {
            reaped += 1;
        }
    }
    *seen = still;
    if reaped > 0 {
        tracing::debug!(reaped, "orphans");
    }
    reaped
}
