//! In a Dubbo world: providers in Rust, registered in Dubbo's format, and a consumer in Java, Dubbo's own (`.ci/dubbo`). It
//! sees them come and go, calls them by Triple, which is gRPC on the wire, and loses no call when one stops.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};

use prestop::registry::nacos::{self, DubboService, ServiceFormat};
use prestop::registry::zookeeper::{NodeFormat, ZooKeeper};
use prestop::registry::{Instance, Registry};
use prestop::{GracePeriod, HookName, Reason, ShutdownCoordinator, ShutdownHandle, ShutdownReport};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::fixture::on_path;
use crate::fixtures;
use crate::server::{BOUND, START, Server, or_skip};
use crate::site::Site;

const INTERFACE: &str = "prestop.test.Echo";

/// Calls that others have answered while one was asked nothing: with four callers in turn that is no chance.
const QUIET: u64 = 200;

/// How many calls each provider has answered, by its name.
type Answered = HashMap<&'static str, u64>;

/// `prestop.test.Echo/echo`, of `google.protobuf.StringValue`, which for prost is a string.
#[derive(Clone)]
struct Echo(&'static str, Arc<watch::Sender<Answered>>);

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = INTERFACE;
}

impl tower::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let Self(name, answered) = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/prestop.test.Echo/echo" {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            answered.send_modify(|of| *of.entry(name).or_default() += 1);
            let answer = service_fn(async |request: Request<String>| {
                Ok::<_, Status>(Response::new(request.into_inner()))
            });
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(grpc.unary(answer, request).await)
        })
    }
}

/// A provider in this process, whose stop is a trigger.
struct Provider {
    at: SocketAddr,
    h: ShutdownHandle,
    run: JoinHandle<ShutdownReport>,
    /// Its lame duck lasts until the test lets it end, and at least for the registry's visibility.
    over: oneshot::Sender<()>,
}

impl Provider {
    async fn start(
        name: &'static str,
        answered: &Arc<watch::Sender<Answered>>,
        registry: Box<dyn Registry>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (over, until) = oneshot::channel::<()>();
        let hold = HookName::new("until the consumer has left").within(START);
        let c = ShutdownCoordinator::builder_without_signals()
            .grace_period(GracePeriod::from_secs(600).unwrap())
            .pre_stop(hold, |_| async {
                // Dropped is as good.
                let _ = until.await;
            })
            .registry(registry, Instance::new("echo-provider", at))
            .build()
            .unwrap();
        let h = c.handle();
        let echo = Echo(name, answered.clone());
        let app = Routes::new(echo).prepare().into_axum_router();
        let run = tokio::spawn(async move { c.serve(listener, app).await.unwrap() });
        Self { at, h, run, over }
    }
}

/// Dubbo's consumer. Killed when it is dropped.
struct Consumer {
    _child: Child,
    stdin: ChildStdin,
    /// What it has said, and when.
    said: watch::Receiver<Vec<(Instant, String)>>,
    home: PathBuf,
}

