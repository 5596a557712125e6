//! [`Running`]: a program from its start to its end, and what it leaves behind.

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal as Arrivals;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::child::{Child, ending};
use super::orphans;
use super::other::Process;
use super::output::Pump;
use super::plan::{StopPlan, StopStep};
use super::ready::ReadyWhen;
use super::signal::Signal;
use super::table;
use crate::deadline::Deadline;
use crate::handle::{Guard, ShutdownHandle};
use crate::phase::Phase;
use crate::reason::Reason;
use crate::report::Outcome;
use crate::roster::{Straggler, Work, WorkKind};
use crate::sync::lock;

/// How long the last of its output is waited for once the program has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A program that was started.
pub(crate) struct Running {
    name: String,
    child: Arc<Child>,
    pump: Option<Pump>,
    /// Per sign of readiness, what was before the program was started.
    before: Vec<Option<SystemTime>>,
    since: Instant,
    ended: Mutex<Ended>,
}

#[derive(Default)]
struct Ended {
    status: Option<ExitStatus>,
    /// It ended because its stop plan asked.
    asked: bool,
    /// What it left behind.
    left: Vec<Process>,
}

impl Running {
    pub(super) fn new(
        name: String,
        child: Arc<Child>,
        pump: Option<Pump>,
        before: Vec<Option<SystemTime>>,
    ) -> Self {
        Self {
            name,
            child,
            pump,
            before,
            since: Instant::now(),
            ended: Mutex::default(),
        }
    }

    /// How it ended, and whether its stop plan had asked for that.
    pub(crate) fn ended(&self) -> Option<(ExitStatus, bool)> {
        let ended = lock(&self.ended);
        ended.status.map(|status| (status, ended.asked))
    }

    /// Waits for every sign that it serves.
    pub(crate) async fn ready(&self, signs: &[ReadyWhen]) {
        for (sign, before) in signs.iter().zip(&self.before) {
            sign.seen(*before, self.pump.as_ref()).await;
            tracing::info!(child = self.name, %sign, "serves");
        }
    }

    /// Carries a `leave` step out, if there is anybody to leave.
    pub(crate) async fn leave(&self, step: &StopStep, by: Deadline) -> Result<(), String> {
        match self.ended() {
            None => step.act(&self.child, by).await,
            Some(_) => Ok(()),
        }
    }

    /// Waits for the last of its output to be passed on, for a moment at the most.
    pub(crate) async fn flush(&self) {
        if let Some(pump) = &self.pump {
            pump.flush(LAST_WORDS).await;
        }
    }

    /// What it left behind: of its process group, and, where orphans come to us, whoever else came.
    fn leftovers(&self) -> Vec<Process> {
        if !self.child.left_a_group() && !orphans::may_be_there() {
            return Vec::new();
        }
        let Ok(all) = table::all() else {
            return Vec::new();
        };
        let adopted = orphans::adopted(&all);
        all.iter()
            .filter(|e| !e.zombie && (e.group == self.child.pid() || adopted.contains(&e.pid)))
            .filter_map(|e| Process::open(e.pid.unsigned_abs()).ok())
            .collect()
    }

    fn describe_process(&self, what: String, into: &mut Vec<Straggler>) {
        into.push(Straggler {
            kind: WorkKind::Process,
            what: what.into(),
            peer: None,
            age: self.since.elapsed(),
            bytes: None,
        });
    }
}

impl Work for Running {
    fn describe(&self, into: &mut Vec<Straggler>) {
        let ended = lock(&self.ended);
        if ended.status.is_none() {
            self.describe_process(format!("{} (pid {})", self.name, self.child.pid()), into);
        }
        for process in ended.left.iter().filter(|process| !process.is_gone()) {
            let (name, pid) = (process.name(), process.pid());
            let what = format!("{name} (pid {pid}), left behind by {}", self.name);
            self.describe_process(what, into);
        }
    }

    /// SIGKILL to the program, its group, and all that descends from it.
    fn cut(&self) {
        let all = table::all().unwrap_or_default();
        // Looked up while it lives: afterwards nobody knows whose children they were.
        let mut family = table::descendants(&all, self.child.pid());
        family.extend(orphans::adopted(&all));
        let family: Vec<_> = family
            .into_iter()
            .filter_map(|pid| Process::open(pid.unsigned_abs()).ok())
            .collect();
        self.child.signal_group(Signal::KILL);
        let ended = lock(&self.ended);
        for process in family.iter().chain(&ended.left) {
            // It may have ended by now, or be another user's, whom only its own parent can end.
            let _ = process.signal(Signal::KILL);
        }
    }
}

