//! Where a gRPC body is between two messages, and what ends one.
//!
//! A message is five bytes, a flag and its length, and so many more (gRPC over HTTP/2, "Length-Prefixed-Message").

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

/// Reads a body as it passes by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    /// How much of the next prefix has come.
    prefix: [u8; 5],
    seen: usize,
    /// What is missing of the message.
    left: u64,
}

impl Messages {
    /// Whether all that has come are whole messages.
    pub(super) const fn is_between(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = self.step(rest);
            rest = &rest[n..];
        }
    }

    /// Reads until the body may end, or all of it; how much that was.
    pub(super) fn read_to_end_of_message(&mut self, bytes: &[u8]) -> usize {
        let mut read = 0;
        while read < bytes.len() {
            read += self.step(&bytes[read..]);
            if self.is_between() {
                break;
            }
        }
        read
    }

    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let n = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= n as u64;
            return n;
        }
        self.prefix[self.seen] = bytes[0];
        self.seen += 1;
        if self.seen == self.prefix.len() {
            let [_, length @ ..] = self.prefix;
            self.left = u64::from(u32::from_be_bytes(length));
            self.seen = 0;
        }
        1
    }
}

/// `grpc-status` of what may be repeated elsewhere.
const UNAVAILABLE: &str = "14";
/// `grpc-status` of what took longer than its client wanted.
pub(crate) const DEADLINE_EXCEEDED: &str = "4";
const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// Whether these are the headers of gRPC over HTTP/2. grpc-web has its trailers inside of its body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return false;
    };
    let kind = kind.as_bytes();
    let name = b"application/grpc";
    kind.len() >= name.len()
        && kind[..name.len()].eq_ignore_ascii_case(name)
        && matches!(kind.get(name.len()), None | Some(b'+' | b';' | b' '))
}

/// The trailers of a stream that is told.
pub(super) fn told() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    status(&mut trailers, UNAVAILABLE, "the server is stopping");
    trailers
}

fn status(headers: &mut HeaderMap, code: &'static str, message: &'static str) {
    headers.insert(STATUS, HeaderValue::from_static(code));
    // Percent-encoded on the wire; a space need not be.
    headers.insert(MESSAGE, HeaderValue::from_static(message));
}

/// The answer to a request that is refused: 503 with `Retry-After`, or `UNAVAILABLE` for a client that speaks gRPC, in the
/// form that has only trailers.
pub(crate) fn refusal<B>(grpc: bool, body: B) -> Response<B> {
    if grpc {
        return only_trailers(UNAVAILABLE, "the server is stopping", body);
    }
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A gRPC answer without a message.
pub(crate) fn only_trailers<B>(code: &'static str, message: &'static str, body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    status(headers, code, message);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.extend(vec![b'x'; length]);
        bytes
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;x=y", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), is, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]
        /// Between two messages is exactly where their lengths add up to, however the frames fall.
        #[test]
        fn between_is_where_the_lengths_add_up(lengths in proptest::collection::vec(0..30_usize, 1..6), step in 1..20_usize) {
            let bytes: Vec<u8> = lengths.iter().flat_map(|l| message(*l)).collect();
            let ends: Vec<usize> = lengths.iter().scan(0, |at, l| { *at += l + 5; Some(*at) }).collect();
            let mut messages = Messages::default();
            let mut at = 0;
            for frame in bytes.chunks(step) {
                messages.read(frame);
                at += frame.len();
                prop_assert_eq!(messages.is_between(), ends.contains(&at), "at {}", at);
            }
            let mut messages = Messages::default();
            messages.read(&bytes[..1]);
            prop_assert_eq!(1 + messages.read_to_end_of_message(&bytes[1..]), ends[0]);
        }
    }
}