impl Consumer {
    fn start(program: PathBuf, registry: &str) -> Self {
        let home = std::env::temp_dir().join(format!("prestop-dubbo-{:x}", fastrand::u64(..)));
        std::fs::create_dir(&home).unwrap();
        let mut child = Command::new(program)
            .arg(registry)
            .arg(&home)
            .current_dir(&home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (say, said) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                println!("consumer: {line}");
                say.send_modify(|said| said.push((Instant::now(), line)));
            }
        });
        Self {
            stdin: child.stdin.take().unwrap(),
            _child: child,
            said,
            home,
        }
    }

    /// Waits until a line that it says is as wanted: what it last said that begins so, and when.
    async fn says(
        &mut self,
        begin: &str,
        wanted: impl Fn(&str) -> bool + Send,
    ) -> (Instant, String) {
        let mut found = None;
        let waited = timeout(
            START,
            self.said.wait_for(|said| {
                let last = said
                    .iter()
                    .rev()
                    .find_map(|(at, line)| Some((*at, line.strip_prefix(begin)?)));
                found = last
                    .filter(|(_, rest)| wanted(rest))
                    .map(|(at, rest)| (at, rest.to_owned()));
                found.is_some()
            }),
        )
        .await;
        assert!(
            matches!(waited, Ok(Ok(_))),
            "the consumer did not say what was waited for: {begin:?}"
        );
        drop(waited);
        found.unwrap()
    }

    /// Waits until it has been told that the providers are these.
    async fn knows(&mut self, providers: &[&Provider]) -> Instant {
        let mut wanted: Vec<_> = providers.iter().map(|p| p.at.to_string()).collect();
        wanted.sort();
        let knows = |now: &str| {
            let mut now: Vec<_> = now.split_whitespace().collect();
            now.sort_unstable();
            now == wanted
        };
        self.says("providers", knows).await.0
    }

    async fn tell(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

async fn until(
    answered: &watch::Sender<Answered>,
    what: &str,
    holds: impl FnMut(&Answered) -> bool,
) {
    let mut answered = answered.subscribe();
    let waited = timeout(START, answered.wait_for(holds)).await.map(drop);
    waited.unwrap_or_else(|_| panic!("waited {:?} for {what}: {:?}", START, answered.borrow()));
}

/// `url` is the registry as Dubbo is told of it.
async fn a_consumer_sees_providers_come_and_go_and_loses_no_call(
    program: PathBuf,
    url: &str,
    registry: impl Fn() -> Box<dyn Registry>,
) {
    let answered = Arc::new(watch::channel(Answered::new()).0);
    let of = |answered: &Answered, name| answered.get(name).copied().unwrap_or(0);
    let mut consumer = Consumer::start(program, url);
    let a = Provider::start("a", &answered, registry()).await;
    let b = Provider::start("b", &answered, registry()).await;
    consumer.knows(&[&a, &b]).await;
    until(&answered, "calls to both", |now| {
        of(now, "a") >= 20 && of(now, "b") >= 20
    })
    .await;
    consumer.tell("count").await;
    consumer.says("counting", |_| true).await;

    // One goes. It is called until the consumer has heard of it, and then no longer.
    let begun = Instant::now();
    a.h.trigger(Reason::requested("the test"));
    let told = consumer.knows(&[&b]).await;
    println!(
        "{url}: the consumer was told {:.0} ms after the stop began",
        told.duration_since(begun).as_secs_f64() * 1e3
    );
    let (mut calls_of_a, mut calls_of_b) = (0, 0);
    until(&answered, "a provider that is no longer called", |now| {
        if of(now, "a") > calls_of_a {
            (calls_of_a, calls_of_b) = (of(now, "a"), of(now, "b"));
        }
        of(now, "b") >= calls_of_b + QUIET
    })
    .await;
    drop(a.over);
    let report = timeout(BOUND, a.run).await.expect("it stops").unwrap();
    assert_eq!(report.exit_code(), ShutdownReport::CLEAN, "{report}");

    // And its successor comes.
    let c = Provider::start("c", &answered, registry()).await;
    consumer.knows(&[&b, &c]).await;
    until(&answered, "calls to its successor", |now| {
        of(now, "c") >= 20
    })
    .await;

    consumer.tell("end").await;
    let (_, calls) = consumer.says("calls ", |_| true).await;
    println!("{url}: {calls}");
    assert!(calls.contains(" lost 0 "), "{calls}\n{report}");
    for provider in [b, c] {
        provider.h.trigger(Reason::requested("the test"));
        drop(provider.over);
    }
}

fn consumer() -> Option<PathBuf> {
    or_skip(on_path("dubbo-consumer"), "dubbo-consumer (.ci/dubbo)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_nacos_a_dubbo_consumer_sees_providers_come_and_go_and_loses_no_call() {
    let (Some(program), Some(site)) = (consumer(), Site::<fixtures::nacos::Nacos>::start().await)
    else {
        return;
    };
    let at = site.server_at();
    let url = format!("nacos://{at}");
    a_consumer_sees_providers_come_and_go_and_loses_no_call(program, &url, || {
        let nacos = nacos::Nacos::new([format!("http://{at}")]).unwrap();
        let echo = DubboService::new(INTERFACE).with_protocol("tri");
        Box::new(nacos.with_format(ServiceFormat::dubbo([echo])))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_zookeeper_a_dubbo_consumer_sees_providers_come_and_go_and_loses_no_call() {
    type Keeper = Server<fixtures::zookeeper::ZooKeeper>;
    let (Some(program), Some(server)) = (consumer(), Keeper::start().await) else {
        return;
    };
    let at = server.at();
    let url = format!("zookeeper://{at}?timeout=30000");
    a_consumer_sees_providers_come_and_go_and_loses_no_call(program, &url, || {
        let zookeeper = ZooKeeper::new(at.to_string()).unwrap();
        let echo = DubboService::new(INTERFACE).with_protocol("tri");
        Box::new(zookeeper.with_format(NodeFormat::dubbo([echo])))
    })
    .await;
}
