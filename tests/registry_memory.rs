//! The memory registry, in process and over HTTP.
#![cfg(all(feature = "memory", not(loom)))]
// What may panic in a test may in its helpers.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use prestop::Deadline;
use prestop::registry::memory::{MemoryRegistry, MemoryRegistryClient};
use prestop::registry::{Beat, Gone, Instance, Registration, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(9);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A name and an id that only survive a path when they are encoded.
fn instance() -> Instance {
    Instance::new("orders/v2 \u{fc}?", ([127, 0, 0, 1], 4000).into())
        .with_id("a/../%2F#1")
        .with_metadata("zone", "a \"b\"")
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn url(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

fn client(url: &str) -> MemoryRegistryClient {
    MemoryRegistryClient::new(url).unwrap().with_ttl(TTL)
}

/// A registry, its HTTP front, and a client of that.
async fn served() -> (MemoryRegistry, JoinHandle<Infallible>, MemoryRegistryClient) {
    let (store, listener) = (MemoryRegistry::new(), listener().await);
    let client = client(&url(&listener));
    let server = tokio::spawn(store.clone().serve(listener));
    (store, server, client)
}

async fn listed(registration: &mut Box<dyn Registration>) -> Option<bool> {
    registration.is_listed(soon()).await.unwrap()
}

/// What every registry keeps to. `store` is what clients see.
async fn conforms(registry: &dyn Registry, store: &MemoryRegistry) {
    let instance = instance();
    let mut revision = store.watch();
    let alive = Beat::Alive {
        next: TTL / 3,
        listed_for: TTL,
    };

    let mut entry = registry.register(&instance, soon()).await.unwrap();
    assert!(revision.has_changed().unwrap());
    revision.mark_unchanged();
    let found = store.instances(instance.service());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, instance.id());
    assert_eq!(found[0].address, instance.address());
    assert_eq!(&found[0].metadata, instance.metadata());
    assert!(store.instances("payments").is_empty());
    assert_eq!(listed(&mut entry).await, Some(true));
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), alive);
    assert!(!revision.has_changed().unwrap());

    // Registering again replaces.
    let mut again = registry.register(&instance, soon()).await.unwrap();
    assert_eq!(store.instances(instance.service()), found);
    revision.mark_unchanged();

    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert!(revision.has_changed().unwrap());
    revision.mark_unchanged();
    assert!(store.instances(instance.service()).is_empty());
    assert_eq!(listed(&mut entry).await, Some(false));

    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    assert_eq!(again.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    // S6: no heartbeat brings it back.
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert!(store.instances(instance.service()).is_empty());
    assert!(!revision.has_changed().unwrap());

    let unsupported = entry.set_out_of_service(soon()).await.unwrap_err();
    assert!(unsupported.is_unsupported());
    assert_eq!(registry.name(), "memory");
}

#[tokio::test]
async fn conforms_in_process() {
    let store = MemoryRegistry::new().with_ttl(TTL);
    assert_eq!(store.visibility(), Duration::ZERO);
    conforms(&store, &store).await;
}

#[tokio::test]
async fn conforms_over_http() {
    let (store, _server, client) = served().await;
    assert_eq!(client.visibility(), Duration::from_secs(1));
    conforms(&client, &store).await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_listed_until_no_heartbeat_came_for_its_time_to_live() {
    let store = MemoryRegistry::new().with_ttl(TTL);
    let instance = instance();
    let mut entry = store.register(&instance, soon()).await.unwrap();
    let short = TTL - Duration::from_millis(1);
    for _ in 0..3 {
        tokio::time::advance(short).await;
        assert_eq!(store.instances(instance.service()).len(), 1);
        assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    }
    let mut revision = store.watch();
    tokio::time::advance(TTL).await;
    assert!(store.instances(instance.service()).is_empty());
    assert_eq!(listed(&mut entry).await, Some(false));

    // Late: it has to be registered again.
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert!(store.instances(instance.service()).is_empty());
    assert!(!revision.has_changed().unwrap());
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    assert!(!revision.has_changed().unwrap());

    let _again = store.register(&instance, soon()).await.unwrap();
    revision.changed().await.unwrap();
    assert_eq!(store.instances(instance.service()).len(), 1);
}

#[tokio::test]
async fn a_time_to_live_travels_with_the_registration() {
    let listener = listener().await;
    let client = client(&url(&listener)).with_ttl(Duration::from_micros(1));
    let store = MemoryRegistry::new().with_ttl(Duration::MAX);
    let _server = tokio::spawn(store.clone().serve(listener));
    let mut entry = client.register(&instance(), soon()).await.unwrap();
    // One millisecond, so it ends. Registries with a day to live would wait here for good.
    soon()
        .bound(async { while listed(&mut entry).await == Some(true) {} })
        .await
        .expect("the instance expires");
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
}

#[tokio::test]
async fn a_dead_server_is_reported_at_once() {
    // Bound and not listening: refused, and nobody else gets the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let error = client(&url).register(&instance(), soon()).await.err();
    let message = error.expect("nobody listens").to_string();
    let begins =
        format!("PUT {url}/v1/services/orders%2Fv2%20%C3%BC%3F/instances/a%2F..%2F%252F%231: ");
    assert!(message.starts_with(&begins), "{message}");
    assert!(message.contains("connecting to 127.0.0.1:"), "{message}");
    assert!(message.contains("refused"), "{message}");
}

#[tokio::test]
async fn a_frozen_server_costs_no_more_than_the_deadline() {
    // The kernel accepts into the backlog, nobody ever answers.
    let frozen = listener().await;
    let by = Deadline::after(Duration::from_millis(300));
    let begun = Instant::now();
    let error = client(&url(&frozen)).register(&instance(), by).await.err();
    let waited = begun.elapsed();
    assert!(
        by.is_over() && waited < Duration::from_secs(60),
        "{waited:?}"
    );
    let message = error.expect("nobody answers").to_string();
    assert!(
        message.starts_with(&format!("PUT {}/v1/", url(&frozen))),
        "{message}"
    );
    assert!(message.contains(": timed out after "), "{message}");
    assert!(message.ends_with("ms, waiting for the answer"), "{message}");
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    // The listener is duplicated, so that the port is never free for somebody else.
    let first = listener().await.into_std().unwrap();
    let second = TcpListener::from_std(first.try_clone().unwrap()).unwrap();
    let first = TcpListener::from_std(first).unwrap();
    let client = client(&url(&first));
    let server = tokio::spawn(MemoryRegistry::new().serve(first));
    let mut entry = client.register(&instance(), soon()).await.unwrap();
    server.abort();
    assert!(server.await.is_err_and(|error| error.is_cancelled()));

    // Nothing was kept, as after the restart of the process.
    let _server = tokio::spawn(MemoryRegistry::new().serve(second));
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    head
}

#[tokio::test]
async fn a_keep_alive_connection_that_closes_under_a_call_costs_no_call() {
    const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
    let listener = listener().await;
    let client = client(&url(&listener));
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(NO_CONTENT).await.unwrap();
        // The second request of this connection is read, and never answered.
        let lost = read_request(&mut stream).await;
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        let again = read_request(&mut stream).await;
        stream.write_all(NO_CONTENT).await.unwrap();
        (lost, again)
    });
    let mut entry = client.register(&instance(), soon()).await.unwrap();
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    let (lost, again) = server.await.unwrap();
    assert!(lost.starts_with("DELETE /v1/services/"), "{lost}");
    assert_eq!(lost, again);
}

