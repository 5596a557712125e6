//! Which requests are sent, by which kind of client.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Clients, Failure, Target};
use crate::load::REQUEST_LIMIT;
use crate::service::{FAST_BYTES, SLOW_BYTES, STREAM_BYTES};
use crate::streams::{Visit, Visitors};

/// A kind of client: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http1KeepAlive,
    Http1New,
    Http2,
    Slow,
    Stream,
    /// Server-sent events.
    Sse,
    WebSocket,
    /// One message there, one back.
    Grpc,
    /// One message there, many back.
    GrpcStream,
    /// Not in the mix: clients of their own, each with a connection that idles for 1 to 5 s.
    Idle,
}

impl Kind {
    pub const COUNT: usize = 10;
    pub const MIX: [Self; 9] = [
        Self::Http1KeepAlive,
        Self::Http1New,
        Self::Http2,
        Self::Slow,
        Self::Stream,
        Self::Sse,
        Self::WebSocket,
        Self::Grpc,
        Self::GrpcStream,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1KeepAlive => "h1-keepalive",
            Self::Http1New => "h1-new",
            Self::Http2 => "h2",
            Self::Slow => "slow",
            Self::Stream => "stream",
            Self::Sse => "sse",
            Self::WebSocket => "websocket",
            Self::Grpc => "grpc",
            Self::GrpcStream => "grpc-stream",
            Self::Idle => "idle",
        }
    }
}

/// The connection a request goes by.
#[derive(Clone, Copy, Debug)]
pub enum Via {
    KeepAlive,
    SlowKeepAlive,
    NewConnection,
    Http2,
}

/// A request to be sent.
pub struct Ask {
    pub kind: Kind,
    pub via: Via,
    pub path: String,
    /// Length of a complete answer.
    pub bytes: usize,
}

/// What the load sends next.
pub enum Task {
    Ask(Ask),
    /// gRPC, and clients that stay.
    Visit(Visit),
}

impl Task {
    /// The next of the mix. The same seed gives the same to every strategy.
    pub fn draw(random: &mut Rng) -> Self {
        let fast = |kind, via| Self::Ask(Ask::fast(kind, via));
        match random.u32(0..200) {
            0..72 => fast(Kind::Http1KeepAlive, Via::KeepAlive),
            72..108 => fast(Kind::Http1New, Via::NewConnection),
            108..152 => fast(Kind::Http2, Via::Http2),
            152..170 => {
                let ms = random.u64(500..=3_000);
                let via = if random.bool() {
                    Via::SlowKeepAlive
                } else {
                    Via::NewConnection
                };
                Self::Ask(Ask {
                    kind: Kind::Slow,
                    via,
                    path: format!("/slow?ms={ms}"),
                    bytes: SLOW_BYTES,
                })
            }
            170..178 => {
                let via = if random.bool() {
                    Via::Http2
                } else {
                    Via::NewConnection
                };
                // With a length a cut is easy to see; in chunks only the missing last chunk tells.
                let path = if random.bool() {
                    "/stream?length=true"
                } else {
                    "/stream"
                };
                Self::Ask(Ask {
                    kind: Kind::Stream,
                    via,
                    path: path.to_owned(),
                    bytes: STREAM_BYTES,
                })
            }
            178..194 => Self::Visit(Visit::Grpc),
            // Long enough to meet the end of a replica, short enough that its drain may wait for it.
            some => {
                let stays = Duration::from_millis(random.u64(2_000..=12_000));
                Self::Visit(match some {
                    194..196 => Visit::Sse(stays),
                    196..198 => Visit::WebSocket(stays),
                    _ => Visit::GrpcStream(stays),
                })
            }
        }
    }

    pub const fn kind(&self) -> Kind {
        match self {
            Self::Ask(ask) => ask.kind,
            Self::Visit(Visit::Sse(_)) => Kind::Sse,
            Self::Visit(Visit::WebSocket(_)) => Kind::WebSocket,
            Self::Visit(Visit::Grpc) => Kind::Grpc,
            Self::Visit(Visit::GrpcStream(_)) => Kind::GrpcStream,
        }
    }

    /// When it has failed, from when it was due.
    pub fn limit(&self) -> Duration {
        match self {
            Self::Ask(_) | Self::Visit(Visit::Grpc) => REQUEST_LIMIT,
            Self::Visit(Visit::Sse(stays) | Visit::WebSocket(stays) | Visit::GrpcStream(stays)) => {
                *stays + REQUEST_LIMIT
            }
        }
    }
}

/// All clients.
pub struct Everyone {
    clients: Clients,
    visitors: Visitors,
}

impl Everyone {
    pub fn new(http: Target, grpc: Target, rate: u32, over: CancellationToken) -> Self {
        Self {
            clients: Clients::new(http.clone(), rate),
            visitors: Visitors::new(http, grpc, rate, over),
        }
    }

    /// When it was answered; one that stays, when it got the first of its answer.
    ///
    /// # Errors
    ///
    /// Why it failed, for the client's row in the table.
    pub async fn send(&self, task: Task) -> Result<Instant, Failure> {
        match task {
            Task::Ask(ask) => self.clients.send(ask).await,
            Task::Visit(visit) => self.visitors.send(visit).await,
        }
    }
}

impl Ask {
    /// A request of a mostly idle client, and how long after it the next one is due.
    pub fn idle(random: &mut Rng) -> (Self, Duration) {
        let pause = Duration::from_millis(random.u64(1_000..=5_000));
        (Self::fast(Kind::Idle, Via::KeepAlive), pause)
    }

    fn fast(kind: Kind, via: Via) -> Self {
        Self {
            kind,
            via,
            path: "/fast".to_owned(),
            bytes: FAST_BYTES,
        }
    }
}

/// So many that each idles about 0.6 s between two requests: 36 % of the rate, times 0.6 s.
pub fn keep_alive_connections(rate: u32) -> usize {
    at_least_two(rate * 216 / 1_000)
}

/// 4.5 % of the rate, times 1.75 s for an answer and 0.75 s of idling.
pub fn slow_connections(rate: u32) -> usize {
    at_least_two(rate * 1125 / 10_000)
}

/// Few and long-lived, as HTTP/2 clients have them.
pub fn http2_connections(rate: u32) -> usize {
    6 + usize::try_from(rate / 500).expect("at most 5000 / 500")
}

fn at_least_two(connections: u32) -> usize {
    usize::try_from(connections).expect("at most 5000").max(2)
}
