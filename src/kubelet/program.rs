//! [`Program`]: a container that is a real process, on real clocks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{OnceCell, watch};

use super::manifest::{Container, HttpGet};
use super::node::Runtime;

/// What a hook that fails may say in the error, bytes.
const SAYS: usize = 500;

/// A container that is a child process of the test: the user's own binary, its hooks, its ports.
///
/// It runs on this machine with this machine's file system: not as PID 1, not in namespaces of its own (so that a stop
/// signal without a handler ends it, which it would not in a pod).
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    in_image: BTreeMap<String, PathBuf>,
    ports: BTreeMap<u16, u16>,
    address: IpAddr,
    stop_signal: Signal,
    running: OnceCell<Running>,
}

struct Running {
    pid: Pid,
    env: Vec<(OsString, OsString)>,
    ended: watch::Receiver<Option<i32>>,
}

impl fmt::Debug for Program {
    /// Without the values of its variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program")
            .field("path", &self.path)
            .field("args", &self.args)
            .field("pid", &self.running.get().map(|r| r.pid))
            .finish_non_exhaustive()
    }
}

impl Program {
    /// This program as the container's entry point. It gets the literal variables of the manifest's container, and the
    /// test's own environment.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            in_image: BTreeMap::new(),
            ports: BTreeMap::new(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            stop_signal: Signal::TERM,
            running: OnceCell::new(),
        }
    }

    /// With this argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With this variable, which overrides the manifest's. Hooks get it, too.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// What `command[0]` of an exec hook or probe means on this machine: `/app` in the image is
    /// `env!("CARGO_BIN_EXE_app")` here, say.
    #[must_use]
    pub fn file(mut self, in_image: impl Into<String>, here: impl Into<PathBuf>) -> Self {
        self.in_image.insert(in_image.into(), here.into());
        self
    }

    /// Where the container's port is on this machine: tests listen on free ports, manifests on fixed ones.
    #[must_use]
    pub fn port(mut self, in_manifest: u16, here: u16) -> Self {
        self.ports.insert(in_manifest, here);
        self
    }

    /// The "pod's address" for probes and hooks. Default: 127.0.0.1.
    #[must_use]
    pub const fn address(mut self, address: IpAddr) -> Self {
        self.address = address;
        self
    }

    /// The image's `STOPSIGNAL` by number. Default: 15, SIGTERM.
    ///
    /// # Panics
    ///
    /// If there is no such signal.
    #[must_use]
    pub fn stop_signal(mut self, number: i32) -> Self {
        self.stop_signal = Signal::from_named_raw(number).expect("the number of a signal");
        self
    }

    /// The process id, once it was started.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        let pid = self.running.get()?.pid.as_raw_nonzero().get();
        u32::try_from(pid).ok()
    }

    fn send(&self, signal: Signal) {
        if let Some(running) = self.running.get()
            && running.ended.borrow().is_none()
        {
            // It may end in this instant; then there is nothing to stop.
            let _ = kill_process(running.pid, signal);
        }
    }

    fn place(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, *self.ports.get(&port).unwrap_or(&port))
    }
}

#[async_trait]
impl Runtime for Program {
    async fn start(&self, container: &Container) -> Result<(), String> {
        let literal = container.env.iter().filter_map(|var| {
            let value = var.value.as_ref()?;
            Some((OsString::from(&var.name), OsString::from(value)))
        });
        let env: Vec<_> = literal.chain(self.env.iter().cloned()).collect();
        let mut child = Command::new(&self.path)
            .args(&self.args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        let pid = child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .ok_or("it ended at once")?;
        let (end, ended) = watch::channel(None);
        tokio::spawn(async move {
            let status = child.wait().await;
            // Only a runtime that is going away cannot wait; then nobody asks.
            end.send_replace(Some(status.map_or(-1, exit_code)));
        });
        let running = Running { pid, env, ended };
        self.running
            .set(running)
            .map_err(|_| "it was started before".to_owned())
    }

    async fn exec(&self, command: &[String]) -> Result<(), String> {
        let (first, rest) = command.split_first().ok_or("the command is empty")?;
        let program = self
            .in_image
            .get(first)
            .map_or(first.into(), PathBuf::clone);
        let env = self.running.get().map(|running| running.env.as_slice());
        let output = Command::new(&program)
            .args(rest)
            .envs(
                env.unwrap_or_default()
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null())
            // It dies with the container, whose end drops this future.
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("{}: {error}", program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        let code = exit_code(output.status);
        let says = String::from_utf8_lossy(&output.stderr);
        let says: String = says.trim().chars().take(SAYS).collect();
        Err(format!("exited with {code}: {says}"))
    }

    async fn http_get(&self, get: &HttpGet, port: u16) -> Result<u16, String> {
        let place = self.place(port);
        let asked = format!("GET http://{place}{}", get.path);
        let fail = |error: &dyn fmt::Display| format!("{asked}: {error}");
        if get.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
            return Err(fail(&"HTTPS is not modelled"));
        }
        let stream = TcpStream::connect(place).await.map_err(|e| fail(&e))?;
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| fail(&e))?;
        let mut request = http::Request::get(&get.path)
            .header(http::header::HOST, place.to_string())
            .header(http::header::USER_AGENT, "kube-lifecycle/1.36")
            .header(http::header::ACCEPT, "*/*");
        for header in &get.http_headers {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| fail(&e))?;
        let answer = async {
            let answer = client.send_request(request).await.map_err(|e| fail(&e))?;
            Ok(answer.status().as_u16())
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            ended = connection => match ended {
                Ok(()) => Err(fail(&"the connection was closed without an answer")),
                Err(error) => Err(fail(&error)),
            },
        }
    }

    async fn connect(&self, port: u16) -> Result<(), String> {
        let place = self.place(port);
        let connected = TcpStream::connect(place).await;
        connected
            .map(drop)
            .map_err(|error| format!("connecting to {place}: {error}"))
    }

    fn signal(&self) {
        self.send(self.stop_signal);
    }

    fn kill(&self) {
        self.send(Signal::KILL);
    }

    async fn exited(&self) -> i32 {
        let Some(running) = self.running.get() else {
            return std::future::pending().await;
        };
        let mut ended = running.ended.clone();
        match ended.wait_for(Option::is_some).await.map(|code| *code) {
            Ok(Some(code)) => code,
            // The task that waits is gone with its runtime.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// As a shell and the container runtimes say it: 128 + n after signal n.
fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let signal = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(signal).unwrap_or(-1)
}
