//! [`Supervised`]: what became of a program.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;

use super::child::code_of;
use super::running::Running;
use crate::exit::exit;
use crate::report::ShutdownReport;

/// What became of a program that was run under the coordinator.
#[must_use = "`.exit()` ends the process with the program's exit code; dropped, it is lost"]
#[derive(Debug)]
#[non_exhaustive]
pub struct Supervised {
    /// What the stop did.
    pub report: ShutdownReport,
    /// How the program ended; `None` where it was never started because the stop had begun, or could not be killed.
    pub status: Option<ExitStatus>,
    asked: bool,
}

impl Supervised {
    pub(crate) fn new(report: ShutdownReport, running: Option<&Arc<Running>>) -> Self {
        let ended = running.and_then(|running| running.ended());
        Self {
            report,
            status: ended.map(|(status, _)| status),
            asked: ended.is_some_and(|(_, asked)| asked),
        }
    }

    /// The program's exit code, or 128 and the number of the signal that ended it, as a shell has it: 143 after
    /// SIGTERM, 137 after SIGKILL.
    ///
    /// The [report's](ShutdownReport::exit_code) where the program exited with 0, so that a registry that could not be
    /// left is not lost; where it was never started; and 70 where it was stopped because its start had failed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let report = self.report.exit_code();
        match self.status {
            Some(_) if self.asked && report == ShutdownReport::START_FAILED => report,
            Some(status) if !status.success() => u8::try_from(code_of(status)).unwrap_or(255),
            _ => report,
        }
    }

    /// Ends the process with [`exit_code`](Self::exit_code); what went wrong, if anything did, is written to standard
    /// error first.
    pub fn exit(self) -> ! {
        let code = i32::from(self.exit_code());
        let words = (!self.report.is_clean()).then(|| {
            let killed = self.status.and_then(|status| status.signal()) == Some(9);
            let hint = if killed && !self.report.stragglers.is_empty() {
                "\n  (it had not ended by the end of the drain, and was killed)"
            } else {
                ""
            };
            let other = if code == i32::from(self.report.exit_code()) {
                String::new()
            } else {
                format!("\n  exit code {code}: the program's own")
            };
            format!("{}{hint}{other}", self.report)
        });
        exit(code, words)
    }
}
