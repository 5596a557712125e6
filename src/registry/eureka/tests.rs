//! The adapter against servers written out here: what is sent, and what becomes of every answer. Against the real
//! server: `tests/conformance`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::registry::{Beat, Gone};
use crate::sync::lock;

const UP: &str = r#"{"instance":{"instanceId":"o1","status":"UP"}}"#;
const OUT: &str = r#"{"instance":{"instanceId":"o1","status":"OUT_OF_SERVICE"}}"#;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn orders() -> Instance {
    Instance::new("orders", ([10, 0, 0, 5], 80).into()).with_id("o1")
}

/// A status and a body; `None`: it says nothing.
type Said = Option<(u16, &'static str)>;

/// A server that answers each request line by the closure, and keeps what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Said + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/eureka", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let log = asked.clone();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, answer.clone(), log.clone()));
            }
        });
        Self {
            url,
            asked,
            _task: task,
        }
    }

    /// The request lines since the last call, each with the user it came with.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.asked))
    }
}

async fn serve(mut stream: TcpStream, answer: impl Fn(&str) -> Said, log: Arc<Mutex<Vec<String>>>) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let header = |name: &str| {
            let line = head.lines().find(|line| line.starts_with(name))?;
            Some(line[name.len()..].trim_start_matches(": ").to_owned())
        };
        assert_eq!(header("accept").unwrap(), "application/json");
        let length = header("content-length").map_or(0, |length| length.parse().unwrap());
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        let line = head.split(" HTTP/1.1").next().unwrap();
        let line = line.replace(" /eureka/apps/ORDERS", " ");
        let said = answer(&line);
        let user = header("authorization").map_or(String::new(), |user| format!(" as {user}"));
        lock(&log).push(line + &user);
        let Some((status, body)) = said else {
            continue;
        };
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// Everything goes well, and the instance is not there.
fn well(line: &str) -> Said {
    match line.split(' ').next() {
        Some("POST") => Some((204, "")),
        Some("GET") => Some((404, "")),
        _ => Some((200, "")),
    }
}

fn eureka(servers: &[&Server]) -> Eureka {
    Eureka::new(servers.iter().map(|server| &server.url)).unwrap()
}

async fn registered(eureka: &Eureka) -> Box<dyn Registration> {
    eureka.register(&orders(), soon()).await.unwrap()
}

#[tokio::test]
async fn an_instance_comes_stays_and_goes() {
    let server = Server::start(well).await;
    let eureka = eureka(&[&server]).with_ttl(Duration::from_secs(6));
    let mut entry = registered(&eureka).await;
    assert_eq!(server.asked(), ["POST ", "DELETE /o1/status?value=UP"]);
    // Twice the lease and an eviction.
    let listed_for = Duration::from_secs(2 * 6 + 60);
    assert_eq!(entry.listed_for(), Some(listed_for));
    let next = Duration::from_secs(2);
    let beat = entry.heartbeat(soon()).await.unwrap();
    assert_eq!(beat, Beat::Alive { next, listed_for });
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    assert_eq!(
        server.asked(),
        ["PUT /o1?status=UP", "DELETE /o1", "GET /o1"]
    );
}

#[tokio::test]
async fn an_overridden_status_is_cleared_at_the_start_and_left_to_operators_later() {
    let server = Server::start(well).await;
    let eureka = eureka(&[&server]);
    let _first = registered(&eureka).await;
    let _again = registered(&eureka).await;
    let asked = server.asked();
    assert_eq!(asked, ["POST ", "DELETE /o1/status?value=UP", "POST "]);
}

/// It is registered by then: without an entry nobody would deregister it.
#[tokio::test]
async fn a_status_that_could_not_be_cleared_is_tried_again_by_the_heartbeats_of_a_registered_instance()
 {
    let failures = Arc::new(AtomicUsize::new(2));
    let server = Server::start(move |line| {
        let step = |left: usize| left.checked_sub(1);
        let fails = line.contains("/status")
            && failures
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
                .is_ok();
        if fails { Some((500, "")) } else { well(line) }
    })
    .await;
    let eureka = eureka(&[&server]);
    let mut entry = registered(&eureka).await;
    let clearing = "DELETE /o1/status?value=UP";
    assert_eq!(server.asked(), ["POST ", clearing]);
    // Not cleared: the next one is sooner. Cleared then, and not a second time.
    for (next, asked) in [
        (5, &["PUT /o1?status=UP", clearing][..]),
        (30, &["PUT /o1?status=UP", clearing]),
        (30, &["PUT /o1?status=UP"]),
    ] {
        let beat = entry.heartbeat(soon()).await.unwrap();
        let Beat::Alive { next: told, .. } = beat else {
            panic!("{beat:?}");
        };
        assert_eq!(told, Duration::from_secs(next));
        assert_eq!(server.asked(), asked);
    }
    let _again = registered(&eureka).await;
    assert_eq!(server.asked(), ["POST "]);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
}

