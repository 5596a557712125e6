//! The adapter against servers written out call by call: what is sent, and what becomes of every answer. Against the real
//! server: `tests/conformance`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::registry::{Beat, Gone};

const OK: Then = Answer(200, r#"{"code":0,"message":"success","data":"ok"}"#);
const OK_V1: Then = Answer(200, "ok");
const UNKNOWN: Then = Answer(
    200,
    r#"{"code":21003,"message":"instance not found","data":null}"#,
);
const BEATEN_V1: Then = Answer(
    200,
    r#"{"clientBeatInterval":5000,"code":10200,"lightBeatEnabled":true}"#,
);
const NOBODY: Then = Answer(200, r#"{"code":0,"message":"success","data":[]}"#);
const NOBODY_V1: Then = Answer(200, r#"{"name":"DEFAULT_GROUP@@orders","hosts":[]}"#);
const OURS: Then = Answer(
    200,
    r#"{"code":0,"data":[{"ip":"10.0.0.6","port":80,"clusterName":"DEFAULT","metadata":{"prestop.id":"o2"}},
        {"ip":"10.0.0.5","port":80,"clusterName":"DEFAULT","metadata":{"prestop.id":"o1"}}]}"#,
);
const OURS_V1: Then = Answer(
    200,
    r#"{"hosts":[{"ip":"10.0.0.5","port":80,"metadata":{"prestop.id":"o1"}}]}"#,
);
const ANOTHERS: Then = Answer(
    200,
    r#"{"code":0,"data":[{"ip":"10.0.0.5","port":80,"clusterName":"DEFAULT","metadata":{"prestop.id":"o2"}}]}"#,
);
const NO_SUCH_PATH: Then = Answer(
    404,
    r#"{"timestamp":"now","status":404,"error":"Not Found","path":"/nacos/v3"}"#,
);
const DENIED: Then = Answer(
    403,
    r#"{"code":403,"message":"token invalid!","data":null}"#,
);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn orders() -> Instance {
    Instance::new("orders", ([10, 0, 0, 5], 80).into()).with_id("o1")
}

/// What a server was asked: `POST /nacos/v3/client/ns/instance`, and the fields of query and body.
#[derive(Debug)]
struct Asked {
    what: String,
    token: Option<String>,
    fields: BTreeMap<String, String>,
}

#[derive(Clone, Copy)]
enum Then {
    Answer(u16, &'static str),
    /// Closes the connection without one, however often that is asked again.
    Close,
}

use Then::{Answer, Close};

/// A server that answers like this, one call after the other, and then tells what it was asked.
async fn server(script: impl IntoIterator<Item = Then>) -> (String, JoinHandle<Vec<Asked>>) {
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
        let line = head.lines().find(|line| line.starts_with(name))?;
        Some(line[name.len()..].trim_start_matches(": ").to_owned())
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1");
    let (what, query) = line.split_once('?').unwrap_or((line, ""));
    let body = String::from_utf8(body).unwrap();
    let fields = query.split('&').chain(body.split('&'));
    let decoded = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text);
        decoded.decode_utf8().unwrap().into_owned()
    };
    Some(Asked {
        what: what.to_owned(),
        token: header("authorization"),
        fields: fields
            .filter_map(|field| field.split_once('='))
            .map(|(key, value)| (decoded(key), decoded(value)))
            .collect(),
    })
}