/// Status and body of a request written out by hand.
async fn raw(address: SocketAddr, request: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "host: x\r\nconnection: close\r\ncontent-length:";
    let request = format!("{request} HTTP/1.1\r\n{head} {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn the_http_calls_answer_as_documented() {
    const CALLS: &str = r#"
        GET    /v1/services/s/instances                   200 []
        GET    /v1/services/s/instances/a%20b             404 no such instance
        PUT    /v1/services/s/instances/a%20b/heartbeat   404 no such instance
        PUT    /v1/services/s/instances/a%20b             204
        PUT    /v1/services/s/instances/a%20b?ttl_ms=5000 204
        PUT    /v1/services/s/instances/a%20b/heartbeat   204
        GET    /v1/services/s/instances/a%20b             200 {"id":"a b","address":"127.0.0.1:4000","metadata":{}}
        GET    /v1/services/s/instances                   200 [{"id":"a b","address":"127.0.0.1:4000","metadata":{}}]
        DELETE /v1/services/s/instances/a%20b             204
        DELETE /v1/services/s/instances/a%20b             404 no such instance
        PUT    /v1/services/s/instances/x?ttl_ms=0        400 ttl_ms is a whole number of at least 1
        PUT    /v1/services/s/instances/x?ttl_ms=1s       400 ttl_ms is a whole number of at least 1
        POST   /v1/services/s/instances                   405 not with this method
        POST   /v1/services/s/instances/x                 405 not with this method
        PUT    /v1/services/s/instances/                  404 no such path
        GET    /v1/services/%FF/instances                 400 the path is not UTF-8
        GET    /                                          404 no such path
    "#;
    let listener = listener().await;
    let to = listener.local_addr().unwrap();
    let _server = tokio::spawn(MemoryRegistry::new().serve(listener));
    for call in CALLS.trim().lines() {
        let (method, rest) = call.trim().split_once(' ').unwrap();
        let (path, rest) = rest.trim().split_once(' ').unwrap();
        let body = if method.starts_with('P') {
            r#"{"address":"127.0.0.1:4000"}"#
        } else {
            ""
        };
        let (status, answer) = raw(to, &format!("{method} {path}"), body).await;
        assert_eq!(format!("{status} {answer}").trim(), rest.trim(), "{call}");
    }
    // One byte over, so that the server has read all of it when it answers.
    let too_long = "x".repeat(64 * 1024 + 1);
    for (body, expected) in [(r#"{"address":"x"}"#, 400), ("", 400), (&too_long, 413)] {
        let (status, why) = raw(to, "PUT /v1/services/s/instances/x", body).await;
        assert_eq!(status, expected, "{why}");
    }
}
