//! Which requests are sent, by which kind of client.

use std::time::Duration;

use fastrand::Rng;

use crate::service::{FAST_BYTES, SLOW_BYTES, STREAM_BYTES};

/// A kind of client: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http1KeepAlive,
    Http1New,
    Http2,
    Slow,
    Stream,
    /// Not in the mix: clients of their own, each with a connection that idles for 1 to 5 s.
    Idle,
}

impl Kind {
    pub const COUNT: usize = 6;
    pub const MIX: [Self; 5] = [
        Self::Http1KeepAlive,
        Self::Http1New,
        Self::Http2,
        Self::Slow,
        Self::Stream,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1KeepAlive => "h1-keepalive",
            Self::Http1New => "h1-new",
            Self::Http2 => "h2",
            Self::Slow => "slow",
            Self::Stream => "stream",
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

impl Ask {
    /// The next request of the mix. The same seed gives the same requests to every strategy.
    pub fn draw(random: &mut Rng) -> Self {
        match random.u32(0..100) {
            0..40 => Self::fast(Kind::Http1KeepAlive, Via::KeepAlive),
            40..60 => Self::fast(Kind::Http1New, Via::NewConnection),
            60..85 => Self::fast(Kind::Http2, Via::Http2),
            85..95 => {
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
                }
            }
            _ => {
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
        }
    }
}

/// So many that each idles about 0.6 s between two requests: 40 % of the rate, times 0.6 s.
pub fn keep_alive_connections(rate: u32) -> usize {
    at_least_two(rate * 24 / 100)
}

/// 5 % of the rate, times 1.75 s for an answer and 0.75 s of idling.
pub fn slow_connections(rate: u32) -> usize {
    at_least_two(rate * 125 / 1_000)
}

/// Few and long-lived, as HTTP/2 clients have them.
pub fn http2_connections(rate: u32) -> usize {
    6 + usize::try_from(rate / 500).expect("at most 5000 / 500")
}

fn at_least_two(connections: u32) -> usize {
    usize::try_from(connections).expect("at most 5000").max(2)
}
