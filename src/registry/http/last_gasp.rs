//! A call with blocking sockets, for a process without a runtime.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Request;
use http_body_util::Full;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Call, HttpClient};
use crate::registry::LastGasp;

impl HttpClient {
    /// The call, made of the first server that can be reached, by blocking sockets. Whatever comes back is not told.
    pub(crate) fn last_gasp(self: &Arc<Self>, call: Call) -> LastGasp {
        let client = self.clone();
        LastGasp::new(move |at_most| client.gasp(&call, at_most))
    }

    /// The same, for a call that is only known then.
    pub(crate) fn gasp(&self, call: &Call, at_most: Duration) {
        let begun = Instant::now();
        let all = self.servers.len();
        let first = self.preferred.load(Ordering::Relaxed);
        for turn in 0..all {
            let left = at_most.saturating_sub(begun.elapsed());
            let share = left / u32::try_from(all - turn).unwrap_or(u32::MAX);
            if share.is_zero() || self.gasp_at((first + turn) % all, call, share).is_ok() {
                return;
            }
        }
    }

    fn gasp_at(&self, server: usize, call: &Call, at_most: Duration) -> io::Result<()> {
        let server = &self.servers[server];
        let request = call
            .request(server, &self.headers)
            .map_err(|failure| io::Error::other(failure.what))?;
        let address = (server.host(), server.port()).to_socket_addrs()?.next();
        let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, at_most)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(at_most))?;
        stream.set_write_timeout(Some(at_most))?;
        let request = written(&request, call.body());
        if server.is_https() {
            exchange(&mut self.secure.connect_blocking(server, stream)?, &request)
        } else {
            exchange(&mut stream, &request)
        }
    }
}

/// Waits for the beginning of the answer: a connection that ends before may take the request with it.
fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<()> {
    stream.write_all(request)?;
    stream.flush()?;
    match stream.read(&mut [0; 64])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn written(request: &Request<Full<Bytes>>, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{} {} HTTP/1.1\r\n", request.method(), request.uri()).into_bytes();
    for (name, value) in request.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    let end = format!(
        "connection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    bytes.extend_from_slice(end.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}
