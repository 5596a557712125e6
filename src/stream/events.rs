//! Where a body of server-sent events is between two of them.
//!
//! A line ends with LF, CR or CRLF, an event with an empty line; a line that begins with a colon is a comment and
//! belongs to none (HTML Living Standard, 9.2.5).

/// Reads a body as it passes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Events {
    /// Of a line, nothing has come yet.
    line_is_empty: bool,
    /// A field has come since the last empty line.
    in_event: bool,
    /// The last byte was CR: an LF that follows belongs to it.
    after_cr: bool,
}

impl Events {
    pub(super) const fn new() -> Self {
        Self {
            line_is_empty: true,
            in_event: false,
            after_cr: false,
        }
    }

    /// Whether all that has come are whole events and comments: the body may end here.
    pub(super) const fn is_between(&self) -> bool {
        self.line_is_empty && !self.in_event
    }

    /// Reads all of this.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = self.step(rest);
            rest = &rest[n..];
        }
    }

    /// Reads until the body may end, or all of it; how much that was.
    pub(super) fn read_to_end_of_event(&mut self, bytes: &[u8]) -> usize {
        let mut read = 0;
        while read < bytes.len() {
            read += self.step(&bytes[read..]);
            if self.is_between() {
                // Its LF goes with the CR, if it is here.
                if self.after_cr && bytes.get(read) == Some(&b'\n') {
                    read += self.step(&bytes[read..]);
                }
                break;
            }
        }
        read
    }

    /// Reads one line end, or all of a line that is here.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let first = bytes[0];
        if !is_end(&first) {
            if self.line_is_empty && first != b':' {
                self.in_event = true;
            }
            self.line_is_empty = false;
            self.after_cr = false;
            return bytes.iter().position(is_end).unwrap_or(bytes.len());
        }
        let belongs_to_cr = first == b'\n' && self.after_cr;
        if !belongs_to_cr {
            if self.line_is_empty {
                self.in_event = false;
            }
            self.line_is_empty = true;
        }
        self.after_cr = first == b'\r';
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn between(text: &str) -> bool {
        let mut events = Events::new();
        events.read(text.as_bytes());
        events.is_between()
    }

    #[test]
    fn between_is_after_whole_events_and_comments() {
        for text in [
            "",
            "\n",
            "data: a\n\n",
            "data: a\r\n\r\n",
            "data: a\r\r",
            "data: a\n\r\n",
            ": ping\n",
            ": ping\n\n",
            "data: a\n\n: ping\r\n",
            "event: x\ndata: y\nid: 7\n\n\n",
            "data: a\r\n\r",
        ] {
            assert!(between(text), "{text:?}");
        }
        for text in [
            "d",
            "data: a",
            "data: a\n",
            "data: a\r\n",
            "data: a\r",
            "data: a\n: ping\n",
            ":",
            ": ping",
            "data: a\n\ndata: b\n",
            "\n\nretry: 1\n",
        ] {
            assert!(!between(text), "{text:?}");
        }
    }

    #[test]
    fn the_end_of_an_event_is_found_inside_of_a_frame() {
        for (before, frame, whole) in [
            ("data: a", "\n\ndata: b\n\n", "\n\n"),
            ("data: a\n", "\nx", "\n"),
            ("data: a\r\n\r", "\ndata: b", "\n"),
            ("data: a\r", "\n\r\ndata: b", "\n\r\n"),
            ("data: a\n", "data: b\n", "data: b\n"),
            ("", ": c\ndata: a\n\n", ": c\n"),
        ] {
            let mut events = Events::new();
            events.read(before.as_bytes());
            let read = events.read_to_end_of_event(frame.as_bytes());
            assert_eq!(&frame[..read], whole, "{before:?} {frame:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 256 }, failure_persistence: None, ..ProptestConfig::default() })]
        /// However the body is split into frames.
        #[test]
        fn frames_make_no_difference(text in "[a:\r\n]{0,40}", cut in 0..41_usize) {
            let cut = cut.min(text.len());
            let (mut whole, mut split) = (Events::new(), Events::new());
            whole.read(text.as_bytes());
            split.read(&text.as_bytes()[..cut]);
            split.read(&text.as_bytes()[cut..]);
            prop_assert_eq!(whole.is_between(), split.is_between());
        }

        /// What a client reads up to there are the events that are whole there (a naive reader as the judge).
        #[test]
        fn what_ends_there_dispatches_every_event(text in "[a:\r\n]{0,40}") {
            let mut events = Events::new();
            let read = events.read_to_end_of_event(text.as_bytes());
            let unix = text[..read].replace("\r\n", "\n").replace('\r', "\n");
            if events.is_between() && read > 0 {
                let last = unix.rsplit_once("\n\n").map_or(unix.as_str(), |(_, rest)| rest);
                prop_assert!(last.lines().all(|line| line.is_empty() || line.starts_with(':')), "{:?}", text);
            }
        }
    }
}
