//! A registry's server as a child process, on free ports, in a temporary directory.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::Backend;

/// Java servers on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(5);

pub struct Server {
    at: SocketAddr,
    dir: PathBuf,
    // Ended when it is dropped, before its directory goes.
    child: Option<Child>,
}

impl Server {
    pub async fn start(backend: &dyn Backend) -> Result<Self, String> {
        let (name, from) = backend.program();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let built = backend.built_in().map(|dir| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("target")
                .join(dir)
        });
        let program = std::env::split_paths(&path)
            .chain(built)
            .map(|dir| dir.join(name))
            .find(|program| program.is_file())
            .ok_or_else(|| format!("there is no {name} on PATH: {from}"))?;
        let about = |error: io::Error| format!("starting {name}: {error}");
        let dir = std::env::temp_dir().join(format!(
            "prestop-{name}-{}-{:x}",
            std::process::id(),
            fastrand::u64(..)
        ));
        std::fs::create_dir_all(&dir).map_err(about)?;
        let ports = free_ports(backend.ports(), backend.beside());
        let mut server = Self {
            at: (Ipv4Addr::LOCALHOST, ports[0]).into(),
            dir,
            child: None,
        };
        let log = server.dir.join("log");
        let out = File::create(&log).map_err(about)?;
        let command = backend
            .command(&program, &server.dir, &ports)
            .map_err(about)?;
        let child = Command::from(command)
            .current_dir(&server.dir)
            // Held open: some end with it, so that none outlives the harness.
            .stdin(Stdio::piped())
            .stdout(out.try_clone().map_err(about)?)
            .stderr(out)
            // Ctrl-C in a terminal goes to the harness alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(about)?;
        let child = server.child.insert(child);
        let begun = Instant::now();
        // One that accepts and does not answer is not ready.
        while !timeout(ANSWER, backend.is_ready(server.at))
            .await
            .unwrap_or(false)
        {
            let ended = child.try_wait().map_err(about)?;
            if ended.is_some() || begun.elapsed() > START_LIMIT {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<_> = said.lines().rev().take(5).collect();
                let last: Vec<_> = last.into_iter().rev().collect();
                return Err(format!("{name} did not start:\n{}", last.join("\n")));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    pub const fn at(&self) -> SocketAddr {
        self.at
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.take());
        // It may still be writing: what is left then is small, and in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Below those that the kernel gives to clients: nobody but another server takes one meanwhile. Beside the first one those
/// at these distances are free as well.
fn free_ports(count: usize, beside: &[i16]) -> Vec<u16> {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut ports = Vec::new();
    while ports.len() < count {
        let port = fastrand::u16(14_000..30_000);
        let mut all = beside.iter().map(|by| port.wrapping_add_signed(*by));
        let all_free = is_free(port) && (!ports.is_empty() || all.all(is_free));
        if all_free && !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}
