//! ZooKeeper's protocol written out by hand, so that who is listed is not read by the client that registers.
//!
//! Numbers are big-endian; strings and buffers have their length in front, and so has every message.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const PING: i32 = 11;

/// In the place of a request's number.
const OF_A_WATCH: i32 = -1;
const OF_A_PING: i32 = -2;

const NO_NODE: i32 = -101;

/// A third of it later the server is told that we are still there.
const SESSION: i32 = 60_000;
const QUIET: Duration = Duration::from_secs(20);

/// What is behind the head of an answer, or the number of an error.
pub type Answer = Result<Vec<u8>, i32>;

/// A session, asking one thing after the other.
pub struct Raw {
    stream: TcpStream,
    asked: i32,
    /// A watch went off.
    told: bool,
}

impl Raw {
    pub async fn connect(at: SocketAddr) -> io::Result<Self> {
        let mut stream = connect(at).await?;
        let mut hello = Vec::new();
        // Version, last change seen.
        hello.extend([0; 4 + 8]);
        hello.extend(SESSION.to_be_bytes());
        // No session yet, and so no password; not read-only.
        hello.extend([0; 8]);
        hello.extend(16_i32.to_be_bytes());
        hello.extend([0; 16 + 1]);
        send(&mut stream, &hello).await?;
        receive(&mut stream).await?;
        Ok(Self {
            stream,
            asked: 0,
            told: false,
        })
    }

    /// The names below it in order, and a watch over them.
    pub async fn children(&mut self, path: &str) -> io::Result<Vec<String>> {
        match self.ask(GET_CHILDREN, path, true).await? {
            Ok(body) => {
                let mut rest = &body[..];
                let mut names = Vec::new();
                for _ in 0..number(&mut rest)? {
                    let name = String::from_utf8(buffer(&mut rest)?);
                    names.push(name.map_err(|_| malformed())?);
                }
                names.sort();
                Ok(names)
            }
            Err(NO_NODE) => {
                // A watch for its creation. Created just now, it has none.
                if self.ask(EXISTS, path, true).await?.is_ok() {
                    self.told = true;
                }
                Ok(Vec::new())
            }
            Err(error) => Err(refused(path, error)),
        }
    }

    /// What is in the node, if there is one.
    pub async fn data(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        match self.ask(GET_DATA, path, false).await? {
            Ok(body) => Ok(Some(buffer(&mut &body[..])?)),
            Err(NO_NODE) => Ok(None),
            Err(error) => Err(refused(path, error)),
        }
    }

    /// Waits until a watch goes off.
    pub async fn changed(&mut self) -> io::Result<()> {
        while !std::mem::take(&mut self.told) {
            if timeout(QUIET, self.stream.readable()).await.is_ok() {
                let answer = receive(&mut self.stream).await?;
                self.told = number(&mut &answer[..])? == OF_A_WATCH;
            } else {
                let pong = self.ask_as(OF_A_PING, PING, &[]).await?;
                pong.map_err(|error| refused("a ping", error))?;
            }
        }
        Ok(())
    }

    async fn ask(&mut self, what: i32, path: &str, watch: bool) -> io::Result<Answer> {
        let mut body = string(path);
        body.push(u8::from(watch));
        self.asked += 1;
        self.ask_as(self.asked, what, &body).await
    }

    /// Sends a request of this number and kind, and waits for its answer.
    pub async fn ask_as(&mut self, number_of: i32, what: i32, body: &[u8]) -> io::Result<Answer> {
        let head = [number_of.to_be_bytes(), what.to_be_bytes()].concat();
        send(&mut self.stream, &[&head, body].concat()).await?;
        loop {
            let answer = receive(&mut self.stream).await?;
            let mut rest = &answer[..];
            if number(&mut rest)? == number_of {
                // Behind the number of the last change.
                rest = rest.get(8..).ok_or_else(malformed)?;
                let error = number(&mut rest)?;
                return Ok(if error == 0 {
                    Ok(rest.to_vec())
                } else {
                    Err(error)
                });
            }
            // Answers come in order, and watches between them.
            self.told = true;
        }
    }
}

pub async fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    // A dial to a port that nobody listens on may be given that very port as its source, and then connects to itself.
    if stream.local_addr()? == at {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub fn string(text: &str) -> Vec<u8> {
    [&length(text.len()), text.as_bytes()].concat()
}

fn length(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes()
}

async fn send(stream: &mut TcpStream, body: &[u8]) -> io::Result<()> {
    stream
        .write_all(&[&length(body.len()), body].concat())
        .await
}

async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_i32().await?).map_err(|_| malformed())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

fn number(from: &mut &[u8]) -> io::Result<i32> {
    let (number, rest) = from.split_first_chunk().ok_or_else(malformed)?;
    *from = rest;
    Ok(i32::from_be_bytes(*number))
}

fn buffer(from: &mut &[u8]) -> io::Result<Vec<u8>> {
    // -1: none.
    let length = usize::try_from(number(from)?).unwrap_or(0);
    let (buffer, rest) = from.split_at_checked(length).ok_or_else(malformed)?;
    *from = rest;
    Ok(buffer.to_vec())
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not an answer of ZooKeeper's")
}

fn refused(what: &str, error: i32) -> io::Error {
    io::Error::other(format!("{what}: error {error}"))
}
