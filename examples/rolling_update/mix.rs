//! Which requests are sent, by which kind of client.

use std::time::Duration;

use fastrand::Rng;

use crate::grpc;
use crate::service::{FAST_BYTES, SLOW_BYTES, STREAM_BYTES};

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
    Events,
    WebSocket,
    GrpcUnary,
    GrpcStream,
}

/// A request to be sent.
pub struct Ask {
    pub kind: Kind,
    pub via: Via,
    pub path: String,
    /// Length of a complete answer; of one without an end, 0.
    pub bytes: usize,
    /// How long the client stays, where the answer has no end.
    pub stays: Duration,
}

impl Ask {
    /// The next request of the mix. The same seed gives the same requests to every strategy.
    pub fn draw(random: &mut Rng) -> Self {
        match random.u32(0..200) {
            0..72 => Self::fast(Kind::Http1KeepAlive, Via::KeepAlive),
            72..108 => Self::fast(Kind::Http1New, Via::NewConnection),
            108..152 => Self::fast(Kind::Http2, Via::Http2),
            152..170 => {
                let ms = random.u64(500..=3_000);
                let via = if random.bool() {
                    Via::SlowKeepAlive
                } else {
                    Via::NewConnection
                };
                Self {
                    kind: Kind::Slow,
                    via,
                    path: format!("/slow?ms={ms}"),
                    bytes: SLOW_BYTES,
                    stays: Duration::ZERO,
                }
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
                Self {
                    kind: Kind::Stream,
                    via,
                    path: path.to_owned(),
                    bytes: STREAM_BYTES,
                    stays: Duration::ZERO,
                }
            }
            178..194 => Self::staying(Kind::Grpc, Via::GrpcUnary, grpc::GET, Duration::ZERO),
            // Long enough to meet the end of a replica, short enough that its drain may wait for it.
            some => {
                let stays = Duration::from_millis(random.u64(2_000..=12_000));
                match some {
                    194..196 => Self::staying(Kind::Sse, Via::Events, "/events", stays),
                    196..198 => Self::staying(Kind::WebSocket, Via::WebSocket, "/echo", stays),
                    _ => Self::staying(Kind::GrpcStream, Via::GrpcStream, grpc::WATCH, stays),
                }
            }
        }
    }

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
            stays: Duration::ZERO,
        }
    }

    fn staying(kind: Kind, via: Via, path: &str, stays: Duration) -> Self {
        Self {
            kind,
            via,
            path: path.to_owned(),
            bytes: 0,
            stays,
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
