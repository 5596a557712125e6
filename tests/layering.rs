//! The house of `docs/design.md`, executed: a module imports only what is on a floor below its own.
//!
//! Reads every `crate::` and `super::` path in `src` (comments and test modules left out) and names file and line of
//! an import that goes up or through a wall.
#![cfg(not(loom))]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Ground first. Modules of one floor do not know each other, except where a floor is listed as two.
const FLOORS: &[(&str, &[&str])] = &[
    (
        "ground",
        &[
            "phase", "reason", "deadline", "error", "sync", "random", "exit",
        ],
    ),
    ("parts", &["budget", "in_flight", "timeline", "signal"]),
    // Both spread by the thread numbers of `in_flight`.
    ("parts, upper", &["roster", "tally"]),
    ("record, lower", &["report"]),
    ("record", &["state"]),
    ("waist, lower", &["handle"]),
    ("waist", &["hook", "registry", "request"]),
    (
        "rooms",
        &[
            "coordinator",
            "middleware",
            "server",
            "probe",
            "registry::memory",
            "registry::http",
        ],
    ),
    ("roof", &["facade", "docs"]),
    ("roof, upper", &["lib"]),
];

/// What stands in a room and is shared with its neighbours: the one HTTP client under all HTTP registries.
const CLOSETS: &[(&str, &str)] = &[("registry::memory", "registry::http")];

#[test]
fn every_import_goes_down() {
    let mut wrong = String::new();
    let mut imports = 0;
    for file in rust_files(Path::new("src")) {
        let module = module_of(&file);
        if module.starts_with("bin") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file is readable");
        for (number, line) in code_lines(&text) {
            for target in targets(line) {
                imports += 1;
                if let Err(why) = check(&module, &target) {
                    writeln!(wrong, "{}:{number}: {why}", file.display())
                        .expect("a string takes all");
                }
            }
        }
    }
    assert!(
        imports > 100,
        "only {imports} imports seen: the test reads the wrong lines"
    );
    assert!(wrong.is_empty(), "the house leans:\n{wrong}");
}

#[test]
fn the_check_can_fail() {
    assert!(check("handle", "coordinator").is_err(), "up");
    assert!(check("probe", "server").is_err(), "through the wall");
    assert!(
        check("registry", "registry::memory").is_err(),
        "the waist knows no adapter"
    );
    assert!(check("registry::memory", "coordinator").is_err());
    assert!(check("coordinator", "handle").is_ok());
    assert!(
        check("nonsense", "handle").is_err(),
        "every module has a floor"
    );
    assert_eq!(
        targets("    use crate::{budget::Budget, state};"),
        ["budget", "state"]
    );
    assert_eq!(targets("let x = crate::server::serve(a);"), ["server"]);
}

fn check(module: &str, target: &str) -> Result<(), String> {
    let from = floor(module).ok_or_else(|| format!("`{module}` has no floor: add it to FLOORS"))?;
    let to = floor(target).ok_or_else(|| format!("`{target}` has no floor: add it to FLOORS"))?;
    if room(module) == room(target) || to < from || CLOSETS.contains(&(room(module), room(target)))
    {
        return Ok(());
    }
    Err(format!(
        "`{module}` ({}) imports `{target}` ({})",
        FLOORS[from].0, FLOORS[to].0
    ))
}

/// The longest listed name that the module is, or lies in.
fn room(module: &str) -> &str {
    let names = FLOORS.iter().flat_map(|(_, names)| names.iter().copied());
    names
        .filter(|name| module == *name || module.starts_with(&format!("{name}::")))
        .max_by_key(|name| name.len())
        .unwrap_or(module)
}

fn floor(module: &str) -> Option<usize> {
    let room = room(module);
    FLOORS.iter().position(|(_, names)| names.contains(&room))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// `src/server/mod.rs` is `server`, `src/registry/memory/client.rs` is `registry::memory::client`.
fn module_of(file: &Path) -> String {
    let path = file
        .strip_prefix("src")
        .expect("found below src")
        .with_extension("");
    let mut parts: Vec<_> = path
        .iter()
        .map(|p| p.to_str().expect("names are ASCII"))
        .collect();
    if parts.last() == Some(&"mod") {
        parts.pop();
    }
    parts.join("::")
}

/// Lines of code with their numbers, without comments and without what follows the first test module.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| {
            !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test")
        })
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(n, line)| (n + 1, line))
}

/// The modules that a line names after `crate::`, a braced list included.
fn targets(line: &str) -> Vec<String> {
    line.match_indices("crate::")
        .filter(|(at, _)| {
            !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
        })
        .flat_map(|(at, found)| {
            let path = &line[at + found.len()..];
            match path.strip_prefix('{') {
                Some(list) => list
                    .split(['}', ';'])
                    .next()
                    .unwrap_or("")
                    .split(',')
                    .map(first_names)
                    .collect(),
                None => vec![first_names(path)],
            }
        })
        // A path that starts with a type or a macro names the root, which only the roof may.
        .filter(|name| name.starts_with(|c: char| c.is_lowercase()))
        .collect()
}

/// The module that a path starts with: two names where the second is a module of a listed floor.
fn first_names(path: &str) -> String {
    let names: Vec<_> = path
        .trim()
        .split("::")
        .map(|name| {
            name.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or("")
        })
        .collect();
    let two = names.iter().take(2).copied().collect::<Vec<_>>().join("::");
    match FLOORS
        .iter()
        .any(|(_, listed)| listed.contains(&two.as_str()))
    {
        true => two,
        false => names.first().copied().unwrap_or("").to_owned(),
    }
}
