//! [`Server`]: one real server, as a process that can be frozen, killed and started again. [`Shared`]: one for all tests.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::fixture::Fixture;

/// Nothing in these tests takes this long, on the busiest of machines.
pub const BOUND: Duration = Duration::from_secs(120);

/// But the start of a JVM: two minutes at a load of twenty on two cores.
pub const START: Duration = Duration::from_secs(300);

pub struct Server<F: Fixture> {
    program: PathBuf,
    ports: Vec<u16>,
    dir: Scratch,
    log: File,
    child: Option<Child>,
    of: PhantomData<F>,
}

/// The one server that the tests of this process share, from the first that wants it on; for a static.
///
/// Nobody stops it: its standard input ends with this process, however that ends, and so must it, with its directory.
pub struct Shared<F: Fixture>(OnceCell<Option<Server<F>>>);

impl<F: Fixture> Shared<F> {
    pub const fn new() -> Self {
        Self(OnceCell::const_new())
    }

    /// `None` when its program is not there, which is said aloud once.
    pub async fn server(&self) -> Option<&Server<F>> {
        self.0.get_or_init(Server::start).await.as_ref()
    }
}

impl<F: Fixture> Server<F> {
    /// A server that is ready; `None` (said aloud) when its program is not there.
    pub async fn start() -> Option<Self> {
        let mut server = Self::prepare()?;
        // A port that was free may be taken by now.
        for _ in 0..5 {
            if server.try_up().await {
                return Some(server);
            }
            server.ports = free_ports(F::PORTS, F::BESIDE);
        }
        panic!(
            "{} could not be started. It said:\n{}",
            F::NAME,
            server.log()
        );
    }

    /// A server that is yet to be started, on ports that are its own.
    pub fn prepare() -> Option<Self> {
        let program = or_skip(F::program(), &format!("the server of {}", F::NAME))?;
        Some(Self {
            program,
            ports: free_ports(F::PORTS, F::BESIDE),
            dir: Scratch::new(F::NAME),
            log: nameless_file(),
            child: None,
            of: PhantomData,
        })
    }

    /// Where clients reach it.
    pub fn at(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Starts it on its ports.
    pub async fn up(&mut self) {
        // Somebody else's connection may have one of them for a moment.
        for _ in 0..3 {
            if self.try_up().await {
                return;
            }
        }
        panic!("{} did not start again. It said:\n{}", F::NAME, self.log());
    }

    async fn try_up(&mut self) -> bool {
        assert!(self.child.is_none(), "it runs");
        let dir = &self.dir.0;
        std::fs::create_dir_all(dir).unwrap();
        self.log = nameless_file();
        let mut command = F::command(&self.program, dir, &self.ports);
        command
            .current_dir(dir)
            // Held open as long as this process lives: see `Shared`.
            .stdin(Stdio::piped())
            .stdout(self.log.try_clone().unwrap())
            .stderr(self.log.try_clone().unwrap())
            // Ctrl-C in a terminal goes to the test alone, which then ends its server.
            .process_group(0);
        self.child = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while begun.elapsed() < START {
            if F::is_ready(self.at()).await {
                return true;
            }
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.kill();
        false
    }

    /// SIGSTOP: it accepts connections, since the kernel does, and answers nothing. Waits until each of its threads has
    /// stopped: on a busy machine one may go on for a moment.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let pid = self.child.as_ref().expect("it runs").id();
        let begun = Instant::now();
        while !is_stopped(pid) {
            assert!(begun.elapsed() < BOUND, "{} goes on after SIGSTOP", F::NAME);
            std::thread::yield_now();
        }
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits for its end. What it knew is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended by itself.
            let _ = child.kill();
            child.wait().unwrap();
        }
        let _ = std::fs::remove_dir_all(&self.dir.0);
    }

    /// What it has said.
    pub fn log(&self) -> String {
        let mut log = vec![0; self.log.metadata().unwrap().len().try_into().unwrap()];
        // From the beginning, without moving its own place in the file.
        self.log.read_exact_at(&mut log, 0).unwrap();
        String::from_utf8_lossy(&log).replace(|c: char| !c.is_ascii(), "?")
    }

    /// The end of that, for a test that fails.
    pub fn say_log(&self) {
        let log = self.log();
        let end = log.len().saturating_sub(4_000);
        eprintln!("{} said at the end:\n{}", F::NAME, &log[end..]);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

/// The state is what follows the program's name, which stands in parentheses.
fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.into_iter().all(|task| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
        // A thread that has ended meanwhile does nothing either.
        stat.is_err() || stat.is_ok_and(|stat| stat.rsplit(") ").next().unwrap().starts_with('T'))
    })
}

impl<F: Fixture> Drop for Server<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.say_log();
        }
        self.kill();
    }
}

/// What was found; else the test is skipped aloud, or fails where `CI` is set.
pub fn or_skip<T>(found: Option<T>, what: &str) -> Option<T> {
    if found.is_none() {
        let what = format!("{what} is not on PATH, nor in target");
        assert!(std::env::var_os("CI").is_none(), "{what}");
        // Past libtest, which would keep it to itself.
        let line = format!("SKIPPED: {what}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}

/// Ports that the kernel gives to no client, and this process to no other server, so that they are still free when a
/// server starts, and when it starts again. Beside the first one those at these distances are free as well.
pub fn free_ports(count: usize, beside: &[i16]) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range: Vec<u16> = range
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|port| port.parse().ok())
        .collect();
    let of_clients = match range[..] {
        [first, last] => first..=last,
        _ => 32_768..=60_999,
    };
    let mut given = GIVEN.lock().unwrap();
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = fastrand::u16(6_100..64_000);
        let beside = if ports.is_empty() { beside } else { &[] };
        let all = beside.iter().map(|by| port.wrapping_add_signed(*by));
        let all: Vec<u16> = all.chain([port]).collect();
        let is_free = |port: &u16| {
            !of_clients.contains(port)
                && !given.contains(port)
                && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
        };
        if all.iter().all(is_free) {
            given.extend(all);
            ports.push(port);
        }
    }
    ports
}

/// For what a server says. Nothing is left of it when all who have it open have ended.
fn nameless_file() -> File {
    let path = std::env::temp_dir().join(unique("log"));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    std::fs::remove_file(&path).unwrap();
    file.unwrap()
}

fn unique(name: &str) -> String {
    format!(
        "prestop-{name}-{}-{:x}",
        std::process::id(),
        fastrand::u64(..)
    )
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(unique(name));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
