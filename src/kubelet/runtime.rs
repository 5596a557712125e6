//! [`Runtime`]: what the kubelet can do with a container.

use async_trait::async_trait;

use super::manifest::{self, HttpGet};

/// A container as the kubelet sees it through its runtime: [`Simulated`](super::Simulated) on any clock,
/// [`Program`](super::Program) for a real process.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Starts it. Returns when the program was started, not when it is ready (R26).
    ///
    /// # Errors
    ///
    /// When there is nothing to start.
    async fn start(&self, container: &manifest::Container) -> Result<(), String>;

    /// Runs a command in it: `exec` hooks and probes; what it said on standard output, for the timeline. Not cancelled
    /// by the kubelet when it takes too long (R13).
    ///
    /// # Errors
    ///
    /// When it exits with anything but 0, or the container ends before.
    async fn exec(&self, command: &[String]) -> Result<String, String>;

    /// A GET request: `httpGet` hooks and probes. `port` is the number in the manifest.
    ///
    /// # Errors
    ///
    /// When there is no answer.
    async fn http_get(&self, get: &HttpGet, port: u16) -> Result<u16, String>;

    /// Connects to a port: TCP probes. `port` is the number in the manifest.
    ///
    /// # Errors
    ///
    /// When nothing accepts there.
    async fn connect(&self, port: u16) -> Result<(), String>;

    /// The stop signal, to PID 1: SIGTERM, or what the image says.
    fn signal(&self);

    /// SIGKILL.
    fn kill(&self);

    /// Waits for its end. The exit code, 128 + n after signal n. Asked by several at a time, and after its end.
    async fn exited(&self) -> i32;
}
