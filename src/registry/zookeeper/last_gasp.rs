//! Leaving without a runtime: the few requests that it takes, on a blocking socket.
//!
//! The client's tasks need a runtime, and a session can only be closed by who knows its password, which the client keeps
//! to itself. So this is a session of its own, which deletes the nodes of ours: those of which ZooKeeper says that
//! they are ours, a moment before.
//!
//! Numbers are big-endian; strings and buffers have their length in front, and so has every message.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use tokio::time::Instant;

use super::servers::Servers;
use crate::registry::LastGasp;

const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const AUTH: i32 = 100;
const CLOSE: i32 = -11;

/// In the place of a request's number.
const OF_AN_AUTH: i32 = -4;

const NO_NODE: i32 = -101;

/// Longer than this takes, shorter than servers grant: they make it theirs.
const SESSION_MILLIS: i32 = 1_000;

/// Where the session that owns a node stands in what `exists` answers: behind four 64-bit and three 32-bit numbers.
const OWNER: usize = 4 * 8 + 3 * 4;

/// What has to be deleted, and where.
pub(super) struct Farewell {
    pub(super) servers: Servers,
    /// `user:password`
    pub(super) digest: Option<String>,
    pub(super) session: i64,
    pub(super) paths: Vec<String>,
}

impl Farewell {
    pub(super) fn last_gasp(self) -> LastGasp {
        LastGasp::new(move |at_most| {
            let end = Instant::now() + at_most;
            let all = self.servers.addresses.len();
            for (turn, (host, port)) in self.servers.addresses.iter().enumerate() {
                // A server that swallows packets takes its share of the time, not all of it.
                let left = end.saturating_duration_since(Instant::now());
                let share = left / u32::try_from(all - turn).unwrap_or(u32::MAX);
                if self.say(host, *port, share).is_ok() {
                    return;
                }
            }
        })
    }

    fn say(&self, host: &str, port: u16, at_most: Duration) -> io::Result<()> {
        let until = Instant::now() + at_most;
        let address = (host, port).to_socket_addrs()?.next();
        let address = address.ok_or(ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::connect_timeout(&address, left(until)?)?;
        stream.set_nodelay(true)?;
        let mut session = Session { stream, until };

        let mut hello = Vec::new();
        // Version, last change seen.
        hello.extend([0; 4 + 8]);
        hello.extend(SESSION_MILLIS.to_be_bytes());
        // No session yet, and so no password; not read-only.
        hello.extend([0; 8]);
        hello.extend(16_i32.to_be_bytes());
        hello.extend([0; 16 + 1]);
        session.send(&hello)?;
        session.receive()?;

        if let Some(digest) = &self.digest {
            let auth = [vec![0; 4], string("digest"), string(digest)].concat();
            session.ask(OF_AN_AUTH, AUTH, &auth)?;
        }
        for (number, path) in (1..).zip(&self.paths) {
            let path = string(&format!("{}{path}", self.servers.below));
            // No watch.
            let found = session.ask(number, EXISTS, &[&path[..], &[0]].concat())?;
            if found
                .is_some_and(|stat| stat.get(OWNER..OWNER + 8) == Some(&self.session.to_be_bytes()))
            {
                // Whatever its version.
                session.ask(number, DELETE, &[path, vec![0xff; 4]].concat())?;
            }
        }
        // The nodes are gone whatever becomes of this: the session has none.
        let _ = session.ask(0, CLOSE, &[]);
        Ok(())
    }
}

struct Session {
    stream: TcpStream,
    until: Instant,
}

impl Session {
    /// What is behind the head of the answer; `None` when there is no such node.
    fn ask(&mut self, number: i32, what: i32, body: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let head = [number.to_be_bytes(), what.to_be_bytes()].concat();
        self.send(&[&head, body].concat())?;
        // The request's number, that of the last change, and that of an error.
        let answer = self.receive()?;
        let (head, rest) = answer
            .split_at_checked(4 + 8 + 4)
            .ok_or(ErrorKind::InvalidData)?;
        match head.last_chunk().map(|error| i32::from_be_bytes(*error)) {
            Some(0) => Ok(Some(rest.to_vec())),
            Some(NO_NODE) => Ok(None),
            _ => Err(ErrorKind::PermissionDenied.into()),
        }
    }

