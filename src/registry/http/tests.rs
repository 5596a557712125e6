//! The client against servers written out byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use http::Method;
use http::header::AUTHORIZATION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn get() -> Call {
    Call::new(Method::GET, "/v1?token=secret")
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// A port that nobody listens on, and nobody else gets while the socket is held.
fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, url)
}

/// The head of the next request on the connection; empty when the client closed it.
async fn head(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(read).unwrap()
}

/// Answers every request of every connection alike, one connection after the other.
async fn answering(answer: impl Into<String>) -> String {
    let (listener, url) = listener().await;
    let answer = answer.into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            while !head(&mut stream).await.is_empty() {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    });
    url
}

#[tokio::test]
async fn the_next_server_is_asked_when_the_first_is_down_and_again_by_the_next_call() {
    let (_held, down) = refusing();
    let client = HttpClient::new([down, answering(OK).await]).unwrap();
    for _ in 0..2 {
        let answer = client.send(&get(), soon()).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"ok"[..]));
        assert_eq!(client.preferred.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn when_all_are_down_the_message_tells_of_each() {
    let ((_a, one), (_b, two)) = (refusing(), refusing());
    let client = HttpClient::new([&one, &two]).unwrap();
    let error = client.send(&get(), soon()).await.unwrap_err();
    assert!(!error.is_unknown(), "nobody heard it");
    let message = error.to_string();
    assert!(
        message.contains(&format!("GET {one}/v1: connecting to ")),
        "{message}"
    );
    assert!(
        message.contains(&format!("GET {two}/v1: connecting to ")),
        "{message}"
    );
    assert!(message.contains("refused"), "{message}");
    assert!(!message.contains("secret"), "{message}");
}

#[tokio::test]
async fn a_server_that_answers_5xx_or_nothing_is_not_the_first_to_be_asked_next() {
    let (_frozen, frozen) = listener().await;
    let client = HttpClient::new([answering(BUSY).await, frozen.clone(), answering(OK).await]);
    let client = client.unwrap();
    let answer = client.send(&get(), soon()).await.unwrap();
    let message = answer.expect_success().unwrap_err().to_string();
    assert!(
        message.ends_with("/v1 answered 503 Service Unavailable"),
        "{message}"
    );

    let by = Deadline::after(Duration::from_millis(200));
    let error = client.send(&get(), by).await.unwrap_err();
    assert!(error.is_unknown(), "it may be heard when the server wakes");
    let message = error.to_string();
    assert!(
        message.contains(&format!("GET {frozen}/v1: timed out after ")),
        "{message}"
    );
    assert!(
        message.ends_with(" ms, waiting for the answer"),
        "{message}"
    );

    client
        .send(&get(), soon())
        .await
        .unwrap()
        .expect_success()
        .unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_that_swallows_packets_costs_its_share_of_the_time() {
    // With a backlog of zero one connection waits, and Linux drops the SYN of the next.
    let (socket, swallowing) = refusing();
    let full = socket.listen(0).unwrap();
    let _waiting = TcpStream::connect(full.local_addr().unwrap())
        .await
        .unwrap();
    let client = HttpClient::new([swallowing, answering(OK).await]).unwrap();
    let by = Deadline::after(Duration::from_secs(1));
    let answer = client.send(&get(), by).await.unwrap();
    assert_eq!(answer.status, 200);
    // The first did have its half.
    assert!(by.remaining() <= Duration::from_millis(500));
}

#[tokio::test]
async fn a_body_that_does_not_end_is_cut_at_the_deadline_and_one_too_long_is_not_kept() {
    let open_end = answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok").await;
    let client = HttpClient::new([open_end]).unwrap();
    let by = Deadline::after(Duration::from_millis(200));
    let message = client.send(&get(), by).await.unwrap_err().to_string();
    assert!(
        message.ends_with(" ms, reading the body of the answer"),
        "{message}"
    );

    let length = call::BODY_LIMIT + 1;
    let body = "x".repeat(length);
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
    let client = HttpClient::new([answering(long).await]).unwrap();
    let message = client.send(&get(), soon()).await.unwrap_err().to_string();
    assert!(
        message.ends_with("is longer than 1048576 bytes"),
        "{message}"
    );
}

#[tokio::test]
async fn one_connection_is_reused_and_ends_with_the_client() {
    let (listener, url) = listener().await;
    let client = HttpClient::new([url]).unwrap();
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            assert!(
                head(&mut stream)
                    .await
                    .starts_with("GET /v1?token=secret HTTP/1.1\r\n")
            );
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
        stream
    };
    let calls = async {
        for _ in 0..3 {
            client.send(&get(), soon()).await.unwrap();
        }
    };
    let (mut stream, ()) = tokio::join!(server, calls);
    drop(client);
    assert_eq!(soon().bound(head(&mut stream)).await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_dropped_call_closes_its_connection() {
    let (listener, url) = listener().await;
    let client = HttpClient::new([url]).unwrap();
    let accepted = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream
    };
    let call = get();
    let mut stream = tokio::select! {
        stream = accepted => stream,
        answer = client.send(&call, soon()) => panic!("{answer:?}"),
    };
    assert_eq!(soon().bound(head(&mut stream)).await.as_deref(), Some(""));
    drop(client);
}

/// Answers the first request, and closes the connection after the head of the second without an answer; the same
/// again on every further connection. How many heads it read at all is what the client gets for an answer.
async fn closing_after_one() -> String {
    let (listener, url) = listener().await;
    tokio::spawn(async move {
        let mut heads = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            heads += 1;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{heads}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            head(&mut stream).await;
            heads += 1;
        }
    });
    url
}

#[tokio::test]
async fn a_call_that_died_with_an_idle_connection_is_repeated_if_that_does_no_harm() {
    let client = HttpClient::new([closing_after_one().await]).unwrap();
    let heard = async |call: Call| client.send(&call, soon()).await.map(|answer| answer.body);
    assert_eq!(heard(get()).await.unwrap(), "1");
    assert_eq!(heard(get()).await.unwrap(), "3");
    let post = || Call::new(Method::POST, "/v1");
    assert_eq!(heard(post().idempotent()).await.unwrap(), "5");
    let message = heard(post()).await.unwrap_err().to_string();
    assert!(
        message.contains("connection closed before message completed"),
        "{message}"
    );
    assert_eq!(heard(post()).await.unwrap(), "7");
}

#[tokio::test]
async fn headers_are_sent_and_their_values_shown_nowhere() {
    let (listener, url) = listener().await;
    let client = HttpClient::new([url])
        .unwrap()
        .with_header(AUTHORIZATION, "Bearer hush")
        .unwrap();
    let shown = format!("{client:?} {client:#?}");
    assert!(
        shown.contains("authorization") && !shown.contains("hush"),
        "{shown}"
    );

    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.contains("authorization: Bearer hush\r\n"), "{head}");
        let host = format!("host: {}\r\n", listener.local_addr().unwrap());
        assert!(head.contains(&host), "{head}");
        stream.write_all(b"SSH-2.0-hello\r\n\r\n").await.unwrap();
        stream
    };
    let call = get();
    let (_stream, answer) = tokio::join!(server, client.send(&call, soon()));
    let error = answer.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"), "{error}");

    let broken = HttpClient::new(["http://a"]).unwrap();
    let error = broken.with_header(AUTHORIZATION, "hush\n").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
}

#[test]
fn a_client_of_no_server_is_refused() {
    let error = HttpClient::new::<&str>([]).unwrap_err();
    assert!(error.to_string().contains("no URL"), "{error}");
}
