//! What a preStop or postStart call does, whoever carries it: the hook socket or HTTP.

use std::time::Duration;

use tokio::time::Instant;

use crate::handle::{Guard, ShutdownHandle};
use crate::phase::Phase;
use crate::reason::Reason;
use crate::roster::WorkKind;
use crate::state::Stop;

/// A preStop call that is being waited for. While it lives the drain does not end, so that the process is not gone
/// before its answer is: hooks are told when the drain begins, and that takes no time.
#[derive(Debug)]
pub(crate) struct PreStopCall {
    handle: ShutdownHandle,
    called: Instant,
    guard: Option<Guard>,
}

/// How it went, in one line, and what holds the process until that has been said.
#[derive(Debug)]
pub(crate) struct Answer {
    text: String,
    _until_said: Option<Guard>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl PreStopCall {
    /// Begins the stop. This moment is the start of the kubelet's clock (R10).
    pub(crate) fn begin(handle: &ShutdownHandle) -> Self {
        let called = Instant::now();
        handle.trigger(Reason::PreStopHook);
        Self {
            handle: handle.clone(),
            called,
            // Refused once the drain is over: then there is nothing to wait for.
            guard: handle.guard("answer to the preStop hook").ok(),
        }
    }

    /// How long the answer may take.
    pub(crate) fn longest(&self) -> Duration {
        let stop = self.handle.state().signal().stop;
        stop.map_or(Duration::ZERO, |stop| {
            stop.half().saturating_duration_since(Instant::now())
        })
    }

    /// Resolves when the lame duck is over, and at half of the grace period: what comes after SIGTERM needs its half.
    pub(crate) async fn over(self) -> Answer {
        let mut signal = self.handle.state().subscribe();
        loop {
            let now = *signal.borrow_and_update();
            // Without a stop there would be nothing to wait for; the trigger has made one.
            let by = now.stop.as_ref().map_or(self.called, Stop::half);
            if now.phase >= Phase::Draining || by <= Instant::now() {
                break;
            }
            tokio::select! {
                // An error means that the state is gone: then everything is over.
                changed = signal.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(by) => {}
            }
        }
        Answer {
            text: self.text(),
            _until_said: self.guard,
        }
    }

    fn text(&self) -> String {
        let phase = self.handle.phase();
        let waited = self.called.elapsed().as_secs_f64();
        let how = if phase >= Phase::Draining {
            format!("the lame duck is over, {phase} after {waited:.1} s")
        } else {
            format!("{phase} goes on after {waited:.1} s, but half of the grace period is used")
        };
        let began = match self.handle.reason() {
            None | Some(Reason::PreStopHook) => String::new(),
            Some(earlier) => format!("; the stop had begun before ({earlier})"),
        };
        let left = self.handle.time_left().unwrap_or_default().as_secs_f64();
        format!(
            "{how}{began}; in flight: {}; {left:.1} s left",
            in_flight(&self.handle)
        )
    }
}

/// Who is still in flight, counted by kind: `3 requests, 1 task`. Idle connections, the main future and calls like
/// this one are not worth waiting for.
fn in_flight(handle: &ShutdownHandle) -> String {
    let all = handle.in_flight();
    let counted = [WorkKind::Request, WorkKind::Upgrade, WorkKind::Task].map(|kind| {
        let count = all.iter().filter(|work| work.kind == kind).count();
        match count {
            0 => None,
            1 => Some(format!("1 {kind}")),
            some => Some(format!("{some} {kind}s")),
        }
    });
    let counted: Vec<_> = counted.into_iter().flatten().collect();
    if counted.is_empty() {
        "nothing".to_owned()
    } else {
        counted.join(", ")
    }
}

/// Resolves when the start is over: `Ok` when the service was ready, `Err` when a stop came before that.
#[cfg_attr(not(unix), allow(dead_code))]
pub(crate) async fn started(handle: &ShutdownHandle) -> Result<Answer, Answer> {
    let called = Instant::now();
    let guard = handle.guard("answer to the postStart hook").ok();
    handle.wait_for(Phase::Ready).await;
    let waited = called.elapsed().as_secs_f64();
    let was_ready = handle
        .state()
        .draft(|draft| draft.timeline.began(Phase::Ready))
        .is_some();
    let answer = |text| Answer {
        text,
        _until_said: guard,
    };
    match handle.reason() {
        None => Ok(answer(format!("ready after {waited:.1} s"))),
        Some(reason) if was_ready => Ok(answer(format!(
            "it was ready, now {} ({reason})",
            handle.phase()
        ))),
        Some(reason) => Err(answer(format!("not ready, and will not be: {reason}"))),
    }
}
