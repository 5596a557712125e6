//! What is to be checked: files, directories, the standard input.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Larger than what any cluster takes in one go; a disk image given by mistake is not read to its end.
const LARGEST: u64 = 64 << 20;

/// A text, or why there is none.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) text: Result<String, String>,
}

/// The inputs in their order, a directory's files sorted.
pub(super) fn all(files: &[PathBuf]) -> Vec<Input> {
    let mut inputs = Vec::new();
    for file in files {
        if file == Path::new("-") {
            inputs.push(Input {
                name: "<stdin>".to_owned(),
                text: text(std::io::stdin().lock()),
            });
        } else if file.is_dir() {
            let before = inputs.len();
            directory(file, &mut inputs);
            if inputs.len() == before {
                inputs.push(Input {
                    name: file.display().to_string(),
                    text: Err("there is no .yaml or .yml file in this directory".to_owned()),
                });
            }
        } else {
            inputs.push(one(file));
        }
    }
    inputs
}

fn one(file: &Path) -> Input {
    let opened = File::open(file).map_err(|error| format!("it cannot be opened: {error}"));
    Input {
        name: file.display().to_string(),
        text: opened.and_then(text),
    }
}

fn text(from: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = from.take(LARGEST + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!(
            "it is larger than {} MiB, which no manifest is",
            LARGEST >> 20
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!(
            "it is not UTF-8 text: the first wrong byte is number {} (line {line})",
            at + 1
        )
    })
}

/// Hidden directories and links to directories are left out: `.git`, and circles.
fn directory(dir: &Path, inputs: &mut Vec<Input>) {
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            inputs.push(Input {
                name: dir.display().to_string(),
                text: Err(format!("the directory cannot be read: {error}")),
            });
            return;
        }
    };
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if !hidden {
                directory(&path, inputs);
            }
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") && path.is_file() {
            inputs.push(one(&path));
        }
    }
}
