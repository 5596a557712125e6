//! Who may call, and whom a hook calls: directories, owners, the kernel's word about the other end.

use std::fs::{DirBuilder, Permissions, set_permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prestop::{Error, HookSocket, Phase, ShutdownCoordinator};
use rustix::process::{Uid, getuid};
use rustix::thread::set_thread_res_uid;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::process::*;
use crate::support::{builder, within};

/// `nobody`: any user but this one.
const OTHER: u32 = 65_534;

/// Another user is to be had by root alone.
pub fn is_root() -> bool {
    let is_root = getuid().is_root();
    if !is_root {
        println!("SKIPPED: only root can be somebody else");
    }
    is_root
}

/// Runs it on a thread that is another user. (On Linux each thread has its own; the processes of this crate change
/// theirs as a whole.)
fn as_other<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        let other = Uid::from_raw(OTHER);
        set_thread_res_uid(other, other, other).unwrap();
        what()
    });
    thread.join().unwrap()
}

async fn build(socket: &Path) -> Result<ShutdownCoordinator, Error> {
    builder().hook_socket(HookSocket::at(socket)).build()
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn the_directory_is_made_for_the_owner_alone() {
    let scratch = Scratch::new();
    let socket = scratch.path().join("two/levels/hook.sock");
    let c = build(&socket).await.unwrap();
    assert_eq!(mode(&scratch.path().join("two")), 0o700);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    assert_eq!(mode(&socket), 0o600);
    drop(c);
    assert!(!socket.exists(), "the socket is gone with its coordinator");
    // What was made stays, and serves again.
    drop(build(&socket).await.unwrap());
}

/// What `build` and the hook say of a directory.
async fn both_refuse(socket: &Path, part: &str) {
    let error = build(socket).await.unwrap_err();
    assert!(error.is_hook_socket(), "{error}");
    assert!(error.to_string().contains(part), "{error}");
    hook(socket).ended().failed(77, &[part]);
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_refused() {
    for bits in [0o777, 0o1777, 0o770, 0o702] {
        let scratch = Scratch::new();
        let socket = scratch.socket();
        let dir = socket.parent().unwrap();
        std::fs::create_dir(dir).unwrap();
        set_permissions(dir, Permissions::from_mode(bits)).unwrap();
        both_refuse(&socket, &format!("(mode {bits:04o})")).await;
        // Such as an emptyDir: a directory inside of it will do.
        let inside = dir.join("private").join("hook.sock");
        drop(build(&inside).await.unwrap());
    }
}

#[tokio::test]
async fn a_directory_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let dir = socket.parent().unwrap();
    DirBuilder::new().mode(0o700).create(dir).unwrap();
    chown(dir, Some(OTHER), None).unwrap();
    both_refuse(&socket, "belongs to uid 65534, and this is uid 0").await;
}

#[tokio::test]
async fn a_link_to_a_directory_is_refused() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let real = scratch.path().join("real");
    DirBuilder::new().mode(0o700).create(&real).unwrap();
    symlink(&real, socket.parent().unwrap()).unwrap();
    both_refuse(
        &socket,
        "is not a directory (a symbolic link is not followed)",
    )
    .await;
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    DirBuilder::new()
        .mode(0o700)
        .create(socket.parent().unwrap())
        .unwrap();
    std::fs::write(&socket, "precious").unwrap();
    let error = build(&socket).await.unwrap_err().to_string();
    assert!(error.contains("is there and is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

#[tokio::test]
async fn a_path_that_cannot_be_says_why() {
    let scratch = Scratch::new();
    let long = scratch.path().join("x".repeat(120)).join("hook.sock");
    for (path, part) in [
        (long, "SUN_LEN"),
        (PathBuf::from("hook.sock"), "has no directory"),
        (
            "/proc/prestop/hook.sock".into(),
            "no place for the hook socket",
        ),
    ] {
        let error = build(&path).await.unwrap_err();
        assert!(error.is_hook_socket(), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}

/// Without a path: in the first directory that will do, and the hook looks into all of them.
#[test]
fn the_first_place_that_will_do() {
    let scratch = Scratch::new();
    let place = |base: &str| scratch.path().join(base);
    for base in ["runtime", "tmp"] {
        std::fs::create_dir(place(base)).unwrap();
    }
    let own = format!("prestop-{}/hook.sock", getuid().as_raw());
    let with = |command: &mut std::process::Command, runtime: &str| {
        command
            .env("XDG_RUNTIME_DIR", runtime)
            .env("TMPDIR", place("tmp"))
            .env("PRESTOP_SOCKET", "");
    };
    let runtime = place("runtime").to_str().unwrap().to_owned();
    let mut command = own_binary(Path::new(""), &[]);
    with(&mut command, &runtime);
    let service = Running::spawn(&mut command);
    let mut hook = helper(Path::new(""), ["started"]);
    with(&mut hook, &runtime);
    Running::spawn(&mut hook).ended().says("ready");
    assert!(place("runtime").join(&own).exists());
    assert!(!place("tmp").join(&own).exists());
    // A hook with another environment says where it has looked.
    // (`started`, not `hook`: it must not stop whoever may be there.)
    let mut hook = helper(Path::new(""), ["started", "--timeout", "1"]);
    with(&mut hook, "/nonexistent");
    let ended = Running::spawn(&mut hook).ended();
    if ended.code == Some(69) {
        assert!(
            ended.stderr.contains(place("tmp").to_str().unwrap()),
            "{ended:?}"
        );
        assert!(ended.stderr.contains("/run/prestop/prestop-"), "{ended:?}");
    }
    service.send(rustix::process::Signal::TERM);
    service.ended().with(0);
}

/// The directory and the mode of the socket keep others out; were they wrong, the kernel still knows who calls.
#[tokio::test]
async fn another_user_is_refused_by_the_process() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let dir = socket.parent().unwrap().to_owned();
    DirBuilder::new().mode(0o755).create(&dir).unwrap();
    set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    let c = build(&socket).await.unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;

    let path = socket.clone();
    let calls = tokio::task::spawn_blocking(move || {
        let closed = as_other({
            let path = path.clone();
            move || UnixStream::connect(path).map(drop)
        });
        assert_eq!(
            closed.unwrap_err().kind(),
            std::io::ErrorKind::PermissionDenied
        );
        set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        as_other(move || {
            let stream = UnixStream::connect(path).unwrap();
            // It may have been refused and closed already.
            let _ = (&stream).write_all(b"prestop/1 pre-stop\n");
            let mut said = String::new();
            BufReader::new(stream).read_line(&mut said).unwrap();
            said
        })
    });
    let said = within("the refusal", calls).await.unwrap();
    assert_eq!(
        said,
        "refused a hook must run as the user of the process (uid 0), not as uid 65534\n"
    );
    assert_eq!(h.phase(), Phase::Ready, "nothing was begun");
    h.trigger(prestop::Reason::requested("test"));
    let _ = within("the report", run).await.unwrap().unwrap();
}

/// A socket that we made, and that they listen on.
pub fn listener_of_another_user(socket: &Path) -> Socket {
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(socket).unwrap()).unwrap();
    as_other(move || {
        listener.listen(8).unwrap();
        listener
    })
}

/// A process of another user that holds a socket in our directory.
#[tokio::test]
async fn a_process_of_another_user_is_not_called() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let socket = scratch.socket();
    DirBuilder::new()
        .mode(0o700)
        .create(socket.parent().unwrap())
        .unwrap();
    let listener = listener_of_another_user(&socket);
    let called = HookSocket::at(&socket);
    let call =
        tokio::task::spawn_blocking(move || called.call_pre_stop(Some(Duration::from_secs(20))));
    let error = within("the refusal", call).await.unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 77, "{error}");
    assert!(
        error
            .to_string()
            .contains("runs as uid 65534, and this is uid 0"),
        "{error}"
    );
    drop(listener);
}

/// Root may call: it can do anything with the process already. (The hook asks for no less of its process.)
#[tokio::test]
async fn the_same_user_may_call() {
    let scratch = Scratch::new();
    let socket = scratch.socket();
    let c = build(&socket).await.unwrap();
    let h = c.handle();
    let run = tokio::spawn(c.run(h.draining()));
    within("ready", h.wait_for(Phase::Ready)).await;
    let called = HookSocket::at(&socket);
    let call = tokio::task::spawn_blocking(move || called.call_pre_stop(None));
    within("the answer", call).await.unwrap().unwrap();
    let report = within("the report", run).await.unwrap().unwrap();
    assert_eq!(report.reason, prestop::Reason::PreStopHook);
    assert!(report.is_clean(), "{report}");
}
