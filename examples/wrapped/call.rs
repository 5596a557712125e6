//! One HTTP/1 request on a connection of its own, to ask whether a replica serves.

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

const LONGEST: Duration = Duration::from_secs(2);

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
    let what = format!("{method} http://{to}{path}");
    match timeout(LONGEST, exchange(method, to, path, body)).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer within {LONGEST:?}")),
    }
}

async fn exchange(
    method: Method,
    to: SocketAddr,
    path: &str,
    body: String,
) -> Result<StatusCode, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
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
