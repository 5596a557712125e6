//! What Kubernetes' YAML reader takes and YAML 1.2 forbids.

use super::document::Place;

/// What the parser says of a quoted text whose next line stands too far left.
const TOO_FAR_LEFT: &str = "invalid indentation in quoted scalar";

/// The text with the lines of a quoted text moved to the right, where that is what keeps it from being read. Spaces at
/// the beginning of such a line have no meaning, and no line gets another number.
///
/// Tools wrap long messages so, and `kubectl` reads them: it has the rules of YAML 1.1.
pub(super) fn quoted(text: &str, message: &str, place: Place) -> Option<String> {
    if message != TOO_FAR_LEFT {
        return None;
    }
    let line: usize = text
        .split_inclusive('\n')
        .take(place.line.checked_sub(1)?)
        .map(str::len)
        .sum();
    let column: usize = text[line..]
        .chars()
        .take(place.column.checked_sub(1)?)
        .map(char::len_utf8)
        .sum();
    let start = line + column;
    let quote = text[start..]
        .chars()
        .next()
        .filter(|c| ['"', '\''].contains(c))?;
    let spaces = " ".repeat(place.column);
    let mut mended = text[..=start].to_owned();
    let mut moved = false;
    let mut chars = text[start + 1..].char_indices();
    while let Some((at, c)) = chars.next() {
        mended.push(c);
        match c {
            // Two of them are one that does not end the text.
            '\'' if quote == c && chars.clone().next().is_some_and(|(_, next)| next == c) => {
                chars.next();
                mended.push(c);
            }
            c if c == quote => {
                mended.push_str(&text[start + 1 + at + 1..]);
                return moved.then_some(mended);
            }
            '\\' if quote == '"' => {
                if let Some((_, escaped)) = chars.next() {
                    mended.push(escaped);
                    if escaped == '\n' {
                        mended.push_str(&spaces);
                        moved = true;
                    }
                }
            }
            '\n' => {
                mended.push_str(&spaces);
                moved = true;
            }
            _ => {}
        }
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const FIRST: Place = Place { line: 2, column: 4 };

    #[test]
    fn lines_of_a_quoted_text_are_moved_and_nothing_else() {
        let mend = |text: &str| quoted(text, TOO_FAR_LEFT, FIRST);
        assert_eq!(
            mend("x: y\na: 'b\nc' # d\ne: f\n").as_deref(),
            Some("x: y\na: 'b\n    c' # d\ne: f\n")
        );
        assert_eq!(
            mend("\na: \"b\\\"\n\nc\"\nd").as_deref(),
            Some("\na: \"b\\\"\n    \n    c\"\nd")
        );
        assert_eq!(
            mend("\na: \"b\\\nc\"").as_deref(),
            Some("\na: \"b\\\n    c\"")
        );
        assert_eq!(mend("\na: 'b''\nc'").as_deref(), Some("\na: 'b''\n    c'"));
        // Not closed, not quoted, not there, nothing to move.
        for text in [
            "\na: 'b\nc",
            "\na: b\nc",
            "",
            "\n",
            "\na",
            "\na: 'b' \n'c'",
            "\nä: ä'\n",
        ] {
            assert_eq!(mend(text), None, "{text:?}");
        }
        assert_eq!(quoted("\na: 'b\nc'", "something else", FIRST), None);
    }
}
