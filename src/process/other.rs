//! [`Process`]: a process that is not our child, held by what names it for good.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::signal::Signal;
use super::table::{self, Entry, is_called};
use crate::deadline::Deadline;

/// How often is asked after a process where the kernel (before 5.3) or a sandbox has no pidfd.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A pidfile is older than its process by no more than this: some programs are named there by their parent.
const WRITTEN_EARLY: Duration = Duration::from_secs(2);

/// A running process that need not be a child of this one: to be signalled, and waited for until it is gone.
///
/// It is held by a pidfd, so that a pid which is used again meanwhile is neither signalled nor waited for. On kernels
/// without pidfd (before 5.3), and in sandboxes that forbid it, by its pid and start time, asked every 50 ms.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use prestop::Deadline;
/// use prestop::process::{Process, Signal};
/// use std::time::Duration;
///
/// let mut child = std::process::Command::new("sleep").arg("60").spawn()?;
/// let process = Process::open(child.id())?;
/// process.signal(Signal::TERM)?;
/// assert!(process.gone(Deadline::after(Duration::from_secs(10))).await);
/// # child.wait()?;
/// # Ok(()) }
/// ```
pub struct Process {
    entry: Entry,
    pidfd: Option<OwnedFd>,
}

impl Process {
    /// The process with this pid.
    ///
    /// # Errors
    ///
    /// [`ProcessError::is_not_found`] where there is none, or only what is left of one that has ended.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let not_found = || ProcessError {
            what: format!("there is no process {pid}"),
            kind: Kind::NotFound,
        };
        let number = i32::try_from(pid).map_err(|_| not_found())?;
        let raw = Pid::from_raw(number).ok_or_else(not_found)?;
        let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(Errno::SRCH | Errno::INVAL) => return Err(not_found()),
            // ENOSYS before 5.3, EPERM from a seccomp filter.
            Err(_) => None,
        };
        // Read after the pidfd was opened: if this is another process by now, the pidfd's is gone, and signals to it
        // fail with "no such process".
        let entry = Entry::read(number).filter(|entry| !entry.zombie);
        entry
            .map(|entry| Self { entry, pidfd })
            .ok_or_else(not_found)
    }

    /// The process whose pid is in this file.
    ///
    /// # Errors
    ///
    /// - [`ProcessError::is_unreadable`]: there is no such file, or no pid in it.
    /// - [`ProcessError::is_not_found`]: no such process.
    /// - [`ProcessError::is_stale`]: the process is younger than the file: the pid was given to another since.
    pub fn from_pidfile(file: &Path) -> Result<Self, ProcessError> {
        let unreadable = |why: String| ProcessError {
            what: format!("the pidfile {}: {why}", file.display()),
            kind: Kind::Unreadable,
        };
        let text = std::fs::read_to_string(file).map_err(|e| unreadable(e.to_string()))?;
        let pid: u32 = text
            .trim()
            .parse()
            .map_err(|_| unreadable("it does not hold a pid and nothing else".into()))?;
        let process = Self::open(pid).map_err(|e| ProcessError {
            what: format!("{e}, whatever the pidfile {} says", file.display()),
            ..e
        })?;
        let written = std::fs::metadata(file).and_then(|about| about.modified());
        let written = written.map_err(|e| unreadable(e.to_string()))?;
        // A clock that was set back makes the file come from the future: then nothing can be said.
        let file_age = SystemTime::now().duration_since(written);
        if let (Ok(file_age), Some(age)) = (file_age, process.age())
            && age + WRITTEN_EARLY < file_age
        {
            return Err(ProcessError {
                what: format!(
                    "process {pid} ({}) has run for {age:.1?}, but the pidfile {} was written {file_age:.1?} ago: \
                     the pid was given to another process since",
                    process.name(),
                    file.display()
                ),
                kind: Kind::Stale,
            });
        }
        Ok(process)
    }

    /// The processes of this name, found as `pidof` does: by the file they run or what they call themselves, each by
    /// its base name or whole; without this process. Children of one that is found are not listed: with `nginx` it is
    /// the master alone. Sorted by pid; empty when there is none.
    ///
    /// # Errors
    ///
    /// [`ProcessError::is_unreadable`] without `/proc`.
    pub fn find(name: &str) -> Result<Vec<Self>, ProcessError> {
        let all = table::all().map_err(|e| ProcessError {
            what: format!("reading /proc: {e}"),
            kind: Kind::Unreadable,
        })?;
        let own = std::process::id();
        let called: Vec<&Entry> = all
            .iter()
            .filter(|e| !e.zombie && u32::try_from(e.pid) != Ok(own) && is_called(e, name))
            .collect();
        let is_child = |entry: &Entry| called.iter().any(|other| other.pid == entry.parent);
        let mut found: Vec<Self> = called
            .iter()
            .filter(|entry| !is_child(entry))
            .filter_map(|entry| {
                let process = Self::open(u32::try_from(entry.pid).ok()?).ok()?;
                // The same as a moment ago.
                (process.entry.started == entry.started).then_some(process)
            })
            .collect();
        found.sort_by_key(|process| process.entry.pid);
        Ok(found)
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.entry.pid.unsigned_abs()
    }

    /// The kernel's name of it, at most 15 bytes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.comm
    }

    /// For how long it has run, where `/proc` says so.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
        let ticks = rustix::param::clock_ticks_per_second();
        let started = self.entry.started as f64 / ticks as f64;
        Duration::try_from_secs_f64((uptime - started).max(0.0)).ok()
    }

    /// Sends it the signal.
    ///
    /// # Errors
    ///
    /// [`ProcessError::is_not_found`] when it is gone, [`ProcessError::is_permission`] when it belongs to somebody else.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let sent = match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd, signal.raw()),
            None if self.is_gone() => Err(Errno::SRCH),
            None => Pid::from_raw(self.entry.pid)
                .map_or(Err(Errno::SRCH), |pid| kill_process(pid, signal.raw())),
        };
        sent.map_err(|error| ProcessError {
            what: format!("sending {signal} to {self}: {}", io::Error::from(error)),
            kind: match error {
                Errno::SRCH => Kind::NotFound,
                Errno::PERM => Kind::Permission,
                _ => Kind::Other,
            },
        })
    }

    /// Whether it has ended. One that its parent has not waited for yet has.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        Entry::read(self.entry.pid)
            .is_none_or(|now| now.zombie || now.started != self.entry.started)
    }

    /// Waits until it has ended; whether it has by the deadline.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn gone(&self, by: Deadline) -> bool {
        by.bound(async {
            if let Some(pidfd) = &self.pidfd {
                readable(pidfd).await;
            }
            // With a pidfd this is true at once, unless waiting for it failed.
            while !self.is_gone() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        })
        .await
        .is_some()
            || self.is_gone()
    }
}

