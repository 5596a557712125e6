//! What a time on a real clock can be held to, on a machine that may be busy with something else.
//!
//! A time is never early: that holds anywhere. How late it may be is 100 ms, the noise of the table of observed times,
//! and what this machine is late by itself in the same seconds, which is measured: a process that does nothing is
//! started, again and again, and so are timers. What is later than that is tried again, aloud; five times is a failure.

use std::future::Future;
use std::time::Duration;

use prestop::kubelet::Timeline;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::s;

/// What the table of observed times grants.
pub(crate) const NOISE: Duration = Duration::from_millis(100);
const TRIES: u32 = 5;

/// The control: what waiting and starting a process cost here and now, at the worst.
struct Control(JoinHandle<()>, tokio::sync::watch::Receiver<Duration>);

impl Control {
    fn start() -> Self {
        let (worst, seen) = tokio::sync::watch::channel(Duration::ZERO);
        let measure = tokio::spawn(async move {
            loop {
                let since = Instant::now();
                Command::new("true").status().await.expect("true is there");
                let process = since.elapsed();
                worst.send_modify(|worst| *worst = (*worst).max(process));
                // Rarely enough to be no load itself.
                for _ in 0..10 {
                    let since = Instant::now();
                    sleep(s(0.02)).await;
                    let late = since.elapsed().saturating_sub(s(0.02));
                    worst.send_modify(|worst| *worst = (*worst).max(late));
                }
            }
        });
        Self(measure, seen)
    }

    fn worst(&self) -> Duration {
        *self.1.borrow()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What was seen, and when it should have been.
pub(crate) struct Times(
    pub(crate) Timeline,
    pub(crate) Vec<(&'static str, Option<Duration>, f64)>,
);

/// Does it, until no time is later than it may be. A time that is early, or that did not come, fails at once.
pub(crate) async fn on_time<F: Future<Output = Times>>(name: &str, what: impl Fn() -> F) {
    let mut said = String::new();
    for _ in 0..TRIES {
        let control = Control::start();
        let Times(timeline, times) = what().await;
        // A hook, a signal and an end are three processes that need their turn.
        let late = NOISE + 3 * control.worst();
        let mut off = Vec::new();
        for (event, seen, wanted) in times {
            let seen = seen.unwrap_or_else(|| panic!("{name}: {event} did not happen\n{timeline}"));
            assert!(
                seen >= s(wanted),
                "{name}: {event} at {seen:?}, before {wanted} s\n{timeline}"
            );
            if seen > s(wanted) + late {
                off.push(format!("{event} at {seen:?}, not {wanted} s + {late:?}"));
            }
        }
        if off.is_empty() {
            return;
        }
        said = format!("{}\n{timeline}", off.join(", "));
        println!("AGAIN: {name}: {said}");
    }
    panic!("{name}, {TRIES} times: {said}");
}
