//! [`Signal`]: what a process is told.

use std::fmt;
use std::str::FromStr;

use rustix::process::Signal as Raw;

/// A signal, by the name it has on every Unix.
///
/// ```
/// use prestop::process::Signal;
///
/// let quit: Signal = "QUIT".parse()?;
/// assert_eq!(quit, Signal::QUIT);
/// assert_eq!("sigquit".parse(), Ok(Signal::QUIT));
/// assert_eq!("3".parse(), Ok(Signal::QUIT));
/// assert_eq!(quit.to_string(), "SIGQUIT");
/// # Ok::<(), prestop::process::UnknownSignal>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signal(Raw);

/// What a signal is called without its `SIG`, and what it is.
const NAMES: [(&str, Signal); 12] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ABRT", Signal::ABRT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("ALRM", Signal::ALRM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("WINCH", Signal::WINCH),
];

impl Signal {
    /// Hang-up: read the configuration again, by custom.
    pub const HUP: Self = Self(Raw::HUP);
    /// Ctrl-C.
    pub const INT: Self = Self(Raw::INT);
    /// nginx: finish the requests in flight, then exit. JVM: a thread dump.
    pub const QUIT: Self = Self(Raw::QUIT);
    /// End with a core dump.
    pub const ABRT: Self = Self(Raw::ABORT);
    /// The end, without a chance to object.
    pub const KILL: Self = Self(Raw::KILL);
    /// By the program's own meaning; nginx: open the log files again.
    pub const USR1: Self = Self(Raw::USR1);
    /// By the program's own meaning; nginx: start a new binary beside the old.
    pub const USR2: Self = Self(Raw::USR2);
    /// A timer's end.
    pub const ALRM: Self = Self(Raw::ALARM);
    /// Please end: what the kubelet sends, unless the image says otherwise.
    pub const TERM: Self = Self(Raw::TERM);
    /// Go on, for a process that was stopped.
    pub const CONT: Self = Self(Raw::CONT);
    /// Stop, until `CONT`.
    pub const STOP: Self = Self(Raw::STOP);
    /// The terminal's size changed; nginx: the workers finish.
    pub const WINCH: Self = Self(Raw::WINCH);

    /// Its number on this system.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0.as_raw()
    }

    pub(super) const fn raw(self) -> Raw {
        self.0
    }
}

/// Its name with `SIG`.
pub(super) fn name_of(number: i32) -> String {
    let known = NAMES.iter().find(|(_, signal)| signal.number() == number);
    known.map_or_else(
        || format!("signal {number}"),
        |(name, _)| format!("SIG{name}"),
    )
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// `QUIT`, `SIGQUIT`, `sigquit` or its number.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let upper = text.trim().to_ascii_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = short.parse::<i32>().ok();
        NAMES
            .iter()
            .find(|(name, signal)| *name == short || Some(signal.number()) == number)
            .map(|(_, signal)| *signal)
            .ok_or_else(|| UnknownSignal(text.to_owned()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&name_of(self.number()))
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that names no signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSignal(String);

impl fmt::Display for UnknownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no signal; known are", self.0)?;
        for (name, _) in NAMES {
            write!(f, " {name}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownSignal {}
