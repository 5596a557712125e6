//! [`Program`]: a container that is a real process, on real clocks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::net::TcpStream;
use tokio::process::{ChildStdin, Command};
use tokio::sync::{OnceCell, watch};

use super::manifest::{Container, HttpGet};
use super::output::Output;
use super::runtime::Runtime;

/// What a hook may say in the timeline, characters.
const SAYS: usize = 500;

/// A container that is a child process of the test: the user's own binary, its hooks, its ports.
///
/// It runs on this machine with this machine's file system: not as PID 1, not in namespaces of its own (so that a stop
/// signal without a handler ends it, which it would not in a pod). It is killed when the test's runtime ends.
///
/// A clone of it is the same process: one goes into the [`Node`](super::Node), the other stays with the test.
#[derive(Clone)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    in_image: BTreeMap<String, PathBuf>,
    ports: BTreeMap<u16, Place>,
    address: IpAddr,
    stop_signal: Signal,
    reads_output: bool,
    own_group: bool,
    holds_stdin: bool,
    running: Arc<OnceCell<Running>>,
    output: Arc<Output>,
}

/// Where a port of the manifest is.
#[derive(Clone)]
enum Place {
    Here(u16),
    Said(Find),
}

/// The port in a line, if it says one.
type Find = Arc<dyn Fn(&str) -> Option<u16> + Send + Sync>;

struct Running {
    pid: Pid,
    env: Vec<(OsString, OsString)>,
    ended: watch::Receiver<Option<i32>>,
    _stdin: Option<ChildStdin>,
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
            reads_output: false,
            own_group: false,
            holds_stdin: false,
            running: Arc::default(),
            output: Arc::new(Output::new()),
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
        self.ports.insert(in_manifest, Place::Here(here));
        self
    }

    /// The program was told to listen on any free port and says which: `find` gets its lines on standard output until it
    /// gives the port. Whoever needs the port before (a probe, a hook, [`here`](Self::here)) waits for that. Implies
    /// [`read_output`](Self::read_output).
    #[must_use]
    pub fn port_from_output(
        mut self,
        in_manifest: u16,
        find: impl Fn(&str) -> Option<u16> + Send + Sync + 'static,
    ) -> Self {
        self.ports.insert(in_manifest, Place::Said(Arc::new(find)));
        self.read_output()
    }

    /// Its standard output is read, for [`said`](Self::said) and [`output`](Self::output). Default: it goes where the
    /// test's own goes.
    #[must_use]
    pub const fn read_output(mut self) -> Self {
        self.reads_output = true;
        self
    }

    /// In a process group of its own. SIGKILL goes to all of it, as it does to all of a container; and Ctrl-C in a
    /// terminal goes to the test alone.
    #[must_use]
    pub const fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Its standard input is a pipe that stays open as long as the test's process lives, however that ends: a program
    /// that exits at the end of its input is never left behind. Default: `/dev/null`, as in a container.
    #[must_use]
    pub const fn hold_stdin(mut self) -> Self {
        self.holds_stdin = true;
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

    /// Its exit code, once it has ended, as in the timeline.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        *self.running.get()?.ended.borrow()
    }

    /// Where the container's port is on this machine.
    ///
    /// # Errors
    ///
    /// When the program should have said it, and its output has ended; its last lines are in it.
    pub async fn here(&self, port: u16) -> Result<SocketAddr, String> {
        let here = match self.ports.get(&port) {
            None => port,
            Some(Place::Here(here)) => *here,
            Some(Place::Said(find)) => {
                let said = self.output.find(&**find).await;
                said.ok_or_else(|| self.never_said(&format!("where port {port} is")))?
            }
        };
        Ok(SocketAddr::new(self.address, here))
    }

    /// Waits for a line on standard output, which may have been written before, and gives it.
    ///
    /// # Errors
    ///
    /// When the output ends without it, or is not [read](Self::read_output); the last lines are in it.
    pub async fn said(&self, what: &str) -> Result<String, String> {
        if !self.reads_output {
            return Err("its output is not read: Program::read_output".to_owned());
        }
        let contains = |line: &str| line.contains(what).then(|| line.to_owned());
        let said = self.output.find(contains).await;
        said.ok_or_else(|| self.never_said(&format!("{what:?}")))
    }

    /// What it has written on standard output, when that is over: it has ended, and so has who got it from it. Of very
    /// much, the first and the last 1,000 lines. Nothing where it is not [read](Self::read_output).
    pub async fn output(&self) -> Vec<String> {
        match self.reads_output {
            true => self.output.whole().await,
            false => Vec::new(),
        }
    }

    fn never_said(&self, what: &str) -> String {
        format!(
            "{} never said {what}; its last lines:\n{}",
            self.path.display(),
            self.output.last(5)
        )
    }

    fn send(&self, signal: Signal, to_all: bool) {
        if let Some(running) = self.running.get()
            && running.ended.borrow().is_none()
        {
            // It may end in this instant; then there is nothing to stop.
            let _ = match to_all {
                true => kill_process_group(running.pid, signal),
                false => kill_process(running.pid, signal),
            };
        }
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
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if self.holds_stdin {
            command.stdin(Stdio::piped());
        }
        if self.reads_output {
            command.stdout(Stdio::piped());
        }
        if self.own_group {
            command.process_group(0);
        }
        let mut child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", self.path.display()))?;
        // Out of the child: waiting for it would close it.
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            let output = Arc::clone(&self.output);
            tokio::spawn(async move { output.read(stdout).await });
        }
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
        let running = Running {
            pid,
            env,
            ended,
            _stdin: stdin,
        };
        self.running
            .set(running)
            .map_err(|_| "it was started before".to_owned())
    }

    async fn exec(&self, command: &[String]) -> Result<String, String> {
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
        let says = |bytes: &[u8]| -> String {
            let text = String::from_utf8_lossy(bytes);
            text.trim().chars().take(SAYS).collect()
        };
        if output.status.success() {
            return Ok(says(&output.stdout));
        }
        let code = exit_code(output.status);
        Err(format!("exited with {code}: {}", says(&output.stderr)))
    }

    async fn http_get(&self, get: &HttpGet, port: u16) -> Result<u16, String> {
        let place = self.here(port).await?;
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
        let place = self.here(port).await?;
        let connected = TcpStream::connect(place).await;
        connected
            .map(drop)
            .map_err(|error| format!("connecting to {place}: {error}"))
    }

    fn signal(&self) {
        self.send(self.stop_signal, false);
    }

    fn kill(&self) {
        self.send(Signal::KILL, self.own_group);
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
