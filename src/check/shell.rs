//! Just enough of a shell's grammar to see whether SIGTERM reaches the program that a script starts, and whether a hook
//! waits. What is not understood is taken for harmless.

/// A simple command of a script, or a word of its grammar such as `while`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Command {
    /// Without assignments before it and without quotes.
    pub(super) words: Vec<String>,
    /// In a pipeline or a subshell, or in the background: it runs in a process of its own.
    pub(super) apart: bool,
    /// Its input or output goes elsewhere.
    pub(super) redirected: bool,
}

impl Command {
    /// The program's name without its directory.
    pub(super) fn name(&self) -> &str {
        let first = self.words.first().map_or("", String::as_str);
        first.rsplit('/').next().unwrap_or(first)
    }
}

/// After these comes a command.
const BEFORE_A_COMMAND: [&str; 11] = [
    "if", "then", "else", "elif", "while", "until", "do", "!", "{", "}", "time",
];

/// What the words of `command` and `args`, or of an exec hook, have a shell do: its name and the script.
pub(super) fn script<'w>(words: &[&'w str]) -> Option<(&'w str, &'w str)> {
    let base = |word: &'w str| word.rsplit('/').next().unwrap_or(word);
    let mut words = words
        .iter()
        .copied()
        .skip_while(|word| base(word) == "env" || word.contains('='));
    let shell = words.next().map(base)?;
    if !["sh", "bash", "ash", "dash", "ksh", "zsh", "mksh"].contains(&shell) {
        return None;
    }
    let mut has_script = false;
    while let Some(word) = words.next() {
        if !word.starts_with(['-', '+']) || word == "-" {
            return has_script.then_some((shell, word));
        }
        if word.starts_with("--") {
            continue;
        }
        has_script |= word.starts_with('-') && word.contains('c');
        // `-o pipefail`, `-euo pipefail`.
        if word.ends_with(['o', 'O']) {
            words.next();
        }
    }
    None
}

/// Whether the program that the script ends in gets the shell's signals: it replaces the shell, or the shell has a
/// handler of its own.
pub(super) fn hands_signals_on(shell: &str, script: &str) -> bool {
    // Here-documents are not read: which of their lines are commands is not known here.
    if script.contains("<<") && script.split_whitespace().any(|word| word == "exec") {
        return true;
    }
    let commands = commands(script);
    let replaces = |command: &Command| {
        let program = command.words.get(1);
        command.name() == "exec" && !command.apart && program.is_some()
    };
    let handles = |command: &Command| {
        let mut signals = command.words.iter().skip(2);
        command.name() == "trap"
            && command
                .words
                .get(1)
                .is_some_and(|action| !["", "-"].contains(&action.as_str()))
            && signals.any(|s| ["TERM", "SIGTERM", "15", "EXIT", "0"].contains(&s.as_str()))
    };
    // bash replaces itself by a command that is all there is. dash, Debian's sh, does not.
    let only = shell == "bash"
        && matches!(&commands[..], [only] if !only.apart && !only.redirected && !only.words.is_empty());
    only || commands.iter().any(|c| replaces(c) || handles(c))
}

/// The simple commands of a script, in their order.
pub(super) fn commands(script: &str) -> Vec<Command> {
    let mut reader = Reader::default();
    let mut chars = script.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(next) => reader.push(next),
            },
            '\'' => {
                reader.begin_word();
                chars
                    .by_ref()
                    .take_while(|c| *c != '\'')
                    .for_each(|c| reader.push(c));
            }
            '"' => {
                reader.begin_word();
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    let c = if c == '\\' {
                        chars.next().unwrap_or(c)
                    } else {
                        c
                    };
                    reader.push(c);
                }
            }
            // What is put in for it is not known, and its commands run apart.
            '`' => {
                reader.begin_word();
                chars.by_ref().take_while(|c| *c != '`').for_each(drop);
            }
            '$' if chars.peek() == Some(&'(') => {
                reader.push('$');
                let mut depth = 0_usize;
                for c in chars.by_ref() {
                    match c {
                        '(' => depth += 1,
                        ')' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '#' if reader.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            ' ' | '\t' | '\r' => reader.end_word(),
            '<' | '>' => {
                // `2>&1`: the number is part of it, and so is what follows.
                reader
                    .word
                    .take_if(|word| word.chars().all(|c| c.is_ascii_digit()));
                reader.end_word();
                while chars
                    .next_if(|c| ['<', '>', '&', '|', '-'].contains(c))
                    .is_some()
                {}
                while chars.next_if(|c| *c == ' ').is_some() {}
                while chars.next_if(|c| !" \t\r\n;|&()<>".contains(*c)).is_some() {}
                reader.command.redirected = true;
            }
            '|' if chars.peek() == Some(&'|') => {
                chars.next();
                reader.end_command(false);
            }
            '|' => {
                chars.next_if_eq(&'&');
                reader.end_command(true);
                reader.command.apart = true;
            }
            '&' if chars.peek() == Some(&'&') => {
                chars.next();
                reader.end_command(false);
            }
            '&' if chars.peek() == Some(&'>') => reader.end_word(),
            '&' => reader.end_command(true),
            ';' | '\n' => reader.end_command(false),
            '(' => {
                reader.end_command(false);
                reader.depth += 1;
            }
            ')' => {
                reader.end_command(false);
                reader.depth = reader.depth.saturating_sub(1);
            }
            other => reader.push(other),
        }
    }
    reader.end_command(false);
    reader.commands
}

