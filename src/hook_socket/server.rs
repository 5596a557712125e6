//! The process's end of the socket.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Kind};
use crate::handle::ShutdownHandle;
use crate::hook_call::{PreStopCall, started};

use super::HookSocket;
use super::place::{Bound, is_trusted, own_uid};
use super::words::{LONGEST, Request, Word};

/// A kubelet calls one hook at a time; this many are no hooks.
const CALLS: usize = 64;

/// A caller that says nothing for this long, or does not read a line, is gone.
const LINE: Duration = Duration::from_secs(5);

/// Answers hooks until it is dropped; the socket is removed with it.
///
/// On a thread with a small runtime, as signals are: a hook is heard while the service blocks every thread it has.
#[derive(Debug)]
pub(crate) struct HookServer {
    _end: DropGuard,
    _bound: Bound,
}

impl HookServer {
    pub(crate) fn start(socket: &HookSocket, handle: ShutdownHandle) -> Result<Self, Error> {
        let bound = socket
            .bind()
            .map_err(|why| Error::new(Kind::HookSocket(why)))?;
        let listening = |e: io::Error| {
            let shown = bound.path.display();
            Error::new(Kind::HookSocket(format!(
                "listening on the hook socket {shown}: {e}"
            )))
        };
        let listener = bound.listen().map_err(listening)?;
        let failed = |e| Error::new(Kind::Thread("hook socket")).with_source(e);
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(failed)?;
        let listener = {
            let _in = runtime.enter();
            UnixListener::from_std(listener).map_err(listening)?
        };
        let end = CancellationToken::new();
        let ended = end.clone();
        std::thread::Builder::new()
            .name("prestop-hooks".into())
            .spawn(move || {
                runtime.block_on(ended.run_until_cancelled(serve(listener, handle)));
            })
            .map_err(failed)?;
        tracing::info!(path = %bound.path.display(), "hook socket");
        Ok(Self {
            _end: end.drop_guard(),
            _bound: bound,
        })
    }
}

async fn serve(listener: UnixListener, handle: ShutdownHandle) {
    let mut calls = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: going on at once would spin.
                tracing::warn!(%error, "hook socket: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while calls.try_join_next().is_some() {}
        if calls.len() >= CALLS {
            tracing::warn!("hook socket: more than {CALLS} calls at once, the newest is dropped");
            continue;
        }
        let handle = handle.clone();
        calls.spawn(async move {
            if let Err(error) = answer(stream, &handle).await {
                tracing::debug!(%error, "hook call ended");
            }
        });
    }
}

async fn answer(stream: UnixStream, handle: &ShutdownHandle) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let mut stream = BufReader::new(stream);
    if !is_trusted(uid) {
        tracing::warn!(uid, "hook socket: a call by another user was refused");
        let why = format!(
            "a hook must run as the user of the process (uid {}), not as uid {uid}",
            own_uid()
        );
        return say(&mut stream, &Word::Refused(why)).await;
    }
    let mut line = String::new();
    timeout(
        LINE,
        (&mut stream).take(LONGEST as u64).read_line(&mut line),
    )
    .await??;
    let Some(request) = Request::parse(&line) else {
        let why = format!("this process does not know {:?}", line.trim_end());
        return say(&mut stream, &Word::Refused(why)).await;
    };
    tracing::info!(hook = request.hook(), "called");
    match request {
        Request::PreStop => {
            let call = PreStopCall::begin(handle);
            say(&mut stream, &Word::Wait(call.longest())).await?;
            let answer = call.over().await;
            say(&mut stream, &Word::Done(answer.text().to_owned())).await
        }
        Request::Started => {
            let answer = started(handle).await;
            let word = match &answer {
                Ok(ready) => Word::Done(ready.text().to_owned()),
                Err(failed) => Word::Failed(failed.text().to_owned()),
            };
            say(&mut stream, &word).await
        }
    }
}

async fn say(stream: &mut BufReader<UnixStream>, word: &Word) -> io::Result<()> {
    timeout(LINE, stream.write_all(word.line().as_bytes())).await?
}
