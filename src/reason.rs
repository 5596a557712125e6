//! [`Reason`]: what began the stop.

use std::borrow::Cow;
use std::fmt;

/// What began the stop. The first trigger's reason is kept; later triggers can only make the deadline earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Reason {
    /// The program asked, with the cause in its own words.
    Requested(Cow<'static, str>),
    /// A preStop hook called (`exec` or `httpGet`).
    PreStopHook,
    /// A signal arrived; its name, `SIGTERM` for instance.
    Signal(&'static str),
    /// An `on_started` hook failed; which one and why.
    StartFailed(String),
    /// The main future ended by itself; how.
    TaskEnded(String),
}

impl Reason {
    /// A reason in the program's own words.
    #[must_use]
    pub fn requested(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Requested(why.into())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested(why) => write!(f, "requested: {why}"),
            Self::PreStopHook => f.write_str("preStop hook"),
            Self::Signal(name) => f.write_str(name),
            Self::StartFailed(what) => write!(f, "start failed: {what}"),
            Self::TaskEnded(what) => f.write_str(what),
        }
    }
}
