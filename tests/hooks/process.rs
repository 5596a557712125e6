//! The service as a child process, the hook as another, and the directory in which they meet.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::scene::SCENE;

/// A directory of its own, gone afterwards.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("hooks-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a process makes its socket; the directory is not there yet.
    pub fn socket(&self) -> PathBuf {
        self.0.join("private").join("hook.sock")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of this test, ended with it.
pub struct Running {
    pub child: Child,
    out: BufReader<ChildStdout>,
}

/// What became of it.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// It failed with this code, and one line on standard error that holds all of these.
    #[track_caller]
    pub fn failed(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("prestop: "), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part}: {self:?}");
        }
    }

    /// It went well, in one line that holds this.
    #[track_caller]
    pub fn says(self, part: &str) {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(self.stderr.is_empty(), "{self:?}");
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        assert!(self.stdout.contains(part), "{part}: {self:?}");
    }
}

impl Running {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The service of `scene.rs`, with its hook socket at this path.
    pub fn service(scene: &str, socket: &Path) -> Self {
        let test = std::env::current_exe().unwrap();
        let args = [
            "--exact",
            "scene::child",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ];
        let mut command = Command::new(test);
        command
            .args(args)
            .env(SCENE, scene)
            .env("PRESTOP_SOCKET", socket)
            .env("RUST_BACKTRACE", "0")
            .env_remove("KUBERNETES_SERVICE_HOST");
        Self::spawn(&mut command)
    }

    /// Reads until the service says this.
    #[track_caller]
    pub fn says(&mut self, what: &str) {
        let mut heard = String::new();
        let mut line = String::new();
        while self.out.read_line(&mut line).unwrap() > 0 {
            if line.trim_end().ends_with(&format!("| {what}")) {
                return;
            }
            heard.push_str(&std::mem::take(&mut line));
        }
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut err).unwrap();
        panic!("it ended without saying {what:?}, but\n{heard}{err}");
    }

    pub fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What a service waits for in its scene: the end of its standard input.
    pub fn go_on(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn ended(mut self) -> Ended {
        drop(self.child.stdin.take());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.out.read_to_string(&mut stdout).unwrap();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        Ended {
            code: self.child.wait().unwrap().code(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; one that passed has waited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The helper binary, `prestop hook` for instance.
pub fn helper<A: AsRef<OsStr>>(socket: &Path, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_prestop"));
    command.args(args).env("PRESTOP_SOCKET", socket);
    command
}

pub fn hook(socket: &Path) -> Running {
    Running::spawn(&mut helper(socket, ["hook"]))
}

/// The example `exec_hook` of a service that is its own hook.
pub fn own_binary(socket: &Path, args: &[&str]) -> Command {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/exec_hook");
    assert!(
        program.exists(),
        "{} is missing: `cargo test` builds it, `cargo test --test hooks` alone does not (`cargo build --examples`)",
        program.display()
    );
    let mut command = Command::new(program);
    command.args(args).env("PRESTOP_SOCKET", socket);
    command
}
