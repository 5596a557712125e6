//! Requests on keep-alive connections in the instant in which a phase changes, ten thousand times.

use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, join_all};
use prestop::{Phase, Reason};
use tokio_util::sync::CancellationToken;

use crate::app::app;
use crate::case::Path;
use crate::harness::{World, serve};
use crate::support::{Http1, grace, local, within};

/// Stops, each met by so many clients: 10,000 rounds on each path of ours. Stock axum alone is only measured.
const STOPS: usize = 100;
const STOPS_ALONE: usize = 5;
const CLIENTS: usize = 100;
const STOPS_AT_ONCE: usize = 4;
const LAME_DUCK: Duration = Duration::from_millis(40);
/// Longer than a busy machine takes for a client's turn: a request that is sent within it is answered.
const LINGER: Duration = Duration::from_secs(30);

/// On our paths every request is answered; stock axum alone loses some.
pub async fn run(path: Path) {
    let seed: u64 = std::env::var("PRESTOP_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("{path:?}: PRESTOP_SEED={seed}");
    let stops = match path {
        Path::Alone => STOPS_ALONE,
        Path::Own | Path::Stock | Path::Tonic => STOPS,
    };
    let mut random = fastrand::Rng::with_seed(seed);
    let rounds: Vec<_> = (0..stops).map(|_| random.fork()).collect();
    let lost: usize = futures::stream::iter(rounds)
        .map(|random| one_stop(path, random))
        .buffer_unordered(STOPS_AT_ONCE)
        .fold(0, async |sum, lost| sum + lost)
        .await;
    println!("{path:?}: {lost} of {} lost", stops * CLIENTS);
    assert_eq!(lost > 0, path == Path::Alone, "PRESTOP_SEED={seed}");
}

/// When a client asks: so long after a phase was reached, or in the same instant with so many other tasks first.
/// Without a phase at its own time, before the stop or after.
#[derive(Clone, Copy, Debug)]
struct When {
    phase: Option<Phase>,
    after: Duration,
    yields: u32,
}

fn when(random: &mut fastrand::Rng) -> When {
    let phases = [Phase::PreStop, Phase::LameDuck, Phase::Draining];
    let mut phase = Some(phases[random.usize(..phases.len())]);
    let (after, yields) = match random.u32(..5) {
        // Around the drain's begin, seen from the lame duck.
        0 => (LAME_DUCK, 0),
        1 => (Duration::from_millis(random.u64(..5)), 0),
        2 => {
            phase = None;
            (Duration::from_millis(random.u64(..8)), random.u32(..50))
        }
        _ => (Duration::ZERO, random.u32(..50)),
    };
    When {
        phase,
        after,
        yields,
    }
}

/// A server that runs, and how its phases show.
struct Served {
    stop: Box<dyn Fn() + Send>,
    reached: Box<dyn Fn(Phase) -> BoxFuture<'static, ()> + Send>,
    end: BoxFuture<'static, ()>,
}

async fn start(path: Path) -> (World, Served) {
    let listener = local().await;
    let world = World::new(path, listener.local_addr().unwrap());
    if path == Path::Alone {
        let app: Router = app(world.stage.clone());
        let signal = CancellationToken::new();
        let told = signal.clone().cancelled_owned();
        let server = tokio::spawn(
            axum::serve(listener, app)
                .with_graceful_shutdown(told)
                .into_future(),
        );
        let (stop, reached) = (signal.clone(), signal);
        let served = Served {
            stop: Box::new(move || stop.cancel()),
            reached: Box::new(move |_| reached.clone().cancelled_owned().boxed()),
            end: server.map(|_| ()).boxed(),
        };
        return (world, served);
    }
    let c = grace(120)
        .lame_duck(LAME_DUCK)
        .linger(LINGER)
        .build()
        .unwrap();
    let h = c.handle();
    let run = tokio::spawn(serve(c, world.clone(), listener));
    within("ready", h.wait_for(Phase::Ready)).await;
    let trigger = h.clone();
    let served = Served {
        stop: Box::new(move || assert!(trigger.trigger(Reason::requested("race")))),
        reached: Box::new(move |phase| h.wait_for(phase).boxed()),
        end: async {
            let report = run.await.unwrap();
            assert!(report.is_clean(), "{report}");
            assert_eq!(report.requests.finished, 2 * CLIENTS as u64, "{report}");
        }
        .boxed(),
    };
    (world, served)
}

/// How many requests were lost.
async fn one_stop(path: Path, mut random: fastrand::Rng) -> usize {
    let (world, served) = start(path).await;
    let (mut clients, begin) = (Vec::new(), CancellationToken::new());
    for _ in 0..CLIENTS {
        let client = world.kept_alive().await;
        let when = when(&mut random);
        let reached = match when.phase {
            Some(phase) => (served.reached)(phase),
            None => begin.clone().cancelled_owned().boxed(),
        };
        clients.push(tokio::spawn(asks(client, when, reached)));
    }
    begin.cancel();
    tokio::time::sleep(Duration::from_millis(random.u64(1..6))).await;
    (served.stop)();
    let answers = within("the answers", join_all(clients)).await;
    within("the end", served.end).await;
    let answers = answers.into_iter().map(Result::unwrap);
    answers.filter(|whole| !whole).count()
}

async fn asks(mut client: Http1, when: When, reached: BoxFuture<'static, ()>) -> bool {
    reached.await;
    if !when.after.is_zero() {
        tokio::time::sleep(when.after).await;
    }
    for _ in 0..when.yields {
        tokio::task::yield_now().await;
    }
    let sent = client
        .try_send("GET /hello HTTP/1.1\r\nhost: test\r\n\r\n")
        .await;
    sent && client.try_answer().await.is_ok_and(|a| a.body == b"hello")
}
