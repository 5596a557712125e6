//! One HTTP/1 request on a connection of its own: to the registry, and to a replica's readiness probe or hook.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take, and what else is sent.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    pub longest: Duration,
    pub headers: &'a [(&'a str, &'a str)],
}

/// Sends `body` as JSON and gives the status of the answer.
///
/// # Errors
///
/// When there is no whole answer within two seconds; the message names the request.
pub async fn call(
    method: Method,
    to: SocketAddr,
    path: &str,
    body: String,
) -> Result<StatusCode, String> {
    let limits = Limits {
        longest: Duration::from_secs(2),
        headers: &[],
    };
    call_with(method, to, path, body, limits).await
}

/// The same with a limit and headers of the caller's.
///
/// # Errors
///
/// When there is no whole answer in time; the message names the request.
pub async fn call_with(
    method: Method,
    to: SocketAddr,
    path: &str,
    body: String,
    limits: Limits<'_>,
) -> Result<StatusCode, String> {
    let what = format!("{method} http://{to}{path}");
    let longest = limits.longest;
    match timeout(longest, exchange(method, to, path, body, limits.headers)).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer within {longest:?}")),
    }
}

async fn exchange(
    method: Method,
    to: SocketAddr,
    path: &str,
    body: String,
    headers: &[(&str, &str)],
) -> Result<StatusCode, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .method(method)
        .uri(path)
        .header(HOST, to.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        drop(sender);
        Ok(status)
    };
    let (status, _) = tokio::join!(answer, connection);
    status
}
