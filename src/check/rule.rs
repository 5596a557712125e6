//! The rules by id. What each finds, and why, is a section of [`_docs::check`](crate::_docs::check).

use std::fmt;

/// How bad a finding is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "lowercase")
)]
pub enum Severity {
    /// May be meant so.
    Warning,
    /// Loses requests, or does not do what it says.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

macro_rules! rules {
    ($($id:ident $severity:ident $title:literal)*) => {
        /// A rule of the check. Its section in [`_docs::check`](crate::_docs::check) says why it is one, with the source.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $title] $id,)*
        }

        impl Rule {
            /// All of them, in the order of their ids.
            pub const ALL: &'static [Self] = &[$(Self::$id),*];

            /// Its id, as in `PS101`.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$id => stringify!($id),)*
                }
            }

            /// What it finds, in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$id => $title,)*
                }
            }

            /// The rule of this id.
            #[must_use]
            pub fn by_id(id: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|rule| rule.id() == id)
            }

            /// How bad that is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$id => Severity::$severity,)*
                }
            }
        }
    };
}

rules! {
    PS001 Error "silenced without a reason"
    PS002 Warning "silenced, but there is nothing to silence"
    PS003 Error "key stands twice"
    PS004 Error "value of the wrong type"
    PS101 Error "grace period in the environment differs from the spec"
    PS102 Warning "grace period is not told to the process"
    PS103 Error "grace period of zero kills at once"
    PS104 Warning "grace period too short for a lame duck"
    PS105 Error "declared registry visibility does not fit"
    PS106 Warning "probe shortens the grace period"
    PS107 Error "stop does not fit into the grace period"
    PS201 Error "preStop sleep leaves no time for the process"
    PS202 Warning "preStop sleep is not what the process is told"
    PS203 Warning "sleep by a command in the image"
    PS204 Error "hook returns before the program has stopped"
    PS205 Warning "hook waits without a bound for the program to go"
    PS206 Error "hook that always fails"
    PS207 Error "httpGet hook without host on the host's network"
    PS208 Error "port name is not declared"
    PS209 Warning "hook's port is not the probes' port"
    PS210 Error "preStop request without its token"
    PS211 Warning "hook over HTTPS is not verified"
    PS212 Error "hook's socket cannot be created"
    PS301 Error "shell as PID 1 keeps SIGTERM to itself"
    PS302 Warning "stop signal that means something else to the process"
    PS303 Error "SIGKILL as stop signal"
    PS304 Error "stop signal without the operating system"
    PS401 Warning "no readiness probe"
    PS402 Error "liveness asks for readiness"
    PS403 Warning "readiness is slow to notice"
    PS404 Warning "liveness without a startup probe may kill a slow start"
    PS405 Warning "probe's timeout is longer than its period"
    PS406 Warning "readiness asks for liveness"
    PS501 Error "rollout removes the last pod"
    PS502 Warning "rollout removes most pods at once"
    PS503 Warning "disruption budget that never allows a disruption"
    PS504 Warning "proxy is stopped beside the service it serves"
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.id())
    }
}
