//! [`HookError`]: what keeps a hook from being answered.

use std::fmt;

/// What kept a hook from doing its work. Its text is one line that says what was tried and what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct HookError {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody is at the socket, or there is none.
    NoProcess,
    /// The process said that its start failed.
    NotStarted,
    /// The process went away before it answered, or what it said makes no sense.
    BrokenOff,
    /// No answer in time.
    TimedOut,
    /// The socket or who is at its other end is not to be trusted.
    Refused,
}

impl HookError {
    pub(super) const fn new(kind: Kind, text: String) -> Self {
        Self { kind, text }
    }

    /// The exit code of a hook that ends this way:
    ///
    /// | code | |
    /// |---|---|
    /// | 69 | no process is at the socket |
    /// | 70 | the process said that its start failed |
    /// | 74 | the process went away before it answered |
    /// | 75 | no answer in time: the process is frozen, or has no CPU |
    /// | 77 | refused: the socket's directory, or who is at the other end, is not to be trusted |
    ///
    /// 0 is success, 2 a wrong argument. (The numbers are those of `sysexits.h`, and 70 is a failed start in
    /// [`ShutdownReport`](crate::ShutdownReport), too.)
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::NoProcess => 69,
            Kind::NotStarted => 70,
            Kind::BrokenOff => 74,
            Kind::TimedOut => 75,
            Kind::Refused => 77,
        }
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The same text as `Display`: `main` prints a returned error by its `Debug`.
impl fmt::Debug for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for HookError {}
