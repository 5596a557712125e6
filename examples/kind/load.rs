//! `load HTTP GRPC SECONDS`: asks the service and counts what fails; nothing is retried. Exit code 1 if anything did.
//!
//!     cargo run --example kind -- load localhost:8080 localhost:50051 30
//!
//! A worker like any other: on SIGTERM it sends no more, waits for the answers that are out, and prints its table.

use std::future::Future;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prestop::{BoxError, Phase, Reason, ShutdownCoordinator, ShutdownHandle};
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use crate::orders::Order;
use crate::orders::orders_client::OrdersClient;
use crate::{count, say};

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(100);

/// Longer than anything here takes to answer: what takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What one kind of client saw.
#[derive(Debug, Default)]
struct Tally {
    sent: AtomicU64,
    failed: AtomicU64,
}

pub(crate) fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [http, grpc, seconds] = &arguments[..] else {
        return Err("usage: load HTTP_HOST:PORT GRPC_HOST:PORT SECONDS".into());
    };
    let seconds = seconds
        .parse()
        .map_err(|error| format!("{seconds:?}: whole seconds are wanted: {error}"))?;
    run(http, grpc, Duration::from_secs(seconds))
}

// One thread: hyper's HTTP/2 client can fail a request by itself when GOAWAY arrives while another thread sends it.
#[tokio::main(flavor = "current_thread")]
async fn run(http: &str, grpc: &str, length: Duration) -> Result<(), BoxError> {
    let c = ShutdownCoordinator::builder()
        .lame_duck(Duration::ZERO) // nobody sends it anything
        .build()?;
    let h = c.handle();
    let kinds = [
        "http, kept alive",
        "http, a connection each",
        "http, 2 s long",
        "grpc",
    ];
    let tallies = kinds.map(|kind| (kind, Arc::<Tally>::default()));
    let [kept, fresh, long, rpc] = tallies.each_ref().map(|(_, tally)| tally.clone());

    let (url, slow) = (
        format!("http://{http}/"),
        format!("http://{http}/slow?ms=2000"),
    );
    let keep = client(true);
    clients(&h, 2, &kept, move || get(keep.clone(), url.clone()))?;
    let url = format!("http://{http}/");
    clients(&h, 2, &fresh, move || get(client(false), url.clone()))?;
    clients(&h, 10, &long, move || get(client(false), slow.clone()))?;
    let channel = Endpoint::from_shared(format!("http://{grpc}"))?.connect_lazy();
    clients(&h, 2, &rpc, move || {
        let mut orders = OrdersClient::new(channel.clone());
        async move {
            let order = Order {
                item: "tea".into(),
                work_ms: 50,
            };
            orders.place(order).await?;
            Ok(())
        }
    })?;
    tokio::spawn(async move {
        sleep(length).await;
        h.trigger(Reason::requested("the time is up"));
    });
    let draining = c.handle().draining();
    let report = c.run(draining).await?;

    let mut failed = 0;
    for (kind, tally) in &tallies {
        let (sent, lost) = (count(&tally.sent), count(&tally.failed));
        say(format_args!("{kind:<24}{sent:>8} sent{lost:>8} failed"));
        failed += lost;
    }
    let sent: u64 = tallies.iter().map(|(_, tally)| count(&tally.sent)).sum();
    say(format_args!("failed requests: {failed} of {sent}"));
    let bad = failed > 0 || sent == 0 || !report.is_clean();
    exit(i32::from(bad))
}

type Http = Client<hyper_util::client::legacy::connect::HttpConnector, Body>;

fn client(keep_alive: bool) -> Http {
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(if keep_alive { usize::MAX } else { 0 })
        .pool_timer(TokioTimer::new())
        .retry_canceled_requests(false)
        .build_http()
}

async fn get(client: Http, url: String) -> Result<(), BoxError> {
    let answer = client.get(url.parse()?).await?;
    let status = answer.status();
    // To its last byte.
    answer.into_body().collect().await?;
    if status.is_success() {
        Ok(())
    } else {
        Err(status.to_string().into())
    }
}

/// So many clients that call again and again until the stop begins.
fn clients<F, Fut>(
    h: &ShutdownHandle,
    number: u64,
    tally: &Arc<Tally>,
    call: F,
) -> Result<(), BoxError>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send,
{
    for client in 0..number {
        let (stop, tally, call) = (h.token(Phase::PreStop), tally.clone(), call.clone());
        h.spawn("client", async move {
            sleep(PAUSE * u32::try_from(client).unwrap_or(0)).await; // not in step
            while !stop.is_cancelled() {
                tally.sent.fetch_add(1, Ordering::Relaxed);
                let failure = match timeout(PATIENCE, call()).await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(causes(&*error)),
                    Err(_) => Some(format!("no answer in {PATIENCE:?}")),
                };
                if let Some(failure) = failure {
                    tally.failed.fetch_add(1, Ordering::Relaxed);
                    say(format_args!("FAILED: {failure}"));
                }
                stop.run_until_cancelled(sleep(PAUSE)).await;
            }
        })?;
    }
    Ok(())
}

/// An error with what is behind it: hyper's own words for most of them are "client error (Connect)".
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
