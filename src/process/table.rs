//! The process table, as `/proc` shows it.

use std::fs;
use std::io;
use std::path::Path;

/// One line of the table, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: i32,
    /// The kernel's name of it: at most 15 bytes.
    pub(super) comm: String,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// In clock ticks since boot. With the pid it names a process for good: a pid is used again, this pair is not.
    pub(super) started: u64,
    pub(super) zombie: bool,
}

impl Entry {
    /// The process with this pid, or `None` when there is none.
    pub(super) fn read(pid: i32) -> Option<Self> {
        parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

/// Every process that this one may see. One that ends meanwhile is left out.
///
/// # Errors
///
/// When `/proc` is not there: the message of the system.
pub(super) fn all() -> io::Result<Vec<Entry>> {
    Ok(pids()?.filter_map(Entry::read).collect())
}

fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let names = fs::read_dir("/proc")?;
    Ok(names.filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok()))
}

/// `pid (comm) state ppid pgrp ...`, where the comm may hold spaces and parentheses; the start is field 22.
fn parse(stat: &str) -> Option<Entry> {
    let (pid, rest) = stat.split_once(" (")?;
    let (comm, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Entry {
        pid: pid.parse().ok()?,
        comm: comm.to_owned(),
        zombie: matches!(*fields.first()?, "Z" | "X" | "x"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Whether `entry` would be found by `pidof name`: by the base name or the whole of the program's file, or of what it
/// calls itself in its first argument (a login shell's leading `-` does not count).
pub(super) fn is_called(entry: &Entry, name: &str) -> bool {
    let exe = fs::read_link(format!("/proc/{}/exe", entry.pid)).ok();
    let exe = exe.as_deref().and_then(Path::to_str).unwrap_or_default();
    let arguments = fs::read(format!("/proc/{}/cmdline", entry.pid)).unwrap_or_default();
    let first = arguments.split(|byte| *byte == 0).next();
    let first = std::str::from_utf8(first.unwrap_or_default()).unwrap_or_default();
    matches_name(&entry.comm, first, exe, name)
}

fn matches_name(comm: &str, first: &str, exe: &str, name: &str) -> bool {
    // The file was replaced by a newer one while the program runs.
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(exe);
    let first = first.strip_prefix('-').unwrap_or(first);
    let is = |path: &str| {
        !path.is_empty()
            && (path == name || path.rsplit('/').next().is_some_and(|base| base == name))
    };
    is(exe) || is(first) || (exe.is_empty() && first.is_empty() && comm == name)
}

/// Those of `entries` that descend from `root`, itself not among them.
pub(super) fn descendants(entries: &[Entry], root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        let children = entries.iter().filter(|e| e.parent == parent);
        for child in children {
            if !found.contains(&child.pid) {
                found.push(child.pid);
            }
        }
        at += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_separates_fields() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let entry = parse(stat).expect("a line of /proc");
        assert_eq!(entry.comm, "a) R (b");
        assert_eq!((entry.parent, entry.group, entry.started), (1, 7, 4711));
        assert!(!entry.zombie);
        assert_eq!(parse("7 (a"), None);
    }

    #[test]
    fn the_own_line_is_right() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let entry = Entry::read(own).expect("this process runs");
        assert_eq!(entry.pid, own);
        assert!(all().expect("/proc").contains(&entry));
        let parent = std::os::unix::process::parent_id();
        assert_eq!(u32::try_from(entry.parent), Ok(parent));
    }

    #[test]
    fn names_match_as_with_pidof() {
        assert!(matches_name(
            "java",
            "java",
            "/usr/lib/jvm/17/bin/java",
            "java"
        ));
        assert!(matches_name(
            "java",
            "/opt/x",
            "/usr/lib/jvm/17/bin/java",
            "java"
        ));
        assert!(matches_name(
            "nginx",
            "nginx: master process",
            "/usr/sbin/nginx",
            "nginx"
        ));
        assert!(matches_name(
            "nginx",
            "",
            "/usr/sbin/nginx (deleted)",
            "/usr/sbin/nginx"
        ));
        assert!(matches_name("sh", "-sh", "/bin/dash", "sh"));
        assert!(matches_name("kthreadd", "", "", "kthreadd"));
        // Its comm alone is not what a program is called: threads rename it.
        assert!(!matches_name("java", "/opt/x", "/opt/x", "java"));
        assert!(!matches_name("javac", "javac", "/usr/bin/javac", "java"));
    }

    #[test]
    fn descendants_are_found_over_generations() {
        let entry = |pid, parent| Entry {
            pid,
            comm: String::new(),
            parent,
            group: pid,
            started: 0,
            zombie: false,
        };
        let all = [entry(4, 3), entry(2, 1), entry(3, 2), entry(9, 1)];
        assert_eq!(descendants(&all, 2), [3, 4]);
        assert_eq!(descendants(&all, 9), [0; 0]);
    }
}
