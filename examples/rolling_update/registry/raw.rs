//! HTTP written out by hand, so that who is listed is not read by the client that registers.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> io::Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.body)?)
    }
}

/// One request on a connection of its own. HTTP/1.0, so that the answer is not chunked and ends with the connection.
pub async fn ask(at: SocketAddr, request: &str, body: &str) -> io::Result<Answer> {
    let mut stream = send(at, request, body).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not an answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok(Answer {
        status: status.ok_or_else(bad)?,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// The same, to read the answer as it comes.
pub async fn send(at: SocketAddr, request: &str, body: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(at).await?;
    // A dial to a port that nobody listens on may be given that very port as its source, and then connects to itself.
    if stream.local_addr()? == at {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let request = format!(
        "{request} HTTP/1.0\r\nhost: {at}\r\ncontent-type: application/json\r\naccept: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}