#[tokio::test]
async fn an_instance_whose_status_could_not_be_cleared_is_deregistered_all_the_same() {
    let server = Server::start(|line| match line.contains("/status") {
        true => Some((500, "")),
        false => well(line),
    });
    let server = server.await;
    let mut entry = registered(&eureka(&[&server])).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    let asked = server.asked();
    assert_eq!(asked, ["POST ", "DELETE /o1/status?value=UP", "DELETE /o1"]);
}

#[tokio::test]
async fn a_server_that_cannot_clear_a_status_gets_the_instance_all_the_same() {
    let server = Server::start(|line| match line.contains("/status") {
        true => Some((405, "")),
        false => well(line),
    });
    let server = server.await;
    let _entry = registered(&eureka(&[&server])).await;
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    for (status, hint) in [
        (404, "is Eureka's path in the URL"),
        (405, "is Eureka's path in the URL"),
        (401, "asks for a user"),
        (403, "CSRF"),
        (400, "400 Bad Request"),
    ] {
        let server = Server::start(move |_| Some((status, ""))).await;
        let refused = eureka(&[&server]).register(&orders(), soon()).await;
        let error = refused.map(drop).unwrap_err();
        assert!(!error.is_unknown(), "{error}");
        let message = error.to_string();
        assert!(
            message.contains("/eureka/apps/ORDERS answered"),
            "{message}"
        );
        assert!(message.contains(hint), "{message}");
    }
}

