//! Who is asked to leave, and when: 10,000 connections through the lame duck of one pod.
//!
//! Run: `cargo run --release --example rotation` (half a minute; `-- --help` for the rest). The server is a child process
//! on the own loop, the clients are this one: half of them HTTP/1 keep-alive connections that send a request every few
//! seconds, half idle HTTP/2 connections. Every tenth HTTP/1 client knows of no other pod and dials the same one
//! again. You will see a table: the share of the clients that was asked in each twentieth of the lame duck. It exits 1
//! when there was a herd, when a request was lost, or when somebody sent one in the second half and was not asked.

// A program's output goes to its terminal.
#![allow(clippy::print_stdout)]

mod client;
mod server;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::{Seen, Window};

#[derive(Clone, Debug, Parser)]
struct Cli {
    /// How many connections, half of them HTTP/2.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// The length of the lame duck, in seconds.
    #[arg(long, default_value_t = 20)]
    lame_duck: u64,
    /// The longest pause between two requests of an HTTP/1 client, in milliseconds; the shortest is a quarter of it.
    #[arg(long, default_value_t = 4_000)]
    pause: u64,
    /// Be the server.
    #[arg(long, hide = true)]
    server: bool,
}

/// In how many parts the lame duck is drawn.
const SLOTS: usize = 20;
/// The first half is ten of them, so a tenth each by the plan; HTTP/1 clients are asked with their next answer, which
/// evens out over a pause. Half as much more is for a busy machine.
const HERD: f64 = 0.15;

fn main() -> ExitCode {
    let cli = Cli::parse();
    allow_many_sockets(cli.connections);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(if cli.server { 2 } else { 1 })
        .enable_all()
        .build()
        .expect("a runtime");
    if cli.server {
        runtime.block_on(server::run(Duration::from_secs(cli.lame_duck)));
        return ExitCode::SUCCESS;
    }
    runtime.block_on(measure(&cli))
}

fn allow_many_sockets(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + 200;
    if limit.maximum.is_some_and(|most| most < wanted) {
        eprintln!(
            "{connections} connections need {wanted} file descriptors: raise `ulimit -Hn`, or say --connections"
        );
        std::process::exit(2);
    }
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Whoever may have this many may ask for them.
    setrlimit(Resource::Nofile, all).expect("the soft limit may rise to the hard one");
}

/// The server's process. Killed when it is dropped before its end.
struct Server {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Server {
    fn start(cli: &Cli) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--server", "--lame-duck", &cli.lame_duck.to_string()])
            .args(["--connections", &cli.connections.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let out = child.stdout.take().expect("piped");
        Self {
            child,
            lines: BufReader::new(out).lines(),
        }
    }

    fn line(&mut self) -> String {
        let line = self.lines.next().expect("the server says a line more");
        line.expect("its output is text")
    }

    fn stop(&mut self) {
        let stdin = self.child.stdin.as_mut().expect("piped");
        writeln!(stdin, "stop").expect("the server reads");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn measure(cli: &Cli) -> ExitCode {
    let mut server = Server::start(cli);
    let address = server.line().parse().expect("an address");
    let (tx, window) = watch::channel(None);
    let pause = Duration::from_millis(cli.pause);
    println!("{} connections", cli.connections);
    let ready = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for n in 0..cli.connections {
        let (window, pause) = (window.clone(), pause);
        clients.push(if n % 2 == 0 {
            let dials_again = n % 20 == 0;
            tokio::spawn(client::http1(
                address,
                window,
                pause,
                dials_again,
                ready.clone(),
            ))
        } else {
            tokio::spawn(client::http2(address, window, ready.clone()))
        });
        // In the pace in which the server accepts; the queue is a thousand or so.
        if n % 50 == 49 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // All have their first answer, and their pauses are mixed.
    while ready.load(Ordering::Relaxed) < cli.connections {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(pause).await;
    server.stop();
    let mut server = tokio::task::spawn_blocking(move || {
        assert_eq!(server.line(), "lame_duck");
        server
    })
    .await
    .expect("the server stops");
    let length = Duration::from_secs(cli.lame_duck);
    let from = Instant::now();
    println!("lame duck of {length:?}\n");
    tx.send_replace(Some(Window { from, length }));
    let late = tokio::spawn(lateness());
    let mut seen = Vec::new();
    for client in clients {
        seen.push(client.await.expect("a client does not panic"));
    }
    late.abort();
    let said = tokio::task::spawn_blocking(move || server.line()).await;
    draw(&seen, length, &said.expect("the server reports"))
}

/// Says when this process is too slow for what it measures.
async fn lateness() {
    const EVERY: Duration = Duration::from_millis(100);
    let mut worst = Duration::from_millis(500);
    loop {
        let from = Instant::now();
        tokio::time::sleep(EVERY).await;
        let late = from.elapsed() - EVERY;
        if late > worst {
            worst = late;
            println!("the machine is busy: the clients are {late:.1?} late");
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn draw(seen: &[Seen], length: Duration, report: &str) -> ExitCode {
    let asked: Vec<Duration> = seen.iter().filter_map(|s| s.asked).collect();
    let mut slots = [0_usize; SLOTS];
    for at in &asked {
        let slot = (at.as_secs_f64() / length.as_secs_f64() * SLOTS as f64) as usize;
        slots[slot.min(SLOTS - 1)] += 1;
    }
    let (all, mut sum, mut herd) = (seen.len() as f64, 0, 0.0_f64);
    println!("of the lame duck    asked   share   so far");
    for (n, count) in slots.iter().enumerate() {
        sum += count;
        let share = *count as f64 / all;
        herd = herd.max(share);
        println!(
            "{:>3} to {:>3} %  {count:>8}  {:>5.1} %  {:>5.1} %  {}",
            n * 100 / SLOTS,
            (n + 1) * 100 / SLOTS,
            share * 100.0,
            sum as f64 / all * 100.0,
            "#".repeat((share * 200.0).round() as usize),
        );
    }
    let unasked = seen
        .iter()
        .filter(|s| s.asked.is_none() && s.late_request)
        .count();
    let silent = seen
        .iter()
        .filter(|s| s.asked.is_none() && !s.late_request)
        .count();
    let lost: usize = seen.iter().map(|s| s.lost).sum();
    let dialled: Vec<usize> = seen.iter().map(|s| s.dials).filter(|n| *n > 0).collect();
    println!("\nmost in one part: {:.1} %", herd * 100.0);
    println!("sent a request in the second half and were not asked: {unasked}");
    println!("sent none in it, and were not asked: {silent}");
    println!(
        "dialled the same pod again: {} clients, {} times in all, at most {} times each",
        dialled.len(),
        dialled.iter().sum::<usize>(),
        dialled.iter().max().unwrap_or(&0)
    );
    println!("requests lost: {lost}\n{report}");
    if herd > HERD || unasked > 0 || lost > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
