//! The adapter against gateways written out call by call: what is sent, and what becomes of every answer. Against the
//! real server: `tests/conformance`.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::registry::{Beat, Gone};

const PASSWORD: &str = "hush-hush";
const GRANTED: &str = r#"{"ID":"1","TTL":"7"}"#;
const PUT: &str = r#"{"header":{"revision":"2"}}"#;
const REVOKED: &str = r#"{"header":{"revision":"3"}}"#;
const NO_LEASE: &str = r#"{"error":"etcdserver: requested lease not found","code":5}"#;
const BAD_TOKEN: &str = r#"{"error":"etcdserver: invalid auth token","message":"etcdserver: invalid auth token","code":16}"#;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn orders() -> Instance {
    Instance::new("orders", ([10, 0, 0, 5], 80).into()).with_id("o1")
}

/// What a gateway was asked.
#[derive(Debug)]
struct Asked {
    path: String,
    token: Option<String>,
    body: serde_json::Value,
}

enum Then {
    Answer(u16, &'static str),
    /// Closes the connection without one.
    Close,
}

use Then::{Answer, Close};

/// A gateway that answers like this, one call after the other, and then tells what it was asked.
async fn gateway(script: impl IntoIterator<Item = Then>) -> (String, JoinHandle<Vec<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let script: Vec<_> = script.into_iter().collect();
    let task = tokio::spawn(async move {
        let mut calls = Vec::new();
        let mut open = None;
        for then in script {
            let (mut stream, asked) = loop {
                let mut stream = match open.take() {
                    Some(stream) => stream,
                    None => listener.accept().await.unwrap().0,
                };
                // The client may have closed it, to ask on another.
                if let Some(asked) = read(&mut stream).await {
                    break (stream, asked);
                }
            };
            calls.push(asked);
            if let Answer(status, body) = then {
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                open = Some(stream);
            }
        }
        calls
    });
    (url, task)
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        let line = head.lines().find(|l| l.starts_with(name))?;
        Some(line[name.len()..].trim_start_matches(": ").to_owned())
    };
    let mut body = vec![0; header("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    let path = head.strip_prefix("POST ").unwrap().split(' ').next();
    Some(Asked {
        path: path.unwrap().to_owned(),
        token: header("authorization"),
        body: serde_json::from_slice(&body).unwrap(),
    })
}

fn paths(calls: &[Asked]) -> Vec<&str> {
    calls.iter().map(|call| &*call.path).collect()
}

async fn registered(etcd: &Etcd) -> Box<dyn Registration> {
    etcd.register(&orders(), soon()).await.unwrap()
}

#[tokio::test]
async fn a_registration_is_a_lease_of_our_own_choice_and_a_key_on_it() {
    let alive = r#"{"result":{"ID":"1","TTL":"7"}}"#;
    let listed = r#"{"kvs":[{"key":"b3JkZXJzLzEwLjAuMC41Ojgw","lease":"1"}],"count":"1"}"#;
    let script = [
        Answer(200, GRANTED),
        Answer(200, PUT),
        Answer(200, alive),
        Answer(200, listed),
        Answer(200, REVOKED),
    ];
    let (url, task) = gateway(script).await;
    let etcd = Etcd::new([url])
        .unwrap()
        .with_ttl(Duration::from_millis(6_001));
    let mut entry = registered(&etcd).await;
    // The server grants what it likes, and that counts.
    let beat = Beat::Alive {
        next: Duration::from_secs(7) / 3,
        listed_for: Duration::from_secs(8),
    };
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), beat);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);

    let calls = task.await.unwrap();
    let lease = etcd.lease_of(&orders());
    assert!(lease > 0);
    let lease = lease.to_string();
    let sent: Vec<_> = calls
        .iter()
        .map(|call| (&*call.path, call.body.clone()))
        .collect();
    let key = "b3JkZXJzLzEwLjAuMC41Ojgw";
    let value = "eyJPcCI6MCwiQWRkciI6IjEwLjAuMC41OjgwIiwiTWV0YWRhdGEiOm51bGx9";
    assert_eq!(
        sent,
        [
            (
                "/v3/lease/grant",
                serde_json::json!({"ID": lease, "TTL": "7"})
            ),
            (
                "/v3/kv/put",
                serde_json::json!({"key": key, "value": value, "lease": lease})
            ),
            ("/v3/lease/keepalive", serde_json::json!({"ID": lease})),
            (
                "/v3/kv/range",
                serde_json::json!({"key": key, "keys_only": true})
            ),
            ("/v3/lease/revoke", serde_json::json!({"ID": lease})),
        ]
    );
    assert!(calls.iter().all(|call| call.token.is_none()));
}