/// A server of many connections that answers so.
async fn serving(
    calls: Arc<Mutex<Vec<Asked>>>,
    answer: impl Fn(&Asked) -> Then + Copy + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let calls = calls.clone();
            tokio::spawn(async move {
                while let Some(asked) = read(&mut stream).await {
                    let then = answer(&asked);
                    calls.lock().unwrap().push(asked);
                    let Answer(status, body) = then else {
                        return;
                    };
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    url
}

fn is_for(service: &str, asked: &Asked) -> bool {
    asked.fields["serviceName"].contains(service)
}

fn asked(calls: &[Asked]) -> Vec<&str> {
    calls.iter().map(|call| &*call.what).collect()
}

/// What both answers and what they lead to is the same in both: the calls of one life.
const V3: [&str; 5] = [
    "POST /nacos/v3/client/ns/instance",
    "POST /nacos/v3/client/ns/instance",
    "GET /nacos/v3/client/ns/instance/list",
    "DELETE /nacos/v3/client/ns/instance",
    // Read back.
    "POST /nacos/v3/client/ns/instance",
];

const V1: [&str; 5] = [
    "POST /nacos/v1/ns/instance",
    "PUT /nacos/v1/ns/instance/beat",
    "GET /nacos/v1/ns/instance/list",
    "DELETE /nacos/v1/ns/instance",
    "GET /nacos/v1/ns/instance/list",
];

async fn registered(nacos: &Nacos) -> Box<dyn Registration> {
    nacos.register(&orders(), soon()).await.unwrap()
}

async fn lives_and_leaves(nacos: &Nacos) {
    let mut entry = registered(nacos).await;
    let beat = Beat::Alive {
        next: Duration::from_secs(1),
        listed_for: Duration::from_secs(35),
    };
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), beat);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    // S6: nothing is sent any more.
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
}

#[tokio::test]
async fn v3_names_group_and_namespace_apart() {
    let (url, task) = server([OK, OK, OURS, OK, UNKNOWN]).await;
    let nacos = Nacos::new([url]).unwrap().with_namespace("staging");
    lives_and_leaves(&nacos.with_weight(0.5)).await;
    let calls = task.await.unwrap();
    assert_eq!(asked(&calls), V3);
    let field = |call: usize, name: &str| calls[call].fields.get(name).map(String::as_str);
    for call in 0..5 {
        assert_eq!(field(call, "serviceName"), Some("orders"));
        assert_eq!(field(call, "groupName"), Some("DEFAULT_GROUP"));
        assert_eq!(field(call, "namespaceId"), Some("staging"));
        assert_eq!(field(call, "clusterName"), Some("DEFAULT"));
    }
    for call in [0, 1, 3, 4] {
        assert_eq!(field(call, "ip"), Some("10.0.0.5"));
        assert_eq!(field(call, "port"), Some("80"));
        assert_eq!(field(call, "ephemeral"), Some("true"));
    }
    assert_eq!(field(0, "weight"), Some("0.5"));
    assert_eq!(field(0, "enabled"), Some("true"));
    assert_eq!(field(0, "metadata"), Some(r#"{"prestop.id":"o1"}"#));
    let heart_beat: Vec<_> = (0..5).map(|call| field(call, "heartBeat")).collect();
    assert_eq!(heart_beat, [None, Some("true"), None, None, Some("true")]);
}

#[tokio::test]
async fn v1_is_spoken_where_v3_is_not_known_and_from_then_on() {
    let by_nacos_2 = [
        NO_SUCH_PATH,
        Answer(404, "Not Found"),
        Answer(405, ""),
        Answer(501, "Unsupported method"),
        Answer(500, "caused: Request method 'POST' not supported;"),
        Answer(
            500,
            r#"{"code":500,"message":"caused: No static resource nacos/v3/client/ns/instance.; "}"#,
        ),
    ];
    for refusal in by_nacos_2 {
        let script = [refusal, OK_V1, BEATEN_V1, OURS_V1, OK_V1, NOBODY_V1];
        let (url, task) = server(script).await;
        lives_and_leaves(&Nacos::new([url]).unwrap()).await;
        let calls = task.await.unwrap();
        assert_eq!(asked(&calls)[0], V3[0]);
        assert_eq!(asked(&calls)[1..], V1);
        let field = |call: usize, name: &str| calls[call].fields.get(name).map(String::as_str);
        for call in 1..6 {
            assert_eq!(field(call, "serviceName"), Some("DEFAULT_GROUP@@orders"));
            assert_eq!(field(call, "namespaceId"), Some("public"));
        }
        // Light: from this no server makes an instance.
        assert_eq!(field(2, "beat"), None);
        assert_eq!(field(2, "ip"), Some("10.0.0.5"));
        assert_eq!(field(3, "clusters"), Some("DEFAULT"));
    }
}

#[tokio::test]
async fn v3_is_spoken_again_where_v1_was_switched_off_meanwhile() {
    let gone = Answer(
        410,
        r#"{"code":30006,"message":"Current API will be deprecated"}"#,
    );
    let script = [NO_SUCH_PATH, OK_V1, gone, UNKNOWN, OK];
    let (url, task) = server(script).await;
    let nacos = Nacos::new([url]).unwrap();
    let mut entry = registered(&nacos).await;
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    registered(&nacos).await;
    let calls = task.await.unwrap();
    assert_eq!(asked(&calls), [V3[0], V1[0], V1[1], V3[1], V3[0]]);
}

#[tokio::test]
async fn one_api_by_hand_is_the_only_one() {
    for (api, path) in [(NacosApi::V1, V1[0]), (NacosApi::V3, V3[0])] {
        let (url, task) = server([NO_SUCH_PATH]).await;
        let nacos = Nacos::new([url]).unwrap().with_api(api);
        let error = nacos.register(&orders(), soon()).await.err().unwrap();
        let error = error.to_string();
        assert!(
            error.contains("with_api") && error.contains("context path"),
            "{error}"
        );
        assert_eq!(asked(&task.await.unwrap()), [path]);
    }
}

#[tokio::test]
async fn what_is_no_nacos_is_said_with_both_answers() {
    let (url, task) = server([NO_SUCH_PATH, Answer(404, "no")]).await;
    let nacos = Nacos::new([format!("{url}/base")]).unwrap();
    let error = nacos.register(&orders(), soon()).await.err().unwrap();
    let error = error.to_string();
    for part in [
        "/base/v3/client/ns/instance answered 404",
        "/base/v1/ns/instance answered 404",
        "context path",
    ] {
        assert!(error.contains(part), "{error}");
    }
    task.await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_that_nacos_does_not_know_is_lost_in_either_api() {
    let unknown_v1 = Answer(200, r#"{"clientBeatInterval":5000,"code":20404}"#);
    for (api, script) in [
        (NacosApi::V3, [OK, UNKNOWN]),
        (NacosApi::V1, [OK_V1, unknown_v1]),
    ] {
        let (url, task) = server(script).await;
        let nacos = Nacos::new([url]).unwrap().with_api(api);
        let mut entry = registered(&nacos).await;
        assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_number_other_than_zero_is_no_success() {
    let refused = Answer(
        200,
        r#"{"code":21000,"message":"weight error","data":null}"#,
    );
    let (url, task) = server([refused]).await;
    let nacos = Nacos::new([url]).unwrap();
    let error = nacos.register(&orders(), soon()).await.err().unwrap();
    assert!(error.to_string().contains("weight error"), "{error}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_successor_at_the_same_address_is_left_alone() {
    let (url, task) = server([OK, ANOTHERS, ANOTHERS]).await;
    let nacos = Nacos::new([url]).unwrap().with_disable_first();
    let mut entry = registered(&nacos).await;
    // Neither disabled, which is one look, nor removed, which is another.
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    assert_eq!(asked(&task.await.unwrap()), [V3[0], V3[2], V3[2]]);
}

#[tokio::test]
async fn a_leaving_instance_is_disabled_first_where_that_is_wanted() {
    let (url, task) = server([OK, OURS, OK, NOBODY, OK]).await;
    let nacos = Nacos::new([url]).unwrap().with_disable_first();
    let mut entry = registered(&nacos).await;
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    let calls = task.await.unwrap();
    assert_eq!(asked(&calls), [V3[0], V3[2], V3[0], V3[2], V3[3]]);
    assert_eq!(calls[2].fields["enabled"], "false");
    assert_eq!(calls[2].fields["metadata"], r#"{"prestop.id":"o1"}"#);
}

/// rnacos takes the light one for the whole.
#[tokio::test]
async fn a_heartbeat_of_v1_that_was_never_answered_is_looked_for_after_the_removal() {
    // Asked twice, on another connection, since that does no harm.
    let script = [
        OK_V1, Close, Close, OURS_V1, OK_V1, OURS_V1, OURS_V1, OK_V1, NOBODY_V1,
    ];
    let (url, task) = server(script).await;
    let nacos = Nacos::new([url]).unwrap().with_api(NacosApi::V1);
    let mut entry = registered(&nacos).await;
    entry.heartbeat(soon()).await.unwrap_err();
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    let (list, remove) = (V1[2], V1[3]);
    let expected = [V1[0], V1[1], V1[1], list, remove, list, list, remove, list];
    assert_eq!(asked(&task.await.unwrap()), expected);
}

#[tokio::test]
async fn what_is_there_again_after_the_removal_is_listed_unless_it_is_a_successor() {
    let (url, task) = server([OK, OURS, OK, OK, OURS, OURS, OK, OK, ANOTHERS]).await;
    let nacos = Nacos::new([url]).unwrap();
    let mut entry = registered(&nacos).await;
    for listed in [true, false] {
        entry.deregister(soon()).await.unwrap();
        assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(listed));
    }
    task.await.unwrap();
}

#[tokio::test]
async fn the_list_of_v1_is_read_until_it_has_caught_up() {
    let (url, task) = server([OK_V1, OURS_V1, OK_V1, OURS_V1, OURS_V1, NOBODY_V1]).await;
    let nacos = Nacos::new([url]).unwrap().with_api(NacosApi::V1);
    let mut entry = registered(&nacos).await;
    entry.deregister(soon()).await.unwrap();
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    task.await.unwrap();

    let (url, task) = server([OK_V1, OURS_V1, OK_V1, OURS_V1]).await;
    let nacos = Nacos::new([url]).unwrap().with_api(NacosApi::V1);
    let mut entry = registered(&nacos).await;
    entry.deregister(soon()).await.unwrap();
    // Not for longer than there is.
    let now = Deadline::after(Duration::from_millis(150));
    let listed = entry.is_listed(now).await;
    assert!(!matches!(listed, Ok(Some(false) | None)), "{listed:?}");
    task.await.unwrap();
}

#[tokio::test]
async fn heartbeats_are_close_together_at_first() {
    let (url, task) = server([OK; 7]).await;
    let mut entry = registered(&Nacos::new([url]).unwrap()).await;
    let mut nexts = Vec::new();
    for _ in 0..6 {
        let Beat::Alive { next, .. } = entry.heartbeat(soon()).await.unwrap() else {
            panic!("it is known");
        };
        nexts.push(next.as_secs());
    }
    assert_eq!(nexts, [1, 1, 1, 1, 1, 5]);
    task.await.unwrap();
}

#[tokio::test]
async fn a_list_that_may_not_be_read_hinders_nothing() {
    let (url, task) = server([OK, DENIED, DENIED, OK, UNKNOWN]).await;
    let nacos = Nacos::new([url]).unwrap();
    let mut entry = registered(&nacos).await;
    assert_eq!(entry.is_listed(soon()).await.unwrap(), None);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    task.await.unwrap();
}

#[tokio::test]
async fn each_service_of_the_format_is_registered_kept_alive_and_left() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let forgets_b = |asked: &Asked| match asked {
        list if list.what.starts_with("GET") => NOBODY,
        beat if beat.fields.contains_key("heartBeat") && is_for("b.B", beat) => UNKNOWN,
        _ => OK,
    };
    let (url, heard) = (serving(calls.clone(), forgets_b).await, calls);
    let services = ["a.A", "b.B"].map(DubboService::new);
    let nacos = Nacos::new([url]).unwrap();
    let nacos = nacos.with_format(ServiceFormat::dubbo(services));
    let mut entry = registered(&nacos).await;
    // One that is not known is enough.
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::AlreadyGone);
    let calls = heard.lock().unwrap();
    let names = |what: &str, heart_beat: bool| {
        let calls = calls.iter().filter(|call| {
            call.what == what && call.fields.contains_key("heartBeat") == heart_beat
        });
        let mut names: Vec<_> = calls.map(|call| &*call.fields["serviceName"]).collect();
        names.sort_unstable();
        names
    };
    let both = ["providers:a.A::", "providers:b.B::"];
    assert_eq!(names(V3[0], false), both);
    assert_eq!(names(V3[0], true), both);
    assert_eq!(names(V3[3], false), both);
    assert_eq!(calls[0].fields["groupName"], "DEFAULT_GROUP");
    let metadata: serde_json::Value = serde_json::from_str(&calls[0].fields["metadata"]).unwrap();
    assert_eq!(metadata["category"], "providers");
    assert_eq!(metadata["application"], "orders");
}

/// Registers in `a.A` and `b.B`, whose servers answer so: the error, and the services that were left again.
async fn half_done(
    answer: impl Fn(&Asked) -> Then + Copy + Send + 'static,
) -> (RegistryError, Vec<String>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let url = serving(calls.clone(), answer).await;
    let services = ["a.A", "b.B"].map(DubboService::new);
    let nacos = Nacos::new([url]).unwrap().with_api(NacosApi::V3);
    let nacos = nacos.with_format(ServiceFormat::dubbo(services));
    let error = nacos.register(&orders(), soon()).await.err().unwrap();
    let calls = calls.lock().unwrap();
    let left = calls.iter().filter(|call| call.what == V3[3]);
    let left = left.map(|call| call.fields["serviceName"].clone());
    (error, left.collect())
}

#[tokio::test]
async fn what_one_service_refuses_leaves_the_others_again() {
    let (error, left) = half_done(|asked| match is_for("b.B", asked) {
        true => Answer(400, "no such metadata"),
        false => OK,
    })
    .await;
    assert!(!error.is_unknown(), "{error}");
    assert!(error.to_string().contains("no such metadata"), "{error}");
    assert_eq!(left, ["providers:a.A::"]);
}

#[tokio::test]
async fn what_could_not_leave_the_others_is_unknown_and_says_so() {
    let (error, left) = half_done(|asked| match is_for("b.B", asked) {
        true => Answer(400, "no such metadata"),
        false if asked.what.starts_with("DELETE") => DENIED,
        false => OK,
    })
    .await;
    assert!(error.is_unknown(), "{error}");
    let error = error.to_string();
    for part in ["no such metadata", "were not left", "token invalid"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(left, ["providers:a.A::"]);
}

/// Whichever comes first in the list.
#[tokio::test]
async fn what_one_service_does_not_answer_is_unknown_although_another_refuses() {
    for unanswered in ["a.A", "b.B"] {
        let (error, left) = half_done(move |asked| match is_for(unanswered, asked) {
            true if asked.what.starts_with("POST") => Close,
            true => OK,
            false => Answer(400, "no such metadata"),
        })
        .await;
        assert!(error.is_unknown(), "{error}");
        // It may have been heard.
        assert_eq!(left, [format!("providers:{unanswered}::")]);
    }
}

#[tokio::test]
async fn times_other_than_nacos_own_are_in_the_metadata() {
    let (url, task) = server([OK, OK]).await;
    let nacos = Nacos::new([url]).unwrap().with_ttl(Duration::from_secs(6));
    let mut entry = registered(&nacos).await;
    let beat = Beat::Alive {
        next: Duration::from_secs(1),
        listed_for: Duration::from_secs(17),
    };
    assert_eq!(entry.heartbeat(soon()).await.unwrap(), beat);
    let expected = r#"{"preserved.heart.beat.interval":"2000","preserved.heart.beat.timeout":"6000","preserved.ip.delete.timeout":"12000","prestop.id":"o1"}"#;
    assert_eq!(task.await.unwrap()[0].fields["metadata"], expected);
}

/// What becomes of the heartbeats of a persistent instance whose list is like this, one after the other: how many seconds
/// until the next, or nothing when it is lost.
async fn looked_for(lists: impl IntoIterator<Item = Then>) -> Vec<Option<u64>> {
    let lists: Vec<_> = lists.into_iter().collect();
    let looks = lists.len();
    let (url, task) = server([OK].into_iter().chain(lists)).await;
    let nacos = Nacos::new([url]).unwrap().with_persistent_instances();
    let mut entry = registered(&nacos).await;
    let mut nexts = Vec::new();
    for _ in 0..looks {
        nexts.push(match entry.heartbeat(soon()).await.unwrap() {
            Beat::Alive { next, listed_for } => {
                assert_eq!(listed_for, Duration::MAX);
                Some(next.as_secs())
            }
            Beat::Lost => None,
        });
    }
    let calls = task.await.unwrap();
    assert_eq!(calls[0].fields["ephemeral"], "false");
    assert!(calls[1..].iter().all(|call| call.what == V3[2]));
    nexts
}

#[tokio::test]
async fn persistent_instances_have_no_heartbeat_and_are_looked_for() {
    let nexts = looked_for([OURS, OURS, NOBODY, NOBODY]).await;
    assert_eq!(nexts, [Some(30), Some(30), Some(1), None]);
    // A successor's is not registered over.
    assert_eq!(looked_for([OURS, ANOTHERS]).await, [Some(30), Some(30)]);
}

#[tokio::test]
async fn a_persistent_instance_that_the_list_does_not_have_yet_is_not_lost() {
    let nexts = looked_for([NOBODY, NOBODY, OURS]).await;
    assert_eq!(nexts, [Some(1), Some(1), Some(30)]);
}

#[tokio::test]
async fn a_persistent_instance_that_the_list_misses_once_is_not_lost() {
    let nexts = looked_for([OURS, NOBODY, OURS, NOBODY, OURS]).await;
    assert_eq!(nexts, [Some(30), Some(1), Some(30), Some(1), Some(30)]);
}

/// An operator may have disabled it, or the list may not be read.
#[tokio::test]
async fn a_persistent_instance_that_is_never_listed_is_not_lost_and_soon_not_looked_for_often() {
    let seldom = [1, 1, 1, 1, 1, 30, 30].map(Some);
    assert_eq!(looked_for([NOBODY; 7]).await, seldom);
    assert_eq!(looked_for([DENIED; 7]).await, seldom);
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_when_it_is_refused_and_shown_nowhere() {
    let (first, second) = (
        Answer(200, r#"{"accessToken":"tell-nobody.1","tokenTtl":18000}"#),
        Answer(200, r#"{"accessToken":"tell-nobody.2","tokenTtl":18000}"#),
    );
    let (url, task) = server([first, OK, OK, DENIED, second, OK, DENIED, second, DENIED]).await;
    let nacos = Nacos::new([url]).unwrap().with_user("svc", "hush-hush&");
    let mut entry = registered(&nacos).await;
    entry.heartbeat(soon()).await.unwrap();
    entry.heartbeat(soon()).await.unwrap();
    // Refused again at once: that is the answer.
    let error = entry.heartbeat(soon()).await.unwrap_err();
    let shown = format!("{error} {error:?} {nacos:?} {nacos:#?}");
    assert!(
        shown.contains("svc") && shown.contains("token invalid") && shown.contains("with_user"),
        "{shown}"
    );
    assert!(
        !shown.contains("hush") && !shown.contains("tell-nobody"),
        "{shown}"
    );
    let calls = task.await.unwrap();
    assert_eq!(calls[0].what, "POST /nacos/v3/auth/user/login");
    assert_eq!(calls[0].fields["username"], "svc");
    assert_eq!(calls[0].fields["password"], "hush-hush&");
    let tokens: Vec<_> = calls.iter().map(|call| call.token.as_deref()).collect();
    let (one, two) = (Some("Bearer tell-nobody.1"), Some("Bearer tell-nobody.2"));
    assert_eq!(tokens, [None, one, one, one, None, two, two, None, two]);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_the_old_one_does_meanwhile() {
    let login = Answer(200, r#"{"accessToken":"one","tokenTtl":100}"#);
    let renewed = Answer(200, r#"{"data":{"accessToken":"two","tokenTtl":100}}"#);
    let broken = Answer(500, "no database");
    let (url, task) = server([login, OK, OK, broken, OK, renewed, OK]).await;
    let nacos = Nacos::new([url]).unwrap().with_user("svc", "hush-hush");
    let mut entry = registered(&nacos).await;
    for pause in [50, 41, 6] {
        // Not for longer: what is waited for is a socket.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(pause)).await;
        tokio::time::resume();
        entry.heartbeat(soon()).await.unwrap();
    }
    let calls = task.await.unwrap();
    let tokens: Vec<_> = calls.iter().map(|call| call.token.as_deref()).collect();
    let (one, two) = (Some("Bearer one"), Some("Bearer two"));
    assert_eq!(tokens, [None, one, one, None, one, None, two]);
}

#[tokio::test]
async fn the_login_of_v1_is_asked_where_there_is_none_of_v3_and_no_login_at_all_is_none() {
    let token = Answer(200, r#"{"accessToken":"one","tokenTtl":18000}"#);
    let (url, task) = server([NO_SUCH_PATH, token, OK]).await;
    registered(&Nacos::new([url]).unwrap().with_user("svc", "hush-hush")).await;
    let calls = task.await.unwrap();
    assert_eq!(calls[1].what, "POST /nacos/v1/auth/users/login");
    assert_eq!(calls[2].token.as_deref(), Some("Bearer one"));

    let (url, task) = server([NO_SUCH_PATH, NO_SUCH_PATH, OK]).await;
    registered(&Nacos::new([url]).unwrap().with_user("svc", "hush-hush")).await;
    assert_eq!(task.await.unwrap()[2].token, None);

    let (url, task) = server([Answer(403, "unknown user!")]).await;
    let nacos = Nacos::new([url]).unwrap().with_user("svc", "hush-hush");
    let error = nacos.register(&orders(), soon()).await.err().unwrap();
    assert!(error.to_string().contains("unknown user!"), "{error}");
    task.await.unwrap();
}

#[tokio::test]
async fn a_frozen_server_is_not_asked_first_again() {
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frozen_url = format!("http://{}", frozen.local_addr().unwrap());
    let (url, task) = server([OK]).await;
    let nacos = Nacos::new([frozen_url, url]).unwrap();
    let short = Deadline::after(Duration::from_millis(200));
    let error = nacos.register(&orders(), short).await.err().unwrap();
    assert!(error.is_unknown(), "{error}");
    assert!(error.to_string().contains("timed out"), "{error}");
    registered(&nacos).await;
    task.await.unwrap();
}

#[test]
fn the_context_path_is_the_usual_one_unless_one_is_given() {
    for (url, meant) in [
        ("http://nacos:8848", "http://nacos:8848/nacos"),
        ("http://nacos:8848/", "http://nacos:8848/nacos"),
        ("http://nacos/registry", "http://nacos/registry"),
        ("http://[::1]:8848", "http://[::1]:8848/nacos"),
    ] {
        assert_eq!(with_context(url), meant);
    }
    for url in ["nacos:8848", "", "http://u:hush@nacos", "http://nacos?hush"] {
        let error = Nacos::new([url]).err().unwrap().to_string();
        assert!(!error.contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn a_service_name_that_nacos_would_split_is_refused() {
    let nacos = Nacos::new(["http://127.0.0.1:1"]).unwrap();
    let instance = Instance::new("group@@orders", ([10, 0, 0, 5], 80).into());
    let error = nacos.register(&instance, soon()).await.err().unwrap();
    assert!(error.to_string().contains("with_group"), "{error}");
}
