//! The load: requests leave at fixed times, whatever became of the ones before.
//!
//! The harness runs on one thread. That is deliberate: hyper's HTTP/2 client is two tasks, and on two threads a GOAWAY
//! read between two steps of the other task would fail a request that was never sent, which no server can prevent.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::{JoinHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::client::{Clients, Failure};
use crate::mix::{Ask, Everyone, Kind, Task};
use crate::pool::KeepAlive;
use crate::tally::Tally;

/// A request that is not answered by then has failed; of one that stays: not over by then, counted from when it leaves.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// A load that is running.
pub struct Load {
    tally: Arc<Tally>,
    stop: CancellationToken,
    arrivals: JoinHandle<()>,
}

impl Load {
    /// Who stays leaves when `over` is cancelled, which happens when nothing more is to be sent.
    pub fn start(everyone: Everyone, rate: u32, seed: u64, over: CancellationToken) -> Self {
        let tally = Arc::new(Tally::default());
        let arrivals = tokio::spawn(arrive(
            Arc::new(everyone),
            Arc::clone(&tally),
            rate,
            Rng::with_seed(seed),
            over.clone(),
        ));
        Self {
            tally,
            stop: over,
            arrivals,
        }
    }

    /// This many mostly idle clients in place of the mix.
    pub fn start_idle(wire: Clients, clients: u32, seed: u64) -> Self {
        let tally = Arc::new(Tally::default());
        let stop = CancellationToken::new();
        let wire = Arc::new(wire);
        let mut idle = JoinSet::new();
        for number in 0..clients {
            let random = Rng::with_seed(seed ^ u64::from(number) << 32);
            idle.spawn(idle_client(
                Arc::clone(&wire),
                Arc::clone(&tally),
                random,
                stop.clone(),
            ));
        }
        let arrivals = tokio::spawn(async move {
            while let Some(done) = idle.join_next().await {
                done.expect("a client is never aborted and does not panic");
            }
        });
        Self {
            tally,
            stop,
            arrivals,
        }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sends no more and waits for every answer that is still missing, at most for `REQUEST_LIMIT`.
    ///
    /// # Errors
    ///
    /// When a request panicked: it would be missing from the counts.
    pub async fn finish(self) -> Result<Arc<Tally>, String> {
        self.stop.cancel();
        let ended = self.arrivals.await;
        ended.map_err(|panic| format!("the load ended before its time: {panic}"))?;
        Ok(self.tally)
    }
}

async fn arrive(
    everyone: Arc<Everyone>,
    tally: Arc<Tally>,
    rate: u32,
    mut random: Rng,
    stop: CancellationToken,
) {
    let began = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0_u64.. {
        let due = began + Duration::from_secs_f64(number as f64 / f64::from(rate));
        if due > Instant::now() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = sleep_until(due) => {}
            }
        } else if stop.is_cancelled() {
            break;
        }
        let task = Task::draw(&mut random);
        requests.spawn(send(Arc::clone(&everyone), Arc::clone(&tally), task, due));
        while let Some(done) = requests.try_join_next() {
            done.expect("a request is never aborted and does not panic");
        }
    }
    while let Some(done) = requests.join_next().await {
        done.expect("a request is never aborted and does not panic");
    }
}

/// Sends one request every 1 to 5 s by a connection of its own, which it keeps.
async fn idle_client(
    clients: Arc<Clients>,
    tally: Arc<Tally>,
    mut random: Rng,
    stop: CancellationToken,
) {
    let connection = KeepAlive::new(1);
    // Not all at once.
    let (_, pause) = Ask::idle(&mut random);
    let mut due = Instant::now() + pause / 5;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep_until(due) => {}
        }
        let (ask, pause) = Ask::idle(&mut random);
        let (kind, limit) = (ask.kind, REQUEST_LIMIT);
        note(
            &tally,
            kind,
            due,
            limit,
            clients.send_kept(&connection, ask),
        )
        .await;
        due += pause;
    }
}

async fn send(everyone: Arc<Everyone>, tally: Arc<Tally>, task: Task, due: Instant) {
    let (kind, limit) = (task.kind(), task.limit());
    note(&tally, kind, due, limit, everyone.send(task)).await;
}

/// Sends a request and notes what became of it. Its time counts from when it was due: a request that had to wait
/// for its turn in a busy harness was waited for by its user too.
async fn note(
    tally: &Tally,
    kind: Kind,
    due: Instant,
    limit: Duration,
    answered: impl Future<Output = Result<Instant, Failure>>,
) {
    let during_update = tally.is_updating();
    tally.sent(kind, due.elapsed());
    // The scheduler polls the sockets before it returns here, so every connection task has seen the FIN, RST or GOAWAY
    // that has arrived by now. Choosing a connection without that would lose requests by the client's own fault.
    yield_now().await;
    match timeout_at(due + limit, answered).await {
        Ok(Ok(at)) if during_update => tally.took(kind, at - due),
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => tally.failed(kind, failure),
        Err(_) => tally.failed(kind, Failure::TimedOut),
    }
}