/// The task beside the program.
pub(super) struct Follow {
    pub(super) running: Arc<Running>,
    pub(super) handle: ShutdownHandle,
    pub(super) plan: StopPlan,
    /// SIGCHLD, where orphans come to us.
    pub(super) died: Option<Arrivals>,
    pub(super) forward: Vec<(Signal, Arrivals)>,
}

impl Follow {
    pub(super) fn start(self) {
        // Holds the drain open until the program has ended. Refused only when everything is over: then it is killed.
        let guard = self.handle.enter(self.running.clone());
        if guard.is_err() {
            self.running.cut();
        }
        tokio::spawn(self.run(guard.ok()));
    }

    async fn run(self, guard: Option<Guard>) {
        let Self {
            running,
            handle,
            plan,
            died,
            forward,
        } = self;
        // Whoever drops this task ends the program: the runtime's end is one.
        let mut killed = KillOnDrop(Some(running.clone()));
        let _reaper = died.map(|died| AbortOnDropHandle::new(tokio::spawn(orphans::reap(died))));
        let _forward: Vec<_> = forward
            .into_iter()
            .map(|(signal, arrivals)| {
                pass_on(running.child.clone(), handle.clone(), signal, arrivals)
            })
            .collect();

        let by_itself = tokio::select! {
            biased;
            status = running.child.exited() => Some(status),
            () = handle.wait_for(Phase::Draining) => None,
        };
        let asked = by_itself.is_none();
        let trouble = |why: String| {
            let outcome = Outcome::Failed(why);
            handle
                .state()
                .draft(|d| d.task_failed(&running.name, outcome));
        };
        let status = match by_itself {
            Some(status) => status,
            None => plan.carry_out(&running.child, &handle, trouble).await,
        };
        {
            let mut ended = lock(&running.ended);
            ended.status = Some(status);
            ended.asked = asked;
        }
        let phase = handle.phase();
        let words = format!(
            "{} (pid {}) ended: {}",
            running.name,
            running.child.pid(),
            ending(status)
        );
        // A cut program ended as it was told.
        let cut = handle.state().signal().cut;
        let good = match (asked, phase.is_stopping()) {
            (true, _) => cut || plan.expects(status),
            (false, true) => false,
            (false, false) => status.success(),
        };
        if good {
            tracing::info!("{words}");
        } else {
            let by = if asked { "" } else { ", by itself" };
            tracing::error!(%phase, "{words}{by}");
            trouble(format!("{}{by} in {phase}", ending(status)));
        }

        let left = running.leftovers();
        if left.is_empty() && !asked {
            // Nobody serves any more: there is nothing to wait for.
            handle.end_lame_duck();
        }
        handle.trigger(Reason::TaskEnded(words));
        if !left.is_empty() {
            end_leftovers(&running, &handle, left).await;
        }
        killed.0 = None;
        drop(guard);
    }
}

/// What a program leaves behind when it ends gets SIGTERM in the drain and is waited for; it is killed at its end.
async fn end_leftovers(running: &Running, handle: &ShutdownHandle, mut left: Vec<Process>) {
    tracing::warn!(
        child = running.name,
        left = left.len(),
        "ended, but left processes behind: does it put itself into the background?"
    );
    lock(&running.ended).left = left;
    handle.wait_for(Phase::Draining).await;
    loop {
        left = running.leftovers();
        if left.is_empty() {
            return;
        }
        for process in &left {
            // One that has ended meanwhile, or may not be signalled, shows in the report.
            let _ = process.signal(Signal::TERM);
            let _ = process.signal(Signal::CONT);
        }
        let pids: Vec<u32> = left.iter().map(Process::pid).collect();
        lock(&running.ended).left = left;
        for pid in pids {
            if let Ok(process) = Process::open(pid) {
                process.gone(Deadline::after(FAR)).await;
            }
        }
    }
}

/// Longer than any drain, whose end kills them.
const FAR: Duration = Duration::from_secs(86_400);

/// Kills the program unless it was taken out.
struct KillOnDrop(Option<Arc<Running>>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(running) = &self.0 {
            running.cut();
        }
    }
}

/// Passes a signal on as often as it comes, until it is dropped. A reload or a new binary would undo a stop that has
/// begun: nginx starts workers, and closes its connections for that.
fn pass_on(
    child: Arc<Child>,
    handle: ShutdownHandle,
    signal: Signal,
    mut arrivals: Arrivals,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        while arrivals.recv().await.is_some() {
            if handle.phase().is_stopping() && matches!(signal, Signal::HUP | Signal::USR2) {
                tracing::warn!(%signal, pid = child.pid(), "not passed on: the stop has begun");
                continue;
            }
            tracing::info!(%signal, pid = child.pid(), "passed on");
            child.signal(signal);
        }
    }))
}
