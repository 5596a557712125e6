//! A real gateway, as a child process with a directory of its own.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// The busiest of machines has started one by then.
const START: Duration = Duration::from_secs(60);

/// A gateway; ended, and its directory removed, when it is dropped.
pub struct Gateway {
    child: Child,
    dir: PathBuf,
    /// Where its clients connect.
    pub port: u16,
}

/// Words in a configuration file, and what stands there in a run.
pub type Words = [(&'static str, String)];

impl Gateway {
    /// Starts the program and waits until it listens. `DIR` and `LISTEN` in its arguments and its file are replaced here,
    /// the other words by the caller's.
    ///
    /// # Errors
    ///
    /// When it can't be started, or does not listen within a minute; with what it has said.
    pub async fn start(
        program: &Path,
        args: &[&str],
        file: (&str, &str),
        words: &Words,
    ) -> Result<Self, String> {
        let unique = format!(
            "prestop-gateway-{}-{:x}",
            std::process::id(),
            fastrand::u64(..)
        );
        let dir = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        let [port] = free_ports();
        let fill = |text: &str| {
            let mut text = text
                .replace("LISTEN", &port.to_string())
                .replace("DIR", &dir.to_string_lossy());
            for (word, meant) in words {
                text = text.replace(word, meant);
            }
            text
        };
        let program_name = program.display();
        let failed = |e: std::io::Error| format!("starting {program_name}: {e}");
        std::fs::write(dir.join(file.0), fill(file.1)).map_err(failed)?;
        let log = File::create(dir.join("log")).map_err(failed)?;
        let child = Command::new(program)
            .args(args.iter().map(|arg| fill(arg)))
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut gateway = Self { child, dir, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = gateway.child.try_wait().map_err(failed)?;
            if ended.is_some() || begun.elapsed() > START {
                let log = gateway.log();
                return Err(format!("{program_name} does not listen. It said:\n{log}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(gateway)
    }

    /// Writes its file anew.
    pub fn rewrite(&self, name: &str, from: &str, to: &str) -> std::io::Result<()> {
        let path = self.dir.join(name);
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(path, text.replace(from, to))
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    pub fn log(&self) -> String {
        let log = std::fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// HAProxy's own word about one of its servers: a line of `show stat`.
    pub fn server(&self, name: &str) -> Result<Server, String> {
        let said = self.command("show stat\n").map_err(|e| e.to_string())?;
        let mut lines = said.lines();
        let names: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
        let column = |name| names.iter().position(|n| *n == name);
        let (server, status) = (column("svname"), column("status"));
        let (agent, total) = (column("agent_status"), column("stot"));
        for line in lines {
            let values: Vec<_> = line.split(',').collect();
            let value = |column: Option<usize>| column.and_then(|at| values.get(at).copied());
            if value(server) == Some(name) {
                return Ok(Server {
                    status: value(status).unwrap_or_default().to_owned(),
                    agent: value(agent).unwrap_or_default().to_owned(),
                    requests: value(total).and_then(|n| n.parse().ok()).unwrap_or(0),
                });
            }
        }
        Err(format!("no server {name} in: {said}"))
    }

    fn command(&self, command: &str) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.dir.join("stats"))?;
        socket.write_all(command.as_bytes())?;
        let mut said = String::new();
        socket.read_to_string(&mut said)?;
        Ok(said)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A server as HAProxy sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub status: String,
    /// How its last agent check ended.
    pub agent: String,
    /// How many requests it was ever given.
    pub requests: u64,
}

/// Ports below those that the kernel gives to clients, so that they stay free while nobody listens; none is given twice.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("nobody panics");
    std::array::from_fn(|_| {
        loop {
            let port = fastrand::u16(12_000..32_000);
            let is_free = || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if !given.contains(&port) && is_free() {
                given.push(port);
                return port;
            }
        }
    })
}