#[test]
fn the_lease_is_the_same_at_each_attempt_and_another_for_everybody_else() {
    let etcd = || Etcd::new(["http://a"]).unwrap();
    let (one, other) = (etcd(), etcd());
    assert_eq!(one.lease_of(&orders()), one.lease_of(&orders()));
    assert_ne!(
        one.lease_of(&orders()),
        one.lease_of(&orders().with_id("o2"))
    );
    // A process that starts at the same address under the same id.
    assert_ne!(one.lease_of(&orders()), other.lease_of(&orders()));
}

#[tokio::test]
async fn an_attempt_whose_answer_was_lost_is_repeated_on_the_same_lease() {
    let exists = r#"{"error":"etcdserver: lease already exists","code":9}"#;
    let alive = r#"{"result":{"ID":"1","TTL":"15"}}"#;
    let script = [
        Answer(200, GRANTED),
        Answer(503, "busy"),
        Answer(412, exists),
        Answer(200, alive),
        Answer(200, PUT),
    ];
    let (url, task) = gateway(script).await;
    let etcd = Etcd::new([url]).unwrap();
    etcd.register(&orders(), soon())
        .await
        .map(|_| ())
        .unwrap_err();
    registered(&etcd).await;
    let calls = task.await.unwrap();
    let expected = [
        "lease/grant",
        "kv/put",
        "lease/grant",
        "lease/keepalive",
        "kv/put",
    ];
    assert_eq!(paths(&calls), expected.map(|path| format!("/v3/{path}")));
    assert_eq!(calls[0].body, calls[2].body);
}

#[tokio::test]
async fn a_revoke_whose_answer_was_lost_is_asked_again_and_not_found_is_success() {
    let (url, task) = gateway([
        Answer(200, GRANTED),
        Answer(200, PUT),
        Close,
        Answer(404, NO_LEASE),
    ])
    .await;
    let etcd = Etcd::new([url]).unwrap();
    let mut entry = registered(&etcd).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    assert_eq!(paths(&task.await.unwrap())[2..], ["/v3/lease/revoke"; 2]);
}

