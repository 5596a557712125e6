//! The hook's end of the socket: blocking, without a runtime, so that it starts in a millisecond and a hook that comes
//! from inside of one does no harm.

// A process of its own, without a runtime: the kubelet's clock is the system's.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::HookSocket;
use super::error::{HookError, Kind};
use super::place::{check_directory, is_trusted, own_uid};
use super::words::{LONGEST, Request, Word};

/// The first word comes from a thread that does nothing else: after this long the process is frozen.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Added to what the process announced.
const SLACK: Duration = Duration::from_secs(5);

/// What a postStart hook waits at the most: a hook that hangs keeps the pod from being deleted (R27).
const STARTED: Duration = Duration::from_secs(60);

/// How often it is looked whether the process has opened its socket by now.
const LOOK: Duration = Duration::from_millis(20);

/// What the thread that talks to the process tells the one that watches the clock.
enum News {
    /// Somebody is there.
    Connected(PathBuf),
    /// Nobody is there yet, in these words.
    Nobody(String),
    /// The process said how long it may take.
    Wait(Duration),
    Answer(Result<String, HookError>),
}

/// Asks the process and waits for its answer, never past the bound: the talking is done by a thread that is left
/// behind when it is stuck (connecting to a frozen process may be, and has no timeout).
pub(super) fn call(
    socket: &HookSocket,
    request: Request,
    timeout: Option<Duration>,
) -> Result<String, HookError> {
    let began = Instant::now();
    // Thirty years: what an instant can hold everywhere.
    let far = Duration::from_secs(86_400 * 365 * 30);
    let bound = began
        + match request {
            Request::PreStop => timeout.unwrap_or(far),
            Request::Started => timeout.unwrap_or(STARTED),
        }
        .min(far);
    let mut by = match request {
        Request::PreStop => bound.min(began + FIRST_WORD),
        Request::Started => bound,
    };
    let (tell, news) = channel();
    let places = socket.places();
    std::thread::Builder::new()
        .name("prestop-hook".into())
        .spawn(move || {
            let answer = talk(&places, request, &tell);
            // Nobody waits any more when the bound is over.
            let _ = tell.send(News::Answer(answer));
        })
        .map_err(|e| broken_off(format!("the thread that talks to the process: {e}")))?;

    let mut connected = None;
    let mut nobody = None;
    loop {
        match news.recv_timeout(by.saturating_duration_since(Instant::now())) {
            Ok(News::Connected(path)) => connected = Some(path),
            Ok(News::Nobody(why)) => nobody = Some(why),
            Ok(News::Wait(longest)) => {
                by = bound.min(Instant::now() + longest.saturating_add(SLACK).min(far));
            }
            Ok(News::Answer(answer)) => return answer,
            Err(RecvTimeoutError::Timeout) => {
                let after = began.elapsed().as_secs_f64();
                return Err(match (connected, nobody) {
                    (Some(path), _) => HookError::new(
                        Kind::TimedOut,
                        format!(
                            "no answer from the process at {} after {after:.1} s: it is frozen or has no CPU",
                            path.display()
                        ),
                    ),
                    (None, Some(why)) => HookError::new(
                        Kind::NoProcess,
                        format!("gave up after {after:.1} s: {why}"),
                    ),
                    (None, None) => HookError::new(
                        Kind::TimedOut,
                        format!(
                            "could not connect within {after:.1} s: the process does not accept calls"
                        ),
                    ),
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(broken_off("the thread that talks to the process panicked"));
            }
        }
    }
}

fn broken_off(what: impl Display) -> HookError {
    HookError::new(Kind::BrokenOff, what.to_string())
}

fn talk(places: &[PathBuf], request: Request, tell: &Sender<News>) -> Result<String, HookError> {
    let (path, stream) = loop {
        match connect(places) {
            Ok(found) => break found,
            // The entry point may not have come as far yet (R26).
            Err((Kind::NoProcess, why)) if request == Request::Started => {
                if tell.send(News::Nobody(why)).is_err() {
                    return Err(broken_off("nobody waits any more"));
                }
                std::thread::sleep(LOOK);
            }
            Err((kind, why)) => return Err(HookError::new(kind, why)),
        }
    };
    // Whether somebody still waits shows when there is an answer.
    let _ = tell.send(News::Connected(path.clone()));
    check_peer(&stream, &path)?;
    ask(&stream, &path, request, tell)
}

/// The first place where somebody answers.
fn connect(places: &[PathBuf]) -> Result<(PathBuf, UnixStream), (Kind, String)> {
    let mut tried = Vec::new();
    let mut worst = Kind::NoProcess;
    for path in places {
        match connect_to(path) {
            Ok(stream) => return Ok((path.clone(), stream)),
            Err((kind, why)) => {
                tried.push(why);
                if kind != Kind::NoProcess {
                    worst = kind;
                }
            }
        }
    }
    let why = tried.join("; ");
    Err((
        worst,
        match worst {
            Kind::NoProcess => format!(
                "no process to call: {why}. Is the hook socket switched on (`.hook_socket(..)`), is {} the same for \
                 both, and is this the user of the process (here it is uid {})?",
                HookSocket::VARIABLE,
                own_uid()
            ),
            _ => why,
        },
    ))
}

fn connect_to(path: &Path) -> Result<UnixStream, (Kind, String)> {
    let shown = path.display();
    let dir = path.parent().unwrap_or(path);
    let io = |what: String, e: &io::Error| match e.kind() {
        ErrorKind::NotFound => (Kind::NoProcess, format!("{what} does not exist")),
        ErrorKind::PermissionDenied => (Kind::Refused, format!("{what}: {e}")),
        _ => (Kind::NoProcess, format!("{what}: {e}")),
    };
    let metadata = std::fs::symlink_metadata(dir).map_err(|e| io(dir.display().to_string(), &e))?;
    check_directory(dir, &metadata).map_err(|why| (Kind::Refused, why))?;
    UnixStream::connect(path).map_err(|e| match e.kind() {
        ErrorKind::ConnectionRefused => (
            Kind::NoProcess,
            format!("{shown} was left behind by a process that has ended"),
        ),
        _ => io(shown.to_string(), &e),
    })
}

/// Whom the kernel knows to be at the other end. Elsewhere than on Linux the directory says it: only its owner can have
/// put a socket there.
fn check_peer(stream: &UnixStream, path: &Path) -> Result<(), HookError> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let peer = rustix::net::sockopt::socket_peercred(stream)
            .map_err(|e| broken_off(format!("asking who is at {}: {e}", path.display())))?;
        let uid = peer.uid.as_raw();
        if !is_trusted(uid) {
            return Err(HookError::new(
                Kind::Refused,
                format!(
                    "the process at {} runs as uid {uid}, and this is uid {}: it is not the one to call",
                    path.display(),
                    own_uid()
                ),
            ));
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (stream, path, is_trusted as fn(u32) -> bool);
    Ok(())
}

fn ask(
    stream: &UnixStream,
    path: &Path,
    request: Request,
    tell: &Sender<News>,
) -> Result<String, HookError> {
    let began = Instant::now();
    let shown = path.display();
    let ended = |how: &dyn Display| {
        broken_off(format!(
            "the process at {shown} went away before it answered, {:.1} s after it was called{how}",
            began.elapsed().as_secs_f64()
        ))
    };
    // One that does not read, because it refuses to, has said why.
    let sent = (&*stream).write_all(request.line().as_bytes());
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        match (&mut lines).take(LONGEST as u64).read_line(&mut line) {
            Ok(0) => match sent {
                Ok(()) => return Err(ended(&"")),
                Err(e) => return Err(ended(&format_args!(": {e}"))),
            },
            Ok(_) => {}
            Err(e) => return Err(ended(&format_args!(": {e}"))),
        }
        match Word::parse(&line) {
            // Whether somebody still waits shows when there is an answer.
            Some(Word::Wait(longest)) => drop(tell.send(News::Wait(longest))),
            Some(Word::Done(text)) => return Ok(text),
            Some(Word::Failed(why)) => return Err(HookError::new(Kind::NotStarted, why)),
            Some(Word::Refused(why)) => {
                let text = format!("the process at {shown} refused: {why}");
                return Err(HookError::new(Kind::Refused, text));
            }
            None => {
                return Err(broken_off(format!(
                    "the process at {shown} said {line:?}, which is no answer to a hook"
                )));
            }
        }
    }
}