/// Resolves when the process of the pidfd has ended, or when that can't be waited for.
pub(super) async fn readable(pidfd: &OwnedFd) {
    if let Some(ready) = register(pidfd) {
        // An error means that the runtime shuts down.
        let _ = ready.readable().await;
    }
}

/// `None` where the runtime has no I/O driver: then tokio panics.
fn register(pidfd: &OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // A descriptor of its own: the same one can't be registered by two who wait.
    let pidfd = pidfd.try_clone().ok()?;
    // Its successor is younger than the oldest tokio that we take. An owned descriptor is what it asks for.
    #[allow(deprecated)]
    let register = || AsyncFd::with_interest(pidfd, Interest::READABLE);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(register))
        .ok()?
        .ok()
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid(), self.name())
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("pid", &self.pid())
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_pidfd_it_is_held_by_its_start_time() {
        let sleep = || std::process::Command::new("sleep").arg("1000").spawn();
        let (mut child, mut other) = (sleep().expect("sleep"), sleep().expect("sleep"));
        let mut process = Process::open(child.id()).expect("it runs");
        process.pidfd = None;
        assert!(!process.gone(Deadline::after(Duration::ZERO)).await);
        process.signal(Signal::TERM).expect("our own");
        assert!(process.gone(Deadline::after(Duration::from_secs(20))).await);

        // The pid goes to another: as if it were this one.
        process.entry.pid = i32::try_from(other.id()).expect("a pid");
        process.entry.started -= 1;
        assert!(process.is_gone());
        assert!(
            process
                .signal(Signal::KILL)
                .is_err_and(|e| e.is_not_found())
        );
        assert!(
            other.try_wait().expect("our own").is_none(),
            "it was not hit"
        );
        other.kill().expect("our own");
        other.wait().expect("our own");
        child.wait().expect("our own");
    }
}

/// Why a process could not be found or signalled.
#[derive(Debug)]
pub struct ProcessError {
    what: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    NotFound,
    Permission,
    Stale,
    Unreadable,
    Other,
}

impl ProcessError {
    /// There is no such process (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// It belongs to somebody else.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.kind == Kind::Permission
    }

    /// The pid in a pidfile was given to another process since.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.kind == Kind::Stale
    }

    /// A pidfile or `/proc` could not be read.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.kind == Kind::Unreadable
    }
}

impl fmt::Display for ProcessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for ProcessError {}