#[tokio::test]
async fn not_found_by_something_else_is_not_success() {
    for page in [
        "<html>nothing here</html>",
        "Not Found\n",
        "{}",
        r#"{"code":"5"}"#,
    ] {
        let (url, task) =
            gateway([Answer(200, GRANTED), Answer(200, PUT), Answer(404, page)]).await;
        let mut entry = registered(&Etcd::new([url]).unwrap()).await;
        let error = entry.deregister(soon()).await.unwrap_err().to_string();
        assert!(
            error.contains("/v3/lease/revoke answered 404 Not Found"),
            "{error}"
        );
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_or_a_key_that_is_gone_is_lost_and_a_successors_key_is_left_alone() {
    // As 3.4 says it, as a status behind a 200, and as a status.
    let wrapped = r#"{"error":{"grpc_code":5,"http_code":404,"message":"no"}}"#;
    for (status, gone) in [
        (200, r#"{"result":{"ID":"1"}}"#),
        (200, wrapped),
        (404, NO_LEASE),
    ] {
        let (url, task) =
            gateway([Answer(200, GRANTED), Answer(200, PUT), Answer(status, gone)]).await;
        let mut entry = registered(&Etcd::new([url]).unwrap()).await;
        assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
        task.await.unwrap();
    }
    let alive = r#"{"result":{"ID":"1","TTL":"15"}}"#;
    let denied = r#"{"error":"etcdserver: permission denied","code":7}"#;
    for (status, range, is_alive, listed) in [
        (200, r#"{"count":"0"}"#, false, Some(false)),
        (200, r#"{"kvs":[{"lease":"1"}]}"#, true, Some(false)),
        (403, denied, true, None),
    ] {
        let (url, task) = gateway([
            Answer(200, GRANTED),
            Answer(200, PUT),
            Answer(200, alive),
            Answer(status, range),
            Answer(status, range),
        ])
        .await;
        let mut entry = registered(&Etcd::new([url]).unwrap()).await;
        let beat = entry.heartbeat(soon()).await.unwrap();
        assert_eq!(beat != Beat::Lost, is_alive, "{range}");
        assert_eq!(entry.is_listed(soon()).await.unwrap(), listed, "{range}");
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_when_it_is_refused_and_shown_nowhere() {
    let (first, second) = (
        r#"{"token":"tell-nobody.1"}"#,
        r#"{"token":"tell-nobody.2"}"#,
    );
    let (url, task) = gateway([
        Answer(200, first),
        Answer(200, GRANTED),
        Answer(200, PUT),
        Answer(401, BAD_TOKEN),
        Answer(200, second),
        Answer(200, REVOKED),
        Answer(401, BAD_TOKEN),
        Answer(200, second),
        Answer(401, BAD_TOKEN),
    ])
    .await;
    let etcd = Etcd::new([url]).unwrap().with_user("svc", PASSWORD);
    let mut entry = registered(&etcd).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    // Refused again at once: that is the answer.
    let error = entry.deregister(soon()).await.unwrap_err();
    let shown = format!("{error} {error:?} {etcd:?} {etcd:#?}");
    assert!(
        shown.contains("svc") && shown.contains("invalid auth token"),
        "{shown}"
    );
    assert!(
        !shown.contains(PASSWORD) && !shown.contains("tell-nobody"),
        "{shown}"
    );

    let calls = task.await.unwrap();
    assert_eq!(
        calls[0].body,
        serde_json::json!({"name": "svc", "password": PASSWORD})
    );
    let tokens: Vec<_> = calls.iter().map(|call| call.token.as_deref()).collect();
    let (one, two) = (Some("tell-nobody.1"), Some("tell-nobody.2"));
    assert_eq!(tokens, [None, one, one, one, None, two, two, None, two]);
}

#[tokio::test]
async fn a_cluster_that_timed_out_may_have_heard_it() {
    let timed_out = r#"{"error":"etcdserver: request timed out","code":14}"#;
    let (url, task) = gateway([
        Answer(200, GRANTED),
        Answer(200, PUT),
        Answer(503, timed_out),
        Answer(403, r#"{"error":"etcdserver: permission denied","code":7}"#),
    ])
    .await;
    let mut entry = registered(&Etcd::new([url]).unwrap()).await;
    assert!(entry.deregister(soon()).await.unwrap_err().is_unknown());
    assert!(!entry.deregister(soon()).await.unwrap_err().is_unknown());
    task.await.unwrap();
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let no_user = r#"{"error":"x","message":"etcdserver: user name is empty","code":3}"#;
    let denied = r#"{"error":"x","message":"etcdserver: permission denied","code":7}"#;
    for (status, body, hint) in [
        (400, no_user, "see Etcd::with_user"),
        (403, denied, "needs readwrite on the key"),
        (
            404,
            "404 page not found",
            "is that a member of etcd 3.4 or later",
        ),
    ] {
        let (url, task) = gateway([Answer(200, GRANTED), Answer(status, body)]).await;
        let etcd = Etcd::new([url]).unwrap();
        let error = etcd
            .register(&orders(), soon())
            .await
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains(hint), "{error}");
        task.await.unwrap();
    }
}

#[tokio::test]
async fn where_authentication_is_off_the_user_is_not_used() {
    let off = r#"{"error":"etcdserver: authentication is not enabled","code":9}"#;
    let (url, task) = gateway([Answer(412, off), Answer(200, GRANTED), Answer(200, PUT)]).await;
    let etcd = Etcd::new([url]).unwrap().with_user("svc", PASSWORD);
    registered(&etcd).await;
    assert!(task.await.unwrap().iter().all(|call| call.token.is_none()));
}

#[tokio::test]
async fn a_frozen_member_is_not_asked_first_again() {
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frozen_url = format!("http://{}", frozen.local_addr().unwrap());
    let (url, task) = gateway([Answer(200, GRANTED), Answer(200, PUT)]).await;
    let etcd = Etcd::new([frozen_url, url]).unwrap();
    let short = Deadline::after(Duration::from_millis(200));
    let error = etcd
        .register(&orders(), short)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
    registered(&etcd).await;
    task.await.unwrap();
}
