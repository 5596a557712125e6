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
    // Judges from outside: below all others, it can import nothing.
    ("outside", &["kubelet"]),
    (
        "ground",
        &[
            "phase", "reason", "deadline", "error", "sync", "random", "exit",
        ],
    ),
    (
        "parts",
        &["budget", "in_flight", "last_gasp", "timeline", "signal"],
    ),
    // The first two spread by the thread numbers of `in_flight`.
    ("parts, upper", &["roster", "tally", "peers", "own_pod"]),
    ("record, lower", &["report"]),
    ("record", &["state"]),
    ("waist, lower", &["handle"]),
    (
        "waist",
        &["hook", "hook_call", "registry", "rotation", "stream"],
    ),
    // A request's body may be a stream.
    ("waist, upper", &["request"]),
    (
        "rooms",
        &[
            "coordinator",
            "check",
            "middleware",
            "handler",
            "server",
            "probe",
            "grpc_health",
            "registry::consul",
            "process",
            "hook_socket",
            "haproxy",
            "registry::memory",
            "registry::etcd",
            "registry::eureka",
            "registry::nacos",
            "registry::zookeeper",
            "registry::http",
            "registry::dubbo",
            "kubernetes",
        ],
    ),
    ("roof", &["facade", "docs"]),
    ("roof, upper", &["lib"]),
];

/// What stands in a room and is shared with its neighbours: the one HTTP client, made for the HTTP registries, and what
/// Dubbo wants of each of its registries.
const CLOSETS: &[(&str, &str)] = &[
    ("process", "registry::http"),
    ("kubernetes", "registry::http"),
    ("registry::consul", "registry::http"),
    ("registry::etcd", "registry::http"),
    ("registry::eureka", "registry::http"),
    ("registry::memory", "registry::http"),
    ("registry::nacos", "registry::dubbo"),
    ("registry::nacos", "registry::http"),
    ("registry::zookeeper", "registry::dubbo"),
];

#[test]
fn every_import_goes_down() {
    let mut wrong = String::new();
    let mut imports = 0;
    for file in rust_files(Path::new("src")) {
        let module = module_of(&file);
        if module.starts_with("bin") {
            continue;
        }
        let text = code_of(&fs::read_to_string(&file).expect("a source file is readable"));
        for (at, target) in targets(&module, &text) {
            imports += 1;
            if let Err(why) = check(&module, &target) {
                let line = text[..at].lines().count();
                writeln!(wrong, "{}:{line}: {why}", file.display()).expect("a string takes all");
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
    assert!(
        check("registry::memory::client", "ShutdownCoordinator").is_err(),
        "through the roof"
    );
    assert!(check("kubelet::node", "deadline").is_err(), "from outside");
    assert!(check("coordinator", "handle").is_ok());
    assert!(
        check("nonsense", "handle").is_err(),
        "every module has a floor"
    );
    let found = |module: &str, code: &str| -> Vec<String> {
        targets(module, code)
            .into_iter()
            .map(|(_, target)| target)
            .collect()
    };
    assert_eq!(
        found("lib", "use crate::{budget::Budget, state};"),
        ["budget", "state"]
    );
    assert_eq!(
        found("lib", "let x = crate::server::serve(a);"),
        ["server::serve"]
    );
    assert_eq!(
        found(
            "probe",
            "use crate::{\n    handle::{self, Guard},\n    coordinator::X,\n};"
        ),
        ["handle", "handle", "coordinator"],
        "over several lines"
    );
    assert_eq!(
        found(
            "registry::memory::client",
            "use super::super::super::coordinator::X;"
        ),
        ["coordinator"],
        "by way of super"
    );
    assert_eq!(
        found("server::stock", "use super::acceptor::A;"),
        ["server::acceptor"]
    );
    assert_eq!(
        found("probe", "use crate::ShutdownCoordinator;"),
        ["ShutdownCoordinator"]
    );
    assert_eq!(
        code_of("a // crate::x\n#[cfg(test)]\nmod tests { crate::y }"),
        "a \n"
    );
}

fn check(module: &str, target: &str) -> Result<(), String> {
    if target.starts_with(char::is_uppercase) {
        // What the root re-exports is for users; inside, a thing is imported from where it is defined.
        return match FLOORS
            .iter()
            .rev()
            .take(2)
            .any(|(_, names)| names.contains(&room(module)))
        {
            true => Ok(()),
            false => Err(format!("`{module}` imports `{target}` through the roof")),
        };
    }
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

/// The code without comments and without what follows the first test module; lines keep their numbers.
fn code_of(text: &str) -> String {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test"))
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect()
}

/// The modules that the code names by `crate::` or `super::`, each with its place.
fn targets(module: &str, code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some((at, root)) = ["crate::", "super::"]
        .into_iter()
        .filter_map(|root| code[from..].find(root).map(|at| (from + at, root)))
        .min()
    {
        let mut rest = at;
        let mut base: Vec<&str> = if root == "super::" {
            module.split("::").collect()
        } else {
            Vec::new()
        };
        while code[rest..].starts_with("super::") {
            base.pop();
            rest += "super::".len();
        }
        if code[rest..].starts_with("crate::") {
            rest += "crate::".len();
        }
        let is_part_of_a_name =
            code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        if !is_part_of_a_name {
            let mut paths = Vec::new();
            use_tree(&code[rest..], &base.join("::"), &mut paths);
            found.extend(paths.iter().map(|path| (at, listed_part(path))));
        }
        from = rest.max(at + root.len());
    }
    found
}

/// All paths of a use tree: `a::{b, c::d}` behind `base`. Returns how much of the text it took.
fn use_tree(text: &str, base: &str, paths: &mut Vec<String>) -> usize {
    let join = |name: &str| {
        if base.is_empty() {
            name.to_owned()
        } else {
            format!("{base}::{name}")
        }
    };
    if text.starts_with('{') {
        let mut at = 1;
        loop {
            let rest = text[at..].trim_start_matches([' ', '\n', ',']);
            at = text.len() - rest.len();
            if rest.is_empty() || rest.starts_with('}') {
                return (at + 1).min(text.len());
            }
            at += use_tree(rest, base, paths).max(1);
            // Past what no path is made of: `as name`, `::*`.
            at += text[at..].find([',', '}']).unwrap_or(text.len() - at);
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let name = &text[..end];
    match text[end..].strip_prefix("::") {
        Some(more) if more.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '{') => {
            end + 2 + use_tree(more, &join(name), paths)
        }
        _ => {
            paths.push(if name == "self" {
                base.to_owned()
            } else {
                join(name)
            });
            end
        }
    }
}

/// The part of a path that names modules (or a function in one); a name at the root stays as it is.
fn listed_part(path: &str) -> String {
    let modules: Vec<_> = path
        .split("::")
        .take_while(|name| name.starts_with(|c: char| c.is_lowercase() || c == '_'))
        .collect();
    if modules.is_empty() {
        path.to_owned()
    } else {
        modules.join("::")
    }
}