    fn send(&mut self, body: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(left(self.until)?))?;
        self.stream.write_all(&[&length(body.len()), body].concat())
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        // No answer to these is longer than a node's stat.
        let length = usize::try_from(i32::from_be_bytes(length)).ok();
        let length = length
            .filter(|length| *length <= 1024)
            .ok_or(ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        self.read(&mut body)?;
        Ok(body)
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.stream.set_read_timeout(Some(left(self.until)?))?;
        self.stream.read_exact(into)
    }
}

/// The time until then; zero would mean "without end" to a socket.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn string(text: &str) -> Vec<u8> {
    [&length(text.len()), text.as_bytes()].concat()
}

fn length(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const OURS: i64 = 0x1234;

    fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut body).unwrap();
        Some(body)
    }

    /// A server in which each path has this owner, and what it was asked to do, by kind and path.
    fn server(owners: &'static [(&str, i64)]) -> (u16, thread::JoinHandle<Vec<(i32, String)>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let answer = |stream: &mut TcpStream, body: &[u8]| {
                let length = length(body.len());
                stream.write_all(&[&length, body].concat()).unwrap();
            };
            message(&mut stream).unwrap();
            answer(&mut stream, &[0; 37]);
            while let Some(request) = message(&mut stream) {
                let (head, body) = request.split_at(8);
                let what = i32::from_be_bytes(head[4..].try_into().unwrap());
                // What is left of the body of a `closeSession` is nothing.
                let text = String::from_utf8_lossy(body.get(4..).unwrap_or_default()).into_owned();
                let owner = owners.iter().find(|(path, _)| text.starts_with(path));
                let error = if owner.is_none() && what == EXISTS {
                    NO_NODE
                } else {
                    0
                };
                let mut reply = [&head[..4], &[0; 8], &error.to_be_bytes()].concat();
                if let (Some((_, owner)), EXISTS) = (owner, what) {
                    reply.extend([0; OWNER]);
                    reply.extend(owner.to_be_bytes());
                    reply.extend([0; 16]);
                }
                asked.push((what, text));
                answer(&mut stream, &reply);
            }
            asked
        });
        (port, serving)
    }

    #[test]
    fn what_is_ours_is_deleted_and_nothing_else() {
        let owners: &[_] = &[("/base/a/1", OURS), ("/base/b/1", 0x99), ("/base/d/1", 0)];
        let (port, serving) = server(owners);
        let farewell = Farewell {
            servers: Servers::parse(&format!("127.0.0.1:{port}/base")).unwrap(),
            digest: Some("svc:hush".into()),
            session: OURS,
            paths: ["/a/1", "/b/1", "/c/1", "/d/1"].map(Into::into).to_vec(),
        };
        farewell
            .say("127.0.0.1", port, Duration::from_secs(60))
            .unwrap();
        let asked = serving.join().unwrap();
        let kinds: Vec<_> = asked.iter().map(|(what, _)| *what).collect();
        let expected = [AUTH, EXISTS, DELETE, EXISTS, EXISTS, EXISTS, CLOSE];
        assert_eq!(kinds, expected, "{asked:?}");
        assert!(asked[0].1.ends_with("svc:hush"), "{asked:?}");
        assert!(asked[2].1.starts_with("/base/a/1"), "{asked:?}");
    }

    #[test]
    fn a_server_that_is_silent_costs_no_more_than_it_was_given() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = silent.local_addr().unwrap().port();
        let farewell = Farewell {
            servers: Servers::parse("a").unwrap(),
            digest: None,
            session: OURS,
            paths: vec!["/a".into()],
        };
        let said = farewell.say("127.0.0.1", port, Duration::from_millis(50));
        // What a socket says that timed out.
        let kinds = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        assert!(kinds.contains(&said.unwrap_err().kind()));
    }
}
