//! The listener: one line for whoever connects.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::handle::ShutdownHandle;
use crate::phase::Phase;
use crate::sync::lock;

use super::balancers::Source;
use super::{Answers, Asked, Conversation};

/// More than any fleet of balancers asks at once; beyond it the oldest one goes, which has been answered long ago.
const CONNECTIONS: usize = 64;

/// HAProxy closes as soon as it has read the line.
const CONVERSATION: Duration = Duration::from_secs(5);

/// Of `agent-send`, what tells balancers apart.
const TEXT: usize = 64;

/// Reads at the beginning of a conversation, in search of its end: far more than a text needs.
const PIECES: usize = 16;

pub(super) async fn listen(answers: Answers, handle: ShutdownHandle) {
    let Answers {
        listener,
        leaving,
        asked,
    } = answers;
    let mut connections = VecDeque::new();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: going on at once would spin.
                tracing::warn!(%error, "HAProxy's agent check: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        connections.retain(|connection: &AbortOnDropHandle<()>| !connection.is_finished());
        if connections.len() >= CONNECTIONS {
            connections.pop_front();
        }
        let (handle, asked) = (handle.clone(), asked.clone());
        connections.push_back(AbortOnDropHandle::new(tokio::spawn(async move {
            let answered = answer(stream, peer, leaving, &handle, &asked);
            if let Ok(Err(error)) = timeout(CONVERSATION, answered).await {
                tracing::debug!(%peer, %error, "an agent check was not answered");
            }
        })));
    }
}

/// The line, and then the peer's end: HAProxy closes when it has read the line and acted on it. Who stays is not
/// HAProxy, and who was gone before has read nothing.
async fn answer(
    stream: TcpStream,
    peer: SocketAddr,
    leaving: &'static str,
    handle: &ShutdownHandle,
    asked: &Arc<Asked>,
) -> io::Result<()> {
    let mut text = Vec::new();
    let mut stream = still_there(stream, &mut text)?;
    let mut piece = [0; 256];
    let conversation = Conversation::begin(asked);
    let phase = handle.phase();
    let line = match phase {
        Phase::Starting => "down #starting\n",
        Phase::Ready => "up ready\n",
        _ => leaving,
    };
    stream.write_all(line.as_bytes()).await?;
    let at = Instant::now();
    // HAProxy closes with a reset: an error is an end like any other. More text than is looked at is read all the same.
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        keep(&mut text, &piece[..read]);
    }
    let source = Source::new(peer.ip(), &text);
    if phase.is_stopping() {
        lock(&asked.balancers).was_told(&source);
    } else if phase.is_ready() {
        lock(&asked.balancers).was_sent_here(source, at);
    }
    // On record first.
    drop(conversation);
    Ok(())
}

/// The connection of one that did not give up while it was in the queue; what it has sent so far is its text.
///
/// # Errors
///
/// When it did: what is written to it would be read by nobody.
fn still_there(stream: TcpStream, text: &mut Vec<u8>) -> io::Result<TcpStream> {
    // The system is asked: tokio's `try_read` knows nothing of a socket before its driver has had its turn.
    let mut stream = stream.into_std()?;
    let mut piece = [0; 256];
    // One that sends without end is there.
    for _ in 0..PIECES {
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => keep(text, &piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    TcpStream::from_std(stream)
}

/// As much of it as is looked at.
fn keep(text: &mut Vec<u8>, piece: &[u8]) {
    let room = TEXT.saturating_sub(text.len());
    text.extend_from_slice(&piece[..piece.len().min(room)]);
}
