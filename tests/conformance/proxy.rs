//! [`Proxy`]: what lies between the adapter and a real server, and can be in trouble of its own.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::server::free_ports;

/// What becomes of what the adapter sends. A change concerns open connections, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Every piece of an answer takes this long.
    Slow(Duration),
    /// The server hears this much later what was sent meanwhile, also when whoever sent it has hung up.
    Late(Duration),
    /// Neither side hears the other; connections stay open. What was sent is lost.
    Partition,
    /// The same, but what was sent is heard as soon as this ends: the server stands still.
    Frozen,
    /// Connections are reset, old ones and new ones.
    Reset,
    /// Every HTTP request is answered with this, and the server hears none.
    Status(u16),
}

/// A piece of what the server heard, in the order in which it was passed on: mostly a whole request.
#[derive(Clone, Debug)]
pub struct Heard {
    pub first_line: String,
    /// It was held back by [`Trouble::Late`].
    pub is_late: bool,
}

pub struct Proxy {
    pub at: SocketAddr,
    server: SocketAddr,
    trouble: watch::Sender<Trouble>,
    troubled: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// Accepts, until the sender is dropped.
    task: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    /// Its port while it does not listen, so that nobody else takes it: connections are refused.
    port: Option<TcpSocket>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let mut proxy = Self::prepare(server);
        proxy.up();
        proxy
    }

    /// One that does not listen yet.
    pub fn prepare(server: SocketAddr) -> Self {
        let (at, port) = loop {
            let at = (Ipv4Addr::LOCALHOST, free_ports(1, &[])[0]).into();
            // It may be taken by now.
            if let Ok(port) = bound(at) {
                break (at, port);
            }
        };
        Self {
            at,
            server,
            trouble: watch::channel(Trouble::None).0,
            troubled: Arc::default(),
            heard: Arc::default(),
            task: None,
            port: Some(port),
        }
    }

    /// From now on it listens.
    pub fn up(&mut self) {
        let listener = self.port.take().expect("it is down").listen(1024).unwrap();
        let (server, trouble) = (self.server, self.trouble.subscribe());
        let (troubled, heard) = (self.troubled.clone(), self.heard.clone());
        let (until, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => break,
                    accepted = listener.accept() => {
                        let (client, _) = accepted.unwrap();
                        let (trouble, troubled) = (trouble.clone(), troubled.clone());
                        connections.spawn(between(client, server, trouble, troubled, heard.clone()));
                    }
                }
            }
            drop(listener);
            connections.shutdown().await;
        });
        self.task = Some((until, task));
    }

    /// From now on connections are refused, and there are none.
    pub async fn down(&mut self) {
        let (until, task) = self.task.take().expect("it is up");
        drop(until);
        task.await.unwrap();
        self.port = Some(bound(self.at).unwrap());
    }

    /// From now on.
    pub fn make(&self, trouble: Trouble) {
        self.trouble.send_replace(trouble);
    }

    /// Waits until the adapter has met the trouble this often.
    pub async fn met(&self, times: usize) {
        while self.troubled.load(Ordering::SeqCst) < times {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the server has heard until now.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

/// It is bound, and does not listen.
fn bound(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // The connections that it had may linger.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    Ok(socket)
}

async fn between(
    mut client: TcpStream,
    server: SocketAddr,
    mut trouble: watch::Receiver<Trouble>,
    troubled: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<Heard>>>,
) {
    let met = || troubled.fetch_add(1, Ordering::SeqCst);
    let hears = |piece: &[u8], is_late| {
        let first_line = piece.split(|byte| *byte == b'\r').next();
        let first_line = String::from_utf8_lossy(first_line.unwrap_or_default()).into_owned();
        let piece = Heard {
            first_line,
            is_late,
        };
        heard.lock().unwrap().push(piece);
    };
    let _ = client.set_nodelay(true);
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = server.set_nodelay(true);
    let (mut out, mut back) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        let now = *trouble.borrow_and_update();
        if now == Trouble::Reset {
            met();
            let _ = client.set_zero_linger();
            return;
        }
        let open = tokio::select! {
            // A change comes before what was sent after it: `make` is over when a test's next call is on its way.
            biased;
            changed = trouble.changed() => changed.is_ok(),
            read = client.read(&mut out), if now != Trouble::Frozen => match read {
                Ok(length @ 1..) => match now {
                    Trouble::None => {
                        hears(&out[..length], false);
                        server.write_all(&out[..length]).await.is_ok()
                    }
                    Trouble::Slow(_) => {
                        met();
                        hears(&out[..length], false);
                        server.write_all(&out[..length]).await.is_ok()
                    }
                    Trouble::Late(by) => {
                        met();
                        sleep(by).await;
                        hears(&out[..length], true);
                        server.write_all(&out[..length]).await.is_ok()
                    }
                    Trouble::Partition | Trouble::Frozen | Trouble::Reset => {
                        met();
                        true
                    }
                    Trouble::Status(status) => {
                        met();
                        let answer = format!(
                            "HTTP/1.1 {status} Trouble\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 8\r\n\r\ntroubled"
                        );
                        let _ = client.write_all(answer.as_bytes()).await;
                        false
                    }
                },
                _ => false,
            },
            read = server.read(&mut back), if !matches!(now, Trouble::Partition | Trouble::Frozen) => match read {
                Ok(length @ 1..) => {
                    if let Trouble::Slow(by) = now {
                        sleep(by).await;
                    }
                    client.write_all(&back[..length]).await.is_ok()
                }
                _ => false,
            },
        };
        if !open {
            return;
        }
    }
}
