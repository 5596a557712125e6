//! An HTTP/2 client that does nothing by itself: no acknowledgement, no window, no goodbye.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

/// The default one (RFC 9113, 6.9.2).
pub const WINDOW: u32 = 65_535;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// One that asks for an answer.
    pub fn is_ping(&self) -> bool {
        self.kind == PING && self.flags & ACK == 0
    }

    /// The last stream that a GOAWAY lets finish.
    pub fn last_stream(&self) -> u32 {
        assert_eq!(self.kind, GOAWAY);
        u32::from_be_bytes(self.payload[..4].try_into().unwrap()) & 0x7fff_ffff
    }
}

pub struct Http2<IO = TcpStream> {
    pub io: IO,
    buf: Vec<u8>,
    /// How many bytes this client has sent.
    pub sent: usize,
}

impl Http2 {
    pub async fn preface(addr: SocketAddr) -> Self {
        let io = within("connect", TcpStream::connect(addr)).await.unwrap();
        Self::begin(io).await
    }

    /// Preface and SETTINGS, both ways. With this window for each stream.
    pub async fn with_window(addr: SocketAddr, window: u32) -> Self {
        let io = within("connect", TcpStream::connect(addr)).await.unwrap();
        Self::over(io, window).await
    }

    pub async fn connect(addr: SocketAddr) -> Self {
        Self::with_window(addr, WINDOW).await
    }

    pub fn local(&self) -> SocketAddr {
        self.io.local_addr().unwrap()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Http2<IO> {
    async fn begin(io: IO) -> Self {
        let mut client = Self {
            io,
            buf: Vec::new(),
            sent: 0,
        };
        client.write(PREFACE).await;
        client
    }

    pub async fn over(io: IO, window: u32) -> Self {
        let mut client = Self::begin(io).await;
        let mut settings = vec![0, 4];
        settings.extend(window.to_be_bytes());
        client.send(SETTINGS, 0, 0, &settings).await;
        loop {
            let frame = client.frame().await.unwrap();
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                client.send(SETTINGS, ACK, 0, &[]).await;
            } else if frame.kind == SETTINGS {
                return client;
            }
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        within("write", self.io.write_all(bytes)).await.unwrap();
        self.sent += bytes.len();
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.write(&frame).await;
    }

    /// A GET, by the static table alone.
    pub async fn get(&mut self, stream: u32, path: &str) {
        let mut block = vec![0x82, 0x86, 0x41, 4];
        block.extend(b"test");
        block.extend([0x04, u8::try_from(path.len()).unwrap()]);
        block.extend(path.as_bytes());
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block)
            .await;
    }

    pub async fn frame(&mut self) -> io::Result<Frame> {
        self.fill(9).await?;
        let length = u32::from_be_bytes([0, self.buf[0], self.buf[1], self.buf[2]]) as usize;
        self.fill(9 + length).await?;
        let bytes: Vec<u8> = self.buf.drain(..9 + length).collect();
        Ok(Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes(bytes[5..9].try_into().unwrap()) & 0x7fff_ffff,
            payload: bytes[9..].to_vec(),
        })
    }

    async fn fill(&mut self, n: usize) -> io::Result<()> {
        while self.buf.len() < n {
            if within("a frame", self.io.read_buf(&mut self.buf)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// The next frame of this kind; others are passed over, and nothing is acknowledged.
    pub async fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("a frame");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Status and body of this stream; others may not come between. PINGs are acknowledged where asked for.
    pub async fn answer(&mut self, stream: u32, acknowledge: bool) -> (u8, Vec<u8>) {
        let (mut status, mut body) = (0, Vec::new());
        loop {
            let frame = self.frame().await.expect("a frame of the answer");
            match frame.kind {
                HEADERS if status == 0 => status = frame.payload[0],
                DATA => body.extend(&frame.payload),
                PING if acknowledge && frame.is_ping() => self.pong(&frame).await,
                RST_STREAM => panic!("reset: {frame:?}"),
                _ => {}
            }
            if frame.ends_stream() {
                assert_eq!(frame.stream, stream);
                return (status, body);
            }
        }
    }

    /// The bodies of so many streams, each begun with a 200 and ended; or fewer, where the connection has ended. PINGs
    /// are acknowledged.
    pub async fn bodies(&mut self, streams: usize) -> HashMap<u32, Vec<u8>> {
        let (mut open, mut ended) = (HashMap::new(), HashMap::new());
        while ended.len() < streams {
            let Ok(frame) = self.frame().await else { break };
            match frame.kind {
                HEADERS if frame.payload[0] == OK => drop(open.insert(frame.stream, Vec::new())),
                DATA => open
                    .get_mut(&frame.stream)
                    .expect("a head came first")
                    .extend(&frame.payload),
                _ if frame.is_ping() => self.pong(&frame).await,
                _ => {}
            }
            if frame.ends_stream()
                && let Some(body) = open.remove(&frame.stream)
            {
                ended.insert(frame.stream, body);
            }
        }
        ended
    }

    /// What is left of the body of this stream, until it is ended. PINGs are acknowledged.
    pub async fn rest_of(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.frame().await.expect("a frame of the body");
            assert!(frame.kind != RST_STREAM, "reset: {frame:?}");
            if frame.is_ping() {
                self.pong(&frame).await;
            }
            if frame.stream == stream && frame.kind == DATA {
                body.extend(&frame.payload);
            }
            if frame.stream == stream && frame.ends_stream() {
                return body;
            }
        }
    }

    pub async fn pong(&mut self, ping: &Frame) {
        self.send(PING, ACK, 0, &ping.payload).await;
    }

    pub async fn open_window(&mut self, stream: u32, by: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &by.to_be_bytes()).await;
    }

    /// Reads until the connection has ended, passing over what comes.
    pub async fn drain(&mut self) {
        while self.frame().await.is_ok() {}
    }
}

/// `:status: 200` in the static table.
pub const OK: u8 = 0x88;
