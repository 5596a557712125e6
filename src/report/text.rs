//! The report as text, for people: what `println!("{report}")` prints.

use std::fmt;
use std::time::Duration;

use super::{ShutdownReport, Streams};

impl fmt::Display for ShutdownReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |d: Duration| format!("{:.3} s", d.as_secs_f64());
        write!(
            f,
            "{} {} of {} s ({}): {}",
            if self.complete {
                "stopped in"
            } else {
                "stopping for"
            },
            s(self.total),
            self.grace.as_secs_f64(),
            self.reason,
            self.verdict(),
        )?;
        if self.complete {
            write!(f, ", exit code {}", self.exit_code())?;
        }
        if let Some(pod) = &self.pod {
            write!(f, "\n  {pod}")?;
        }
        write!(f, "\n  {:<12}{:>12}{:>12}", "phase", "at most", "used")?;
        for p in &self.phases {
            write!(
                f,
                "\n  {:<12}{:>12}{:>12}",
                p.phase.as_str(),
                s(p.planned),
                s(p.used)
            )?;
        }
        let width = self.hooks.iter().map(|h| h.name.len()).max().unwrap_or(0);
        for hook in &self.hooks {
            let stage = hook.stage.to_string();
            write!(
                f,
                "\n  {stage:<12}{:>12}  {:<width$}  {}",
                s(hook.took),
                hook.name,
                hook.outcome
            )?;
        }
        for r in &self.registries {
            write!(
                f,
                "\n  {:<12}{:>12}  {}  {}",
                "registry",
                s(r.took),
                r.name,
                r.outcome
            )?;
            if let Some(left) = r.visible_for {
                write!(f, ", may be listed for {} more", s(left))?;
            }
            if let Some(error) = &r.error {
                write!(f, ": {error}")?;
            }
        }
        for task in &self.tasks {
            write!(f, "\n  task {:?}: {}", task.name, task.outcome)?;
        }
        if !self.main.is_good() {
            write!(f, "\n  main: {}", self.main)?;
        }
        let r = &self.requests;
        write!(
            f,
            "\n  requests: {} finished ({} while stopping), {} cut, {} refused, {} abandoned by client or handler",
            r.finished, r.finished_while_stopping, r.cut, r.refused, r.abandoned
        )?;
        let streams = &self.streams;
        if *streams != Streams::default() {
            write!(
                f,
                "\n  streams: {} told to end, {} of them ended, {} cut",
                streams.told, streams.ended, streams.cut
            )?;
        }
        for straggler in &self.stragglers {
            let what = if self.complete { "cut" } else { "in flight" };
            write!(f, "\n  {what}: {straggler}")?;
        }
        Ok(())
    }
}
