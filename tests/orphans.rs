//! Reaping orphans beside children that somebody waits for. A binary of its own: it concerns the whole process.
#![cfg(all(target_os = "linux", not(loom)))]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prestop::process::{Output, Supervisor};
use prestop::{Phase, Reason};
use support::{grace, until, within};
use tokio::process::Command;

/// The pids of our children that have ended and were not reaped, and the group of each.
fn zombies() -> Vec<(String, String)> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let stats = entries.filter_map(|e| std::fs::read_to_string(e.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (pid, rest) = stat.split_once(' ')?;
            let fields: Vec<_> = rest.rsplit_once(") ")?.1.split(' ').collect();
            (fields[0] == "Z" && fields[1] == own).then(|| (pid.to_owned(), fields[2].to_owned()))
        })
        .collect()
}

#[tokio::test]
async fn orphans_are_reaped_and_nobody_elses_child_loses_its_exit_code() {
    let c = grace(30).build().expect("it fits");
    let h = c.handle();
    // A hundred orphans, half of them in sessions of their own.
    let script = "i=0; while [ $i -lt 50 ]; do (true &); (setsid true &); i=$((i + 1)); done; exec sleep 1000";
    let supervisor = Supervisor::new("sh")
        .args(["-c", script])
        .adopt_orphans(true);
    let run = tokio::spawn(c.supervise(supervisor));
    within("ready", h.wait_for(Phase::Ready)).await;

    let child = |code: usize| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exit {code}")]);
        command.spawn().expect("sh")
    };
    // Waited for at once, late, and late in a group of its own by a task that waits from the beginning.
    let mut late: Vec<_> = (0..20).map(child).collect();
    let mut std_late = std::process::Command::new("sh")
        .args(["-c", "exit 77"])
        .spawn()
        .expect("sh");
    let mut own_group = Vec::new();
    for code in 0..20 {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exit {code}")])
            .process_group(0);
        let mut child = command.spawn().expect("sh");
        own_group.push(tokio::spawn(async move { child.wait().await }));
    }
    for code in 0..20 {
        assert_eq!(code_of(child(code).wait().await), code);
    }
    for (code, waiting) in own_group.into_iter().enumerate() {
        assert_eq!(code_of(waiting.await.expect("no panic")), code);
    }
    let own = rustix::process::getpgrp().as_raw_nonzero().to_string();
    until("every orphan is reaped", || {
        zombies().iter().all(|(_, group)| *group == own)
    })
    .await;
    // Longer than any child is left to others.
    tokio::time::sleep(Duration::from_secs(6)).await;
    for (code, child) in late.iter_mut().enumerate() {
        assert_eq!(code_of(child.wait().await), code, "waited for late");
    }
    assert_eq!(std_late.wait().expect("our own").code(), Some(77));
    assert_eq!(zombies(), []);

    h.trigger(Reason::requested("test"));
    let ended = within("the end", run)
        .await
        .expect("no panic")
        .expect("it ran");
    assert!(ended.report.is_clean(), "{}", ended.report);
}

fn code_of(status: std::io::Result<std::process::ExitStatus>) -> usize {
    let code = status.expect("its own child").code().expect("an exit code");
    usize::try_from(code).expect("not negative")
}

/// Collects what is said in the lines of a child.
struct Collect(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Collect {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "prestop::child"
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Words(String);
        impl tracing::field::Visit for Words {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() != "pid" {
                    self.0.push_str(&format!("{}={value:?};", field.name()));
                }
            }
        }
        let mut words = Words(String::new());
        event.record(&mut words);
        self.0.lock().expect("no panic").push(words.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn lines_become_events_whatever_their_length_and_their_end() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    tracing::subscriber::set_global_default(Collect(Arc::clone(&lines))).expect("the only one");
    let script = "echo one; printf 'two\\r\\n\\n'; head -c 20000 /dev/zero | tr '\\0' x; echo; printf last; echo err >&2";
    let c = grace(30).build().expect("it fits");
    let supervisor = Supervisor::new("sh")
        .args(["-c", script])
        .output(Output::Tracing);
    let ended = within("the end", c.supervise(supervisor))
        .await
        .expect("it ran");
    assert!(ended.report.is_clean(), "{}", ended.report);
    let mut said = lines.lock().unwrap().clone();
    let errors: Vec<_> = said
        .extract_if(.., |line| line.contains("\"stderr\""))
        .collect();
    let event =
        |stream: &str, text: &str| format!("message={text};child=\"sh\";stream=\"{stream}\";");
    assert_eq!(errors, [event("stderr", "err")]);
    let long = ["x".repeat(16 * 1024), "x".repeat(20_000 - 16 * 1024)];
    let expected = ["one", "two", "", &long[0], &long[1], "last"];
    assert_eq!(said, expected.map(|text| event("stdout", text)));
}
