//! Which requests are sent: the mix of `rolling_update` without HTTP/2, which neither nginx (without TLS) nor the JDK's
//! server speaks.

use std::time::Duration;

use fastrand::Rng;

use crate::client::Clients;
use crate::load::REQUEST_LIMIT;
use crate::service::{FAST_BYTES, SLOW_BYTES, STREAM_BYTES};

/// A kind of client: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http1KeepAlive,
    Http1New,
    Slow,
    Stream,
}

impl Kind {
    pub const COUNT: usize = 4;
    pub const MIX: [Self; 4] = [
        Self::Http1KeepAlive,
        Self::Http1New,
        Self::Slow,
        Self::Stream,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1KeepAlive => "h1-keepalive",
            Self::Http1New => "h1-new",
            Self::Slow => "slow",
            Self::Stream => "stream",
        }
    }
}

/// The connection a request goes by.
#[derive(Clone, Copy, Debug)]
pub enum Via {
    KeepAlive,
    SlowKeepAlive,
    NewConnection,
    /// Never chosen.
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

/// Nobody here stays for longer than an answer takes.
pub type Task = Ask;
pub type Everyone = Clients;

impl Ask {
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    pub const fn limit(&self) -> Duration {
        REQUEST_LIMIT
    }

    /// The next request of the mix. The same seed gives the same requests to every recipe.
    pub fn draw(random: &mut Rng) -> Self {
        let fast = |kind, via| Self {
            kind,
            via,
            path: "/fast".to_owned(),
            bytes: FAST_BYTES,
        };
        match random.u32(0..100) {
            0..60 => fast(Kind::Http1KeepAlive, Via::KeepAlive),
            60..80 => fast(Kind::Http1New, Via::NewConnection),
            80..93 => {
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
            _ => Self {
                kind: Kind::Stream,
                via: Via::NewConnection,
                path: if random.bool() {
                    "/stream?length=true".to_owned()
                } else {
                    "/stream".to_owned()
                },
                bytes: STREAM_BYTES,
            },
        }
    }

    /// As a mostly idle client would; there are none here.
    pub fn idle(random: &mut Rng) -> (Self, std::time::Duration) {
        (Self::draw(random), std::time::Duration::from_secs(1))
    }
}

/// So many that each idles about 0.6 s between two requests.
pub fn keep_alive_connections(rate: u32) -> usize {
    at_least_two(rate * 36 / 100)
}

/// 6.5 % of the rate, times 1.75 s for an answer and 0.75 s of idling.
pub fn slow_connections(rate: u32) -> usize {
    at_least_two(rate * 160 / 1_000)
}

pub fn http2_connections(_: u32) -> usize {
    1
}

fn at_least_two(connections: u32) -> usize {
    usize::try_from(connections).expect("a few").max(2)
}
