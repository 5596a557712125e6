//! [`Child`]: a child process that is signalled, waited for and reaped under one lock.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, kill_process, kill_process_group,
    pidfd_open, test_kill_process_group, waitid,
};
use tokio::sync::watch;

use super::orphans::Ours;
use super::other::readable;
use super::signal::{Signal, name_of};
use crate::sync::lock;

/// A child process, leader of a process group of its own.
///
/// Nobody else may wait for it. Its pid stays its own until it is reaped, which happens under the lock that signals
/// are sent under: no signal ever goes to a successor of the pid.
pub(super) struct Child {
    pid: Pid,
    pidfd: Option<OwnedFd>,
    status: Mutex<Option<ExitStatus>>,
    /// True once it has ended, where a thread waits in place of a pidfd.
    ended: Option<watch::Receiver<bool>>,
    _ours: Ours,
}

impl Child {
    /// Starts the command in a process group of its own.
    ///
    /// # Errors
    ///
    /// The system's: there is no such program, it may not be run, ...
    pub(super) fn spawn(command: &mut Command) -> io::Result<(Arc<Self>, std::process::Child)> {
        // The orphanage's scan waits meanwhile: it must not meet a child of ours that it does not know yet.
        let mut birth = Ours::birth();
        let spawned = command.process_group(0).spawn()?;
        let pid = Pid::from_child(&spawned);
        let ours = birth.born(pid.as_raw_nonzero().get());
        drop(birth);
        // Not reaped yet by anybody: the pid is still this child's.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        let ended = pidfd.is_none().then(|| wait_on_a_thread(pid)).transpose()?;
        let child = Self {
            pid,
            pidfd,
            status: Mutex::default(),
            ended,
            _ours: ours,
        };
        Ok((Arc::new(child), spawned))
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits until it has ended, and reaps it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub(super) async fn exited(&self) -> ExitStatus {
        match (&self.pidfd, &self.ended) {
            (Some(pidfd), _) => readable(pidfd).await,
            (None, Some(ended)) => {
                // An error means that the thread is gone, which it is when the child has ended.
                let _ = ended.clone().wait_for(|ended| *ended).await;
            }
            (None, None) => {}
        }
        loop {
            if let Some(status) = self.try_exited() {
                return status;
            }
            // Only where the pidfd could not be waited for: a runtime without an I/O driver.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// How it ended, if it has; reaps it then.
    pub(super) fn try_exited(&self) -> Option<ExitStatus> {
        let mut status = lock(&self.status);
        if status.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            *status = match waitid(WaitId::Pid(self.pid), options) {
                Ok(ended) => ended.as_ref().map(exit_status),
                // Somebody in this process waits for children that are not his. What it was cannot be known.
                Err(Errno::CHILD) => Some(ExitStatus::from_raw(255 << 8)),
                Err(_) => None,
            };
        }
        *status
    }

    /// Sends it the signal, if it has not ended.
    pub(super) fn signal(&self, signal: Signal) {
        self.send(|| kill_process(self.pid, signal.raw()));
    }

    /// Sends the signal to its process group, if the child itself has not ended.
    pub(super) fn signal_group(&self, signal: Signal) {
        self.send(|| kill_process_group(self.pid, signal.raw()));
    }

    fn send(&self, kill: impl FnOnce() -> rustix::io::Result<()>) {
        let status = lock(&self.status);
        if status.is_none()
            && let Err(error) = kill()
        {
            // Its uid may have changed: setuid programs.
            tracing::warn!(pid = self.pid(), %error, "signal not sent");
        }
    }

    /// Whether the group that it led may have members after it was reaped.
    pub(super) fn left_a_group(&self) -> bool {
        test_kill_process_group(self.pid) != Err(Errno::SRCH)
    }
}

/// Waits for the child without reaping it, on a thread: before Linux 5.3, and where a sandbox forbids pidfds.
fn wait_on_a_thread(pid: Pid) -> io::Result<watch::Receiver<bool>> {
    let (tell, ended) = watch::channel(false);
    std::thread::Builder::new()
        .name("prestop-wait".into())
        .spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
            let _ = tell.send(true);
        })?;
    Ok(ended)
}

fn exit_status(ended: &WaitIdStatus) -> ExitStatus {
    let raw = match (ended.exit_status(), ended.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) => signal,
        (None, None) => 255 << 8,
    };
    ExitStatus::from_raw(raw)
}

/// What a shell would say: the exit code, or 128 and the number of the signal.
pub(super) fn code_of(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

/// `exit code 3`, or `SIGKILL`.
pub(super) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => name_of(signal),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn codes_and_signals_are_told_apart() {
        for (script, code, words) in [
            ("exit 0", 0, "exit code 0"),
            ("exit 3", 3, "exit code 3"),
            ("kill -TERM $$", 143, "SIGTERM"),
            ("kill -KILL $$", 137, "SIGKILL"),
        ] {
            let (child, _) = Child::spawn(&mut sh(script)).expect("sh");
            let status = child.exited().await;
            assert_eq!((code_of(status), ending(status).as_str()), (code, words));
            assert_eq!(child.exited().await, status, "asked again");
        }
    }

    #[tokio::test]
    async fn without_a_pidfd_a_thread_waits() {
        // Not one that reads: with an empty standard input it would have ended already.
        let (child, _) = Child::spawn(&mut sh("exec sleep 1000")).expect("sh");
        let pid = child.pid;
        let ended = wait_on_a_thread(pid).expect("a thread");
        assert!(!*ended.borrow());
        child.signal(Signal::KILL);
        let mut ended = ended;
        ended.wait_for(|ended| *ended).await.expect("told");
        assert_eq!(
            child.try_exited().map(code_of),
            Some(137),
            "not reaped by the thread"
        );
    }
}
