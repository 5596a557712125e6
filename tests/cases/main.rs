//! Every way in which a client can stand in the way of a stop, on every path, and what stock axum alone makes of it.
//!
//! `PRESTOP_CASE=<part of a name>` runs some; `PRESTOP_BLESS=1` writes the table of `src/docs/connections.md` anew;
//! `PRESTOP_SEED=<n>` repeats the race. [`case`] says what is promised, [`harness`] runs one case on one path.
#![cfg(all(feature = "axum", feature = "tonic", not(loom)))]
// What may panic or print in a test may in its helpers.
#![allow(clippy::print_stdout, clippy::unwrap_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod app;
mod bodies;
mod case;
mod connecting;
mod harness;
mod heads;
mod http2;
mod page;
mod race;
mod requests;
mod stalls;
mod tls;
mod upgrades;

use std::fmt::Write as _;
use std::sync::Arc;

use futures::StreamExt;

use case::{Case, Path};

/// In the order of the page.
fn cases() -> Vec<Case> {
    [
        connecting::cases(),
        tls::cases(),
        heads::cases(),
        requests::cases(),
        bodies::cases(),
        http2::cases(),
        upgrades::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The cases that were asked for. Those that need few descriptors have a process of their own.
fn chosen(few_descriptors: bool) -> Vec<Case> {
    let part = std::env::var("PRESTOP_CASE").unwrap_or_default();
    cases()
        .into_iter()
        .filter(|case| case.few_descriptors == few_descriptors && case.name.contains(&part))
        .collect()
}

/// So many at once: they mostly wait, and two cores must keep their times.
const AT_ONCE: usize = 10;

/// So often is a case run again, alone, when the machine stood still in the middle of it.
const AGAIN: usize = 4;

type Result = std::result::Result<harness::Seen, String>;

/// Where a case failed among others it is run again alone, and there a failure counts, unless the machine stood still.
/// Both are said aloud.
async fn alone(case: &Case, path: Path, mut why: String) -> Result {
    let name = case.name;
    for _ in 0..AGAIN {
        support::say(&format!("AGAIN: {name} [{path:?}]: {why}"));
        let since = stalls::Since::now();
        let result = harness::run(case, path).await;
        let (Err(failed), Some(stalled)) = (&result, since.longest()) else {
            return result;
        };
        why = format!("{failed}\n(the machine stood still for {stalled:.0?})");
    }
    Err(why)
}

async fn run_all(cases: Vec<Case>, at_once: usize) {
    let runs: Vec<_> = cases
        .into_iter()
        .map(Arc::new)
        .flat_map(|case| case.paths().map(move |path| (case.clone(), path)))
        .collect();
    let results = futures::stream::iter(runs)
        .map(|(case, path)| async move {
            let result = harness::run(&case, path).await;
            (case, path, result)
        })
        .buffer_unordered(at_once)
        .collect::<Vec<_>>()
        .await;
    let mut failed = String::new();
    for (case, path, result) in results {
        let result = match result {
            Ok(seen) => Ok(seen),
            Err(why) => alone(&case, path, why).await,
        };
        let name = case.name;
        match result {
            Ok(seen) => println!("{name} [{path:?}]: {seen}"),
            Err(why) => writeln!(failed, "{name} [{path:?}]: {why}").unwrap(),
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
}

/// One test at a time: the cases keep times, and the race takes all of a small machine.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_ends_as_promised() {
    let _turn = TURN.lock().await;
    run_all(chosen(false), AT_ONCE).await;
}

/// The child of the next test.
#[tokio::test]
#[ignore = "run by out_of_descriptors_ends_as_promised, with few descriptors"]
async fn child_with_few_descriptors() {
    run_all(chosen(true), 1).await;
    println!("as promised");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn out_of_descriptors_ends_as_promised() {
    let _turn = TURN.lock().await;
    let child = tokio::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64; exec \"$0\" --exact child_with_few_descriptors --ignored --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .output();
    let output = support::within("the child", child).await.unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    println!("{out}");
    assert!(
        output.status.success() && out.contains("as promised"),
        "{out}\n{err}"
    );
}

#[test]
fn the_page_says_what_is_tested() {
    page::check(&cases());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_in_the_instant_of_a_phase_change() {
    let _turn = TURN.lock().await;
    race::run(Path::Own).await;
    race::run(Path::Stock).await;
    race::run(Path::Alone).await;
}
