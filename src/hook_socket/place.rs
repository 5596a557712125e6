//! Where the socket is, and who may be there.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;

use super::HookSocket;

/// Ours, and root's: root can do anything with this process already.
pub(super) fn is_trusted(uid: u32) -> bool {
    uid == own_uid() || uid == 0
}

pub(super) fn own_uid() -> u32 {
    geteuid().as_raw()
}

/// A directory in which only we (or root) can have put a socket; otherwise why not.
pub(super) fn check_directory(dir: &Path, metadata: &Metadata) -> Result<(), String> {
    let (uid, mode) = (own_uid(), metadata.mode() & 0o7777);
    let dir = dir.display();
    if !metadata.is_dir() {
        return Err(format!(
            "{dir} is not a directory (a symbolic link is not followed)"
        ));
    }
    if metadata.uid() != uid {
        return Err(format!(
            "{dir} belongs to uid {}, and this is uid {uid}: give a directory of its own user, it is created if it is missing",
            metadata.uid()
        ));
    }
    if mode & 0o022 != 0 {
        return Err(format!(
            "others can write to {dir} (mode {mode:04o}), so anybody may have put the socket there: give a directory \
             inside of it, it is created with mode 0700"
        ));
    }
    Ok(())
}

impl HookSocket {
    /// Where the socket may be, the best place first.
    pub(super) fn places(&self) -> Vec<PathBuf> {
        if let Some(path) = &self.path {
            return vec![path.clone()];
        }
        let own = format!("prestop-{}", own_uid());
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let mut bases: Vec<_> = runtime
            .into_iter()
            .filter(|dir| dir.is_absolute())
            .collect();
        bases.extend(["/run/prestop".into(), "/run".into(), std::env::temp_dir()]);
        let mut places: Vec<_> = bases
            .into_iter()
            .map(|base| base.join(&own).join("hook.sock"))
            .collect();
        places.dedup();
        places
    }

    /// Binds the socket at the first place that will do.
    pub(super) fn bind(&self) -> Result<Bound, String> {
        let mut tried = Vec::new();
        for path in self.places() {
            match bind(&path, self.path.is_some()) {
                Ok(bound) => return Ok(bound),
                // A place like `/run` is not for everybody; the next one may be.
                Err(Trouble::NotHere(why)) => tried.push(why),
                Err(Trouble::Stop(why)) => return Err(why),
            }
        }
        Err(format!(
            "no place for the hook socket: {}. Mount an emptyDir at /run/prestop, or name a path in {}",
            tried.join("; "),
            Self::VARIABLE
        ))
    }
}

enum Trouble {
    NotHere(String),
    Stop(String),
}

/// A socket that is ours for as long as this lives, and is removed with it.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) path: PathBuf,
    /// Who holds the lock owns the path: a socket that is there without one was left behind. (Asking by connecting
    /// would not do: two processes that start at once could each remove the other's new socket.)
    _lock: File,
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Gone already, or in a directory that is: nobody can call any more, which is what was wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn bind(path: &Path, with_parents: bool) -> Result<Bound, Trouble> {
    let shown = path.display();
    let not_here = |what: &str, e: io::Error| {
        let text = format!("{what} {shown}: {e}");
        match e.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound => {
                Trouble::NotHere(text)
            }
            _ => Trouble::Stop(text),
        }
    };
    let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) else {
        return Err(Trouble::Stop(format!(
            "{shown} has no directory: give an absolute path, such as /run/prestop/hook/hook.sock"
        )));
    };
    let created = DirBuilder::new()
        .mode(0o700)
        .recursive(with_parents)
        .create(dir);
    match created {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            return Err(not_here("creating the directory of", e));
        }
        _ => {}
    }
    let metadata =
        std::fs::symlink_metadata(dir).map_err(|e| not_here("looking at the directory of", e))?;
    check_directory(dir, &metadata).map_err(Trouble::Stop)?;

    let lock = lock(path).map_err(|e| not_here("locking", e))?;
    let lock = lock.map_err(|owner| {
        Trouble::Stop(format!(
            "another process{owner} has the hook socket {shown}: name another path in {}",
            HookSocket::VARIABLE
        ))
    })?;
    remove_stale(path)?;
    Ok(Bound {
        path: path.to_owned(),
        _lock: lock,
    })
}

impl Bound {
    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        let listener = UnixListener::bind(&self.path)?;
        // The directory keeps others out already; this is for a directory that was there before, with 0755.
        std::fs::set_permissions(&self.path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

/// What a process leaves behind that was killed.
fn remove_stale(path: &Path) -> Result<(), Trouble> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Trouble::Stop(format!("looking at {shown}: {e}"))),
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path)
            .map_err(|e| Trouble::Stop(format!("removing the stale socket {shown}: {e}"))),
        Ok(_) => Err(Trouble::Stop(format!(
            "{shown} is there and is no socket: name another path in {}",
            HookSocket::VARIABLE
        ))),
    }
}

/// Takes the lock beside the socket and writes our pid into it; `Err` names who has it. The file stays: removing it
/// would let two processes lock two files of the same name.
fn lock(path: &Path) -> io::Result<Result<File, String>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(PathBuf::from(name))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "{}", std::process::id())?;
            Ok(Ok(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut owner = String::new();
            // Only for the message.
            let _ = file.take(20).read_to_string(&mut owner);
            let is_pid = !owner.is_empty() && owner.bytes().all(|b| b.is_ascii_digit());
            Ok(Err(if is_pid {
                format!(" (pid {owner})")
            } else {
                String::new()
            }))
        }
        Err(e) => Err(e.into()),
    }
}
