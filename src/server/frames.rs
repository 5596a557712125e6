//! [`Http2Seen`]: what passes by of HTTP/2 on a connection whose server says nothing of it.

use tokio::time::Instant;

use super::observed::PREFACE;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;

/// Which streams are open, and whether the client was told to go: from the headers of the frames alone (RFC 9113, 4.1).
#[derive(Debug)]
pub(super) struct Http2Seen {
    from_client: Frames,
    from_server: Frames,
    /// Begun by the client, and not yet answered to their end.
    open: Vec<u32>,
    /// The last one that was begun.
    last: u32,
    goaway: Option<Instant>,
    /// When the client was last heard.
    heard: Instant,
}

impl Http2Seen {
    pub(super) fn new() -> Self {
        Self {
            from_client: Frames::after(PREFACE.len()),
            from_server: Frames::after(0),
            open: Vec::new(),
            last: 0,
            goaway: None,
            heard: Instant::now(),
        }
    }

    /// The client has sent so much, the preface first.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let Self { open, last, .. } = self;
        self.from_client.pass(bytes, |kind, _, stream| match kind {
            // A later one has the trailers.
            HEADERS if stream > *last => {
                *last = stream;
                open.push(stream);
            }
            RST_STREAM => open.retain(|id| *id != stream),
            _ => {}
        });
        self.heard = Instant::now();
    }

    /// The server has.
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        let Self { open, goaway, .. } = self;
        self.from_server
            .pass(bytes, |kind, flags, stream| match kind {
                DATA | HEADERS if flags & END_STREAM != 0 => open.retain(|id| *id != stream),
                RST_STREAM => open.retain(|id| *id != stream),
                GOAWAY => drop(goaway.get_or_insert_with(Instant::now)),
                _ => {}
            });
    }

    /// Since when nothing is owed to a client that has said nothing more: it was told to go, all its streams were
    /// answered; or, in a drain that began then, it has not even said its SETTINGS, which is what the server waits for.
    pub(super) fn quiet_since(&self, drain: Instant) -> Option<Instant> {
        let told = match self.goaway {
            Some(told) => told,
            None if !self.from_client.any => drain,
            None => return None,
        };
        self.open.is_empty().then(|| told.max(self.heard))
    }
}

/// One direction of a connection.
#[derive(Debug)]
struct Frames {
    /// Bytes before the next header.
    skip: usize,
    header: [u8; 9],
    filled: usize,
    /// There was one.
    any: bool,
}

impl Frames {
    const fn after(skip: usize) -> Self {
        Self {
            skip,
            header: [0; 9],
            filled: 0,
            any: false,
        }
    }

    /// Says kind, flags and stream of each frame whose header is whole now.
    fn pass(&mut self, mut bytes: &[u8], mut saw: impl FnMut(u8, u8, u32)) {
        loop {
            bytes = &bytes[self.skipped(bytes.len())..];
            if bytes.is_empty() {
                return;
            }
            let n = bytes.len().min(self.header.len() - self.filled);
            self.header[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
            self.filled += n;
            bytes = &bytes[n..];
            if self.filled == self.header.len() {
                let [a, b, c, kind, flags, stream @ ..] = self.header;
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.filled = 0;
                self.any = true;
                saw(kind, flags, u32::from_be_bytes(stream) & 0x7fff_ffff);
            }
        }
    }

    /// How many of these bytes belong to a frame whose header has passed.
    fn skipped(&mut self, of: usize) -> usize {
        let n = of.min(self.skip);
        self.skip -= n;
        n
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("it is short");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn is_quiet(seen: &Http2Seen) -> bool {
        seen.quiet_since(Instant::now()).is_some()
    }

    /// A client's side with two requests, one of them with a body and trailers; cut into pieces of each length.
    #[test]
    fn a_client_is_quiet_once_it_was_told_and_all_its_streams_are_answered() {
        const SETTINGS: u8 = 4;
        let client = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 0, &[0; 6]),
            frame(HEADERS, 4 | END_STREAM, 1, b"get"),
            frame(HEADERS, 4, 3, b"post"),
            frame(DATA, 0, 3, &[HEADERS; 40]),
            frame(HEADERS, 4 | END_STREAM, 3, b"trailers"),
        ]
        .concat();
        let goaway = frame(GOAWAY, 0, 0, &[0; 8]);
        let first = [
            frame(HEADERS, 4, 1, b"200"),
            frame(DATA, END_STREAM, 1, b"hello"),
        ]
        .concat();
        let last = frame(HEADERS, 4 | END_STREAM, 3, b"204");
        for piece in 1..=client.len() {
            let mut seen = Http2Seen::new();
            assert!(is_quiet(&seen), "nothing was said");
            client.chunks(piece).for_each(|bytes| seen.read(bytes));
            assert_eq!(seen.open, [1, 3], "pieces of {piece}");
            goaway.chunks(piece).for_each(|bytes| seen.wrote(bytes));
            assert!(!is_quiet(&seen));
            first.chunks(piece).for_each(|bytes| seen.wrote(bytes));
            assert!(!is_quiet(&seen));
            last.chunks(piece).for_each(|bytes| seen.wrote(bytes));
            assert!(is_quiet(&seen));
        }
    }

    #[test]
    fn a_reset_from_either_side_ends_a_stream() {
        let mut seen = Http2Seen::new();
        seen.read(PREFACE);
        for stream in [1, 3, 5] {
            seen.read(&frame(HEADERS, 4, stream, b""));
        }
        seen.read(&frame(RST_STREAM, 0, 1, &[0; 4]));
        seen.wrote(&frame(RST_STREAM, 0, 5, &[0; 4]));
        assert_eq!(seen.open, [3]);
    }

    #[test]
    fn a_client_that_was_not_told_is_not_quiet() {
        let mut seen = Http2Seen::new();
        seen.read(PREFACE);
        assert!(is_quiet(&seen), "its SETTINGS are owed");
        seen.read(&frame(4, 0, 0, b""));
        assert!(!is_quiet(&seen));
    }
}
