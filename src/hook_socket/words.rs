//! What goes over the socket: one line from the hook, a line or two from the process, in ASCII and by itself readable.

use std::time::Duration;

/// What the hook asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    PreStop,
    Started,
}

impl Request {
    /// With the version: the helper in an image may be older or newer than the service.
    pub(super) const fn line(self) -> &'static str {
        match self {
            Self::PreStop => "prestop/1 pre-stop\n",
            Self::Started => "prestop/1 started\n",
        }
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        [Self::PreStop, Self::Started]
            .into_iter()
            .find(|request| request.line() == line)
    }

    pub(super) const fn hook(self) -> &'static str {
        match self {
            Self::PreStop => "preStop hook",
            Self::Started => "postStart hook",
        }
    }
}

/// What the process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It has heard; the answer comes within this time.
    Wait(Duration),
    /// What was asked for has happened.
    Done(String),
    /// It has not, and will not.
    Failed(String),
    /// The caller has no right to ask, or asks what nobody knows.
    Refused(String),
}

/// The longest line of either end.
pub(super) const LONGEST: usize = 4096;

impl Word {
    pub(super) fn line(&self) -> String {
        let (word, text) = match self {
            Self::Wait(longest) => ("wait", longest.as_millis().to_string()),
            Self::Done(text) => ("done", text.clone()),
            Self::Failed(text) => ("failed", text.clone()),
            Self::Refused(text) => ("refused", text.clone()),
        };
        // A hook's error may have many lines.
        let mut line = format!("{word} {}", text.replace(['\n', '\r'], " "));
        let mut end = line.len().min(LONGEST - 1);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('\n');
        line
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let (word, text) = line.strip_suffix('\n')?.split_once(' ')?;
        match word {
            "wait" => text.parse().ok().map(Duration::from_millis).map(Self::Wait),
            "done" => Some(Self::Done(text.to_owned())),
            "failed" => Some(Self::Failed(text.to_owned())),
            "refused" => Some(Self::Refused(text.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_says_the_other_understands() {
        for request in [Request::PreStop, Request::Started] {
            assert_eq!(Request::parse(request.line()), Some(request));
        }
        for word in [
            Word::Wait(Duration::from_millis(15_000)),
            Word::Done("lame duck over".to_owned()),
            Word::Failed("a  b ".to_owned()),
            Word::Refused(String::new()),
        ] {
            assert_eq!(Word::parse(&word.line()), Some(word));
        }
        let two_lines = Word::Failed("one\ntwo".to_owned()).line();
        assert_eq!(two_lines, "failed one two\n");
        let long = Word::Failed("é".repeat(5000)).line();
        assert!(
            long.len() <= 4096 && long.ends_with("é\n"),
            "{}",
            long.len()
        );
    }

    #[test]
    fn half_a_line_is_no_word() {
        for line in [
            "",
            "\n",
            "done",
            "done it",
            "wait soon\n",
            "wait -1\n",
            "gone away\n",
        ] {
            assert_eq!(Word::parse(line), None, "{line:?}");
        }
        for line in [
            "",
            "prestop/1 pre-stop",
            "prestop/2 pre-stop\n",
            "pre-stop\n",
        ] {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
    }
}
