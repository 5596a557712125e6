//! [`SuperviseError`]: what keeps a program from being run.

use std::fmt;
use std::io;

use crate::error::{BoxError, Error};

/// What kept a program from being run. How it ended is no error: it is in
/// [`Supervised`](super::Supervised).
pub struct SuperviseError {
    what: String,
    kind: Kind,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    NotFound,
    NotExecutable,
    Other,
}

impl SuperviseError {
    /// The command itself could not be started.
    pub(super) fn start(name: &str, error: io::Error) -> Self {
        Self {
            what: format!("starting {name}"),
            kind: match error.kind() {
                io::ErrorKind::NotFound => Kind::NotFound,
                io::ErrorKind::PermissionDenied => Kind::NotExecutable,
                // ENOEXEC and its like.
                _ if error.raw_os_error() == Some(8) => Kind::NotExecutable,
                _ => Kind::Other,
            },
            source: Some(error.into()),
        }
    }

    pub(super) fn io(what: &str, name: &str, error: io::Error) -> Self {
        Self {
            what: format!("{what} {name}"),
            kind: Kind::Other,
            source: Some(error.into()),
        }
    }

    pub(super) fn no_output(name: &str) -> Self {
        Self {
            what: format!(
                "{name} is to be ready by a line of its output, which does not come by here: \
                 set Output::Forward or Output::Tracing"
            ),
            kind: Kind::Other,
            source: None,
        }
    }

    /// What a shell would exit with: 127 where there is no such program, 126 where it may not or cannot be run, else
    /// 125, as `env` and `docker run` do for trouble of their own.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::NotFound => 127,
            Kind::NotExecutable => 126,
            Kind::Other => 125,
        }
    }
}

impl From<Error> for SuperviseError {
    fn from(error: Error) -> Self {
        Self {
            what: "running the coordinator".into(),
            kind: Kind::Other,
            source: Some(error.into()),
        }
    }
}

/// The same text as `Display`: `main` prints a returned error by its `Debug`.
impl fmt::Debug for SuperviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SuperviseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SuperviseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
