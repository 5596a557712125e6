//! [`Proxy`]: what lies between the adapter and a real server, and can be in trouble of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What becomes of what the adapter sends. A change concerns open connections, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Every piece of an answer takes this long.
    Slow(Duration),
    /// Neither side hears the other; connections stay open.
    Partition,
    /// Connections are reset, old ones and new ones.
    Reset,
    /// Every HTTP request is answered with this, and the server hears none.
    Status(u16),
}

pub struct Proxy {
    pub at: SocketAddr,
    trouble: watch::Sender<Trouble>,
    troubled: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (trouble, now) = watch::channel(Trouble::None);
        let troubled = Arc::new(AtomicUsize::new(0));
        let count = troubled.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(between(client, server, now.clone(), count.clone()));
            }
        });
        Self {
            at,
            trouble,
            troubled,
            _task: task,
        }
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
}

async fn between(
    mut client: TcpStream,
    server: SocketAddr,
    mut trouble: watch::Receiver<Trouble>,
    troubled: Arc<AtomicUsize>,
) {
    let met = || troubled.fetch_add(1, Ordering::SeqCst);
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
            read = client.read(&mut out) => match read {
                Ok(length @ 1..) => match now {
                    Trouble::None => server.write_all(&out[..length]).await.is_ok(),
                    Trouble::Slow(_) => {
                        met();
                        server.write_all(&out[..length]).await.is_ok()
                    }
                    Trouble::Partition | Trouble::Reset => {
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
            read = server.read(&mut back), if now != Trouble::Partition => match read {
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