#[derive(Default)]
struct Reader {
    commands: Vec<Command>,
    command: Command,
    word: Option<String>,
    /// Of subshells.
    depth: usize,
}

impl Reader {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn begin_word(&mut self) {
        self.word.get_or_insert_default();
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        let first = self.command.words.is_empty();
        if first && is_assignment(&word) {
            return;
        }
        let opens = first && BEFORE_A_COMMAND.contains(&word.as_str());
        self.command.words.push(word);
        if opens {
            let apart = self.command.apart;
            self.end_command(false);
            self.command.apart = apart;
        }
    }

    fn end_command(&mut self, apart: bool) {
        self.end_word();
        let mut command = std::mem::take(&mut self.command);
        command.apart |= apart || self.depth > 0;
        if !command.words.is_empty() {
            self.commands.push(command);
        }
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn names(script: &str) -> Vec<String> {
        commands(script).iter().map(|c| c.words.join(" ")).collect()
    }

    #[test]
    fn commands_are_told_apart() {
        assert_eq!(
            names("a b; c 'd;e' && f \"g|h\" || i"),
            ["a b", "c d;e", "f g|h", "i"]
        );
        assert_eq!(names("A=1 B=2 app # exec other\nnext"), ["app", "next"]);
        assert_eq!(names("a $(b; exec c) d `exec e`"), ["a $ d "]);
        assert_eq!(
            names("if a; then b; else exec c; fi"),
            ["if", "a", "then", "b", "else", "exec c", "fi"]
        );
        assert_eq!(
            names("while kill -0 1; do sleep 1; done"),
            ["while", "kill -0 1", "do", "sleep 1", "done"]
        );
        assert_eq!(names("app --x \\\n  --y > /dev/null 2>&1"), ["app --x --y"]);
        assert_eq!(names(""), [""; 0]);
    }

    #[test]
    fn what_runs_in_a_process_of_its_own_is_marked() {
        let apart = |script: &str| commands(script).iter().map(|c| c.apart).collect::<Vec<_>>();
        assert_eq!(apart("a | b; c & d"), [true, true, true, false]);
        assert_eq!(apart("(a; b); c"), [true, true, false]);
        assert_eq!(apart("a || b"), [false, false]);
    }

    #[test]
    fn the_script_is_found_behind_the_shell_s_options() {
        let script = |words: &[&'static str]| script(words);
        assert_eq!(script(&["sh", "-c", "x"]), Some(("sh", "x")));
        assert_eq!(
            script(&["/bin/bash", "-euo", "pipefail", "-c", "x"]),
            Some(("bash", "x"))
        );
        assert_eq!(script(&["bash", "-lc", "x", "args"]), Some(("bash", "x")));
        assert_eq!(
            script(&["/usr/bin/env", "A=1", "sh", "-ec", "x"]),
            Some(("sh", "x"))
        );
        assert_eq!(script(&["sh", "/entrypoint.sh"]), None);
        assert_eq!(script(&["/app", "-c", "x"]), None);
        assert_eq!(script(&["sh"]), None);
    }

    #[test]
    fn signals_are_handed_on_by_exec_and_by_traps() {
        for good in [
            "exec app",
            "cd /srv && exec app --flag 'a; b'",
            "set -e\nmigrate\nexec app\n",
            "if [ -f x ]; then exec a; else exec b; fi",
            "trap 'kill -TERM $PID' TERM INT; app & PID=$!; wait $PID",
            "A=1 exec app",
            "cat > /etc/app <<END\nit's mine\nEND\nexec app",
        ] {
            assert!(hands_signals_on("sh", good), "{good}");
        }
        for bad in [
            "app",
            "app | tee log",
            "exec app | tee log",
            "(exec app)",
            "exec app & wait",
            "exec > log; app",
            "trap - TERM; app",
            "trap 'x' HUP; app",
            "trap '' TERM; app",
            "trap \"\" TERM; app",
            "cat > /etc/app <<END\nmine\nEND\napp",
            "echo exec app; app",
            "app # exec app",
        ] {
            assert!(!hands_signals_on("sh", bad), "{bad}");
        }
        assert!(hands_signals_on("bash", "app --flag"));
        assert!(!hands_signals_on("bash", "app > log"));
        assert!(!hands_signals_on("bash", "app | tee log"));
    }
}
