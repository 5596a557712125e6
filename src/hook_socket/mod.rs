//! The hook socket: how `exec` hooks of the kubelet reach the process.
//!
//! `server` answers in the process, on a thread of its own; `client` asks, without a runtime; `place` is where both
//! look for the socket, and whom they trust there; `words` is what goes over it; `exec` is the hook in the user's own
//! binary.

mod client;
mod error;
mod exec;
mod place;
mod server;
mod words;

use std::path::PathBuf;
use std::time::Duration;

pub use error::HookError;
pub use exec::exec_hook;
pub(crate) use server::HookServer;
use words::Request;

/// The Unix socket over which a preStop or postStart hook of the kind `exec` reaches the process.
///
/// The process opens it ([`hook_socket`](crate::ShutdownCoordinatorBuilder::hook_socket)), the hook calls it: the
/// user's own binary ([`exec_hook`]) or the small one that comes with this crate (`prestop hook`). Both must look at the
/// same place: a hook gets the environment of its container, so what the manifest says holds for both.
///
/// The socket is never an abstract one (any process of the pod may call those). Its directory is created with mode 0700, and
/// refused when it belongs to another user or others may write to it; both ends ask the kernel who is at the other one
/// and go on only for the same user or root (S15).
///
/// Which kind of hook when, with manifests, and what each failure prints: [`_docs::hooks`](crate::_docs::hooks).
#[derive(Clone, Debug, Default)]
pub struct HookSocket {
    /// Nowhere in particular: the first place that will do.
    path: Option<PathBuf>,
}

impl HookSocket {
    /// The variable that [`from_env`](Self::from_env) reads.
    pub const VARIABLE: &'static str = "PRESTOP_SOCKET";

    /// The socket at the path in `PRESTOP_SOCKET`; without the variable it is `prestop-<uid>/hook.sock` in the first of
    /// these directories that there is and that can be written: `$XDG_RUNTIME_DIR`, `/run/prestop`, `/run`, the
    /// directory for temporary files (`$TMPDIR`, else `/tmp`). A container with a read-only root needs an `emptyDir`
    /// in one of them, best at `/run/prestop`. The hook looks into all of them.
    #[must_use]
    pub fn from_env() -> Self {
        let set = std::env::var_os(Self::VARIABLE).filter(|path| !path.is_empty());
        Self {
            path: set.map(PathBuf::from),
        }
    }

    /// The socket at this path. Its directory is created if it is missing, with mode 0700. Two processes that run at
    /// the same time need two paths.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
        }
    }

    /// Begins the stop of the process and waits until its lame duck is over, or half of its grace period: what a
    /// preStop hook does. Blocks the thread; needs no runtime.
    ///
    /// The answer is one line about how it went. The time until the process says its first word is bounded by 5 s; then
    /// it says how long it may take, and 5 s are added to that. `timeout` bounds the whole.
    ///
    /// # Errors
    ///
    /// See [`HookError`]. Once the process was reached its stop has begun, whatever comes then.
    pub fn call_pre_stop(&self, timeout: Option<Duration>) -> Result<String, HookError> {
        client::call(self, Request::PreStop, timeout)
    }

    /// Waits until the process is ready, within `timeout` (60 s): what a postStart hook does. The process may open its
    /// socket meanwhile: a postStart hook runs beside the entry point (R26). Blocks the thread; needs no runtime.
    ///
    /// # Errors
    ///
    /// See [`HookError`].
    pub fn call_started(&self, timeout: Option<Duration>) -> Result<String, HookError> {
        client::call(self, Request::Started, timeout)
    }
}
