//! Two TCP connections made one: what a layer 4 load balancer does with every byte, FIN and RST.
//!
//! Each direction reads chunks, gives each the instant at which it is due on the other side, and writes them in
//! order. Many chunks are under way at once, so a delay costs latency and no throughput. A FIN is passed on as a
//! FIN and leaves the other direction alone; whatever resets one side resets the other.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// At most 64 chunks of 16 KiB are under way per direction; after that the sender is not read any more.
const CHUNKS: usize = 64;
const CHUNK: usize = 16 * 1024;

/// Copies both ways, `delay` late, until both sides have sent their FIN or one was reset.
///
/// # Cancel safety
///
/// Dropping the future closes both connections.
pub async fn splice(client: TcpStream, server: TcpStream, delay: Duration) {
    let ended = {
        let client = Side::new(&client);
        let server = Side::new(&server);
        tokio::try_join!(
            one_way(&client, &server, delay),
            one_way(&server, &client, delay)
        )
    };
    if let Err(Reset) = ended {
        reset(client);
        reset(server);
    }
}

/// Closes `stream` with a RST, as a host does on which nobody listens.
pub fn reset(stream: TcpStream) {
    // An error means that the socket is dead already, which is what was wanted.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// One of the two connections, seen by both directions.
struct Side<'a> {
    stream: &'a TcpStream,
    /// A write has failed. The kernel reports a RST once: a write that took the report leaves the next read with
    /// a plain end of stream, which must still be passed on as a RST.
    broken: AtomicBool,
    /// Its FIN was read, so no later read will tell of a RST.
    finished: AtomicBool,
}

impl<'a> Side<'a> {
    const fn new(stream: &'a TcpStream) -> Self {
        Self {
            stream,
            broken: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        }
    }

    async fn read(&self, buffer: &mut [u8]) -> Event {
        loop {
            let read = match self.stream.readable().await {
                Ok(()) => self.stream.try_read(buffer),
                Err(error) => Err(error),
            };
            return match read {
                Ok(0) if self.broken.load(Ordering::SeqCst) => Event::Rst,
                Ok(0) => {
                    self.finished.store(true, Ordering::SeqCst);
                    Event::Fin
                }
                Ok(n) => Event::Data(Bytes::copy_from_slice(&buffer[..n])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => Event::Rst,
            };
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A connection was reset: both ends of the splice must hear of it.
struct Reset;

enum Event {
    Data(Bytes),
    Fin,
    Rst,
}

async fn one_way(from: &Side<'_>, to: &Side<'_>, delay: Duration) -> Result<(), Reset> {
    let (queue, due) = mpsc::channel(CHUNKS);
    let ((), ended) = tokio::join!(read_all(from, queue, delay), write_when_due(due, to, delay));
    ended
}

async fn read_all(from: &Side<'_>, queue: mpsc::Sender<(Instant, Event)>, delay: Duration) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let event = from.read(&mut buffer).await;
        let last = !matches!(event, Event::Data(_));
        if queue.send((Instant::now() + delay, event)).await.is_err() || last {
            return;
        }
    }
}

async fn write_when_due(
    mut queue: mpsc::Receiver<(Instant, Event)>,
    to: &Side<'_>,
    delay: Duration,
) -> Result<(), Reset> {
    while let Some((due, event)) = queue.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        match event {
            Event::Data(bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    return refused_data(to, delay).await;
                }
            }
            Event::Fin => {
                // Fails when the peer is gone; then the other direction says so.
                let _ = SockRef::from(to.stream).shutdown(Shutdown::Write);
                return Ok(());
            }
            Event::Rst => return Err(Reset),
        }
    }
    Ok(())
}

/// `to` is gone. On a network its RST comes back after everything it had sent before, so the other direction, which
/// reads what it had sent, reports it; unless that one ended with a FIN and will read nothing more.
async fn refused_data(to: &Side<'_>, delay: Duration) -> Result<(), Reset> {
    to.broken.store(true, Ordering::SeqCst);
    if to.finished.load(Ordering::SeqCst) {
        sleep(delay).await;
        return Err(Reset);
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const DELAY: Duration = Duration::from_millis(50);

    /// A client and a server with a splice between them.
    async fn connected(delay: Duration) -> (TcpStream, TcpStream) {
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        tokio::spawn(splice(near, far, delay));
        (client, server)
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let dialled = TcpStream::connect(address).await.expect("it listens");
        let (accepted, _) = listener.accept().await.expect("one was dialled");
        (dialled, accepted)
    }

    #[tokio::test]
    async fn a_fin_leaves_the_other_direction_alone() {
        let (mut client, mut server) = connected(Duration::ZERO).await;
        client.write_all(b"question").await.expect("open");
        client.shutdown().await.expect("open");
        let mut question = Vec::new();
        server
            .read_to_end(&mut question)
            .await
            .expect("a FIN, no RST");
        server.write_all(b"answer").await.expect("still open");
        drop(server);
        let mut answer = Vec::new();
        client
            .read_to_end(&mut answer)
            .await
            .expect("a FIN, no RST");
        assert_eq!((&*question, &*answer), (&b"question"[..], &b"answer"[..]));
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset_after_the_bytes_before_it() {
        let (mut client, mut server) = connected(DELAY).await;
        server.write_all(b"half an ans").await.expect("open");
        sleep(DELAY / 2).await;
        reset(server);
        let mut answer = Vec::new();
        let error = client.read_to_end(&mut answer).await.expect_err("a RST");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(answer, b"half an ans");
    }

    #[tokio::test]
    async fn a_server_that_is_gone_resets_the_client() {
        let (mut client, server) = connected(DELAY).await;
        server.set_zero_linger().expect("open");
        client.write_all(b"question").await.expect("open");
        // The question is on its way when the server goes.
        drop(server);
        let error = client.read_u8().await.expect_err("no answer");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_delay_costs_latency_and_no_throughput() {
        let (mut client, mut server) = connected(DELAY).await;
        let began = Instant::now();
        let writing = async {
            for _ in 0..40 {
                client.write_all(&[7; CHUNK]).await.expect("open");
            }
            client.shutdown().await.expect("open");
        };
        let mut all = Vec::new();
        let (_, read) = tokio::join!(writing, server.read_to_end(&mut all));
        read.expect("a FIN, no RST");
        assert_eq!(all.len(), 40 * CHUNK);
        assert!(began.elapsed() >= DELAY);
        assert!(
            began.elapsed() < DELAY * 10,
            "one chunk at a time: {:?}",
            began.elapsed()
        );
    }
}