#[tokio::test]
async fn names_that_no_server_takes_are_refused() {
    let server = Server::start(well).await;
    for (service, id) in [("a/b", "o1"), ("orders", "a\\b"), ("", "o1")] {
        let odd = Instance::new(service, orders().address()).with_id(id);
        let refused = eureka(&[&server]).register(&odd, soon()).await;
        let message = refused.map(drop).unwrap_err().to_string();
        assert!(message.contains("cannot be a name in Eureka"), "{message}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn a_forgotten_instance_is_lost_and_one_that_left_is_already_gone() {
    let server = Server::start(|line| match line.split(' ').next() {
        Some("POST") => Some((204, "")),
        _ => Some((404, "")),
    });
    let server = server.await;
    let mut entry = registered(&eureka(&[&server])).await;
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
}

#[tokio::test]
async fn out_of_service_comes_before_the_deletion_and_once() {
    let server = Server::start(well).await;
    let eureka = eureka(&[&server]).with_out_of_service_first();
    let mut entry = registered(&eureka).await;
    server.asked();
    entry.deregister(soon()).await.unwrap();
    entry.deregister(soon()).await.unwrap();
    let asked = server.asked();
    let expected = ["PUT /o1/status?value=OUT_OF_SERVICE", "DELETE /o1"];
    assert_eq!(asked[..2], expected);
    assert!(
        asked[2..].iter().all(|line| line == "DELETE /o1"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_status_that_is_not_answered_leaves_time_for_the_deletion() {
    let server = Server::start(|line| match line.contains("OUT_OF_SERVICE") {
        true => None,
        false => well(line),
    });
    let server = server.await;
    let mut entry = registered(&eureka(&[&server]).with_out_of_service_first()).await;
    // It waits for half of this.
    let by = Deadline::after(Duration::from_secs(10));
    assert_eq!(entry.deregister(by).await.unwrap(), Gone::Removed);
}

/// Until it leaves, what clients are given counts; then that nothing is left of it.
#[tokio::test]
async fn an_instance_out_of_service_is_not_listed_but_not_gone_either() {
    let server = Server::start(|line| match line.starts_with("GET") {
        true => Some((200, OUT)),
        false => well(line),
    });
    let server = server.await;
    let mut entry = registered(&eureka(&[&server])).await;
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    entry.deregister(soon()).await.unwrap();
    let by = Deadline::after(Duration::from_secs(8));
    assert_eq!(entry.is_listed(by).await.unwrap(), Some(true));
}

/// A peer that lists the instance until it was asked this often, or is told itself.
fn late(times: usize) -> impl Fn(&str) -> Said + Clone + Send + Sync + 'static {
    let left = Arc::new(AtomicUsize::new(times));
    move |line| match line.split(' ').next() {
        Some("GET") => {
            let step = |left: usize| left.checked_sub(1);
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step) {
                Ok(_) => Some((200, UP)),
                Err(_) => Some((404, "")),
            }
        }
        Some("DELETE") => {
            left.store(0, Ordering::SeqCst);
            Some((200, ""))
        }
        _ => well(line),
    }
}

#[tokio::test]
async fn other_servers_are_given_the_time_to_hear_of_it() {
    let (server, peer) = (Server::start(well).await, Server::start(late(3)).await);
    let mut entry = registered(&eureka(&[&server, &peer])).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    assert_eq!(peer.asked(), ["GET /o1"; 4]);
}

#[tokio::test]
async fn a_server_that_does_not_hear_of_it_is_told_itself() {
    let peer = Server::start(late(usize::MAX)).await;
    let deletions = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |line| match line {
        // It was there once.
        "DELETE /o1" if deletions.fetch_add(1, Ordering::SeqCst) > 0 => Some((404, "")),
        _ => well(line),
    });
    let server = server.await;
    let mut entry = registered(&eureka(&[&server, &peer])).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    let by = Deadline::after(Duration::from_secs(8));
    assert_eq!(entry.is_listed(by).await.unwrap(), Some(true));
    assert!(!peer.asked().contains(&"DELETE /o1".to_owned()));
    // It was removed by us, and is now removed there, too.
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert!(peer.asked().contains(&"DELETE /o1".to_owned()));
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
}

/// The one that is asked after the first one failed has just come up, and knows nothing.
#[tokio::test]
async fn a_server_that_lists_it_is_told_where_the_one_that_was_asked_never_knew_it() {
    let deleted = Arc::new(AtomicUsize::new(0));
    let lists = Server::start(move |line| match line {
        "DELETE /o1" if deleted.fetch_add(1, Ordering::SeqCst) == 0 => Some((500, "")),
        "GET /o1" if deleted.load(Ordering::SeqCst) < 2 => Some((200, UP)),
        _ => well(line),
    });
    let lists = lists.await;
    let knows_nothing = Server::start(|_| Some((404, ""))).await;
    let mut entry = registered(&eureka(&[&lists, &knows_nothing])).await;
    let error = entry.deregister(soon()).await.unwrap_err();
    assert!(!error.is_unknown(), "{error}");
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    let by = Deadline::after(Duration::from_secs(8));
    assert_eq!(entry.is_listed(by).await.unwrap(), Some(true));
    lists.asked();
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(lists.asked(), ["DELETE /o1"]);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
}

/// It would hand the heartbeat on when it wakes, get a 404, and register the instance where it was deleted.
#[tokio::test]
async fn a_server_that_may_still_have_a_heartbeat_is_waited_for() {
    let is_frozen = Arc::new(AtomicBool::new(false));
    let frozen = is_frozen.clone();
    let one = Server::start(move |line| match frozen.load(Ordering::SeqCst) {
        true => None,
        false => well(line),
    });
    let (one, other) = (one.await, Server::start(well).await);
    let mut entry = registered(&eureka(&[&one, &other])).await;
    is_frozen.store(true, Ordering::SeqCst);
    let by = || Deadline::after(Duration::from_secs(4));
    let missed = entry.heartbeat(by()).await.unwrap_err();
    assert!(missed.is_unknown(), "{missed}");
    let error = entry.deregister(by()).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    assert!(error.to_string().contains(&one.url), "{error}");
    assert_eq!(other.asked(), ["DELETE /o1", "GET /o1"]);
    assert_eq!(entry.is_listed(by()).await.unwrap(), None);
    is_frozen.store(false, Ordering::SeqCst);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
}

#[tokio::test]
async fn every_server_gets_its_own_user_and_no_others() {
    let (one, two) = (Server::start(well).await, Server::start(well).await);
    let three = Server::start(well).await;
    let url = |server: &Server, user: &str| server.url.replace("//", &format!("//{user}@"));
    let urls = [url(&one, "a:1"), url(&two, "b:2"), three.url.clone()];
    let mut entry = registered(&Eureka::new(urls).unwrap()).await;
    entry.deregister(soon()).await.unwrap();
    entry.is_listed(soon()).await.unwrap();
    let one = one.asked();
    assert!(!one.is_empty());
    assert!(
        one.iter().all(|line| line.ends_with(" as Basic YTox")),
        "{one:?}"
    );
    assert_eq!(two.asked(), ["GET /o1 as Basic Yjoy"]);
    assert_eq!(three.asked(), ["GET /o1"]);
}

#[test]
fn the_visibility_is_the_sum_of_the_caches() {
    let eureka = || Eureka::new(["http://eureka/eureka"]).unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(eureka().visibility(), seconds(65));
    let ribbon = eureka().with_load_balancer_cache(seconds(30));
    assert_eq!(ribbon.visibility(), seconds(95));
    assert_eq!(
        eureka().with_visibility(seconds(9)).visibility(),
        seconds(9)
    );
}
