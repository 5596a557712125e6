//! gRPC streams: ended after a whole message, with `UNAVAILABLE` in their trailers, as tonic's own client reads them.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use http::uri::PathAndQuery;
use prestop::{Phase, StopSignal, StreamLayer, StreamPolicy};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, ServerStreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::Layer;

use crate::support::*;

/// Messages of text, without protobuf.
#[derive(Clone, Copy, Default)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, item: String, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(item.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        Ok(Some(String::from_utf8(bytes.to_vec()).unwrap()))
    }
}

type Messages = UnboundedSender<Result<String, Status>>;

/// Streams what the test sends; asked for `helped`, until it is told by its handler.
#[derive(Clone, Default)]
struct Ticker(Arc<Mutex<Vec<Messages>>>);

impl ServerStreamingService<String> for Ticker {
    type Response = String;
    type ResponseStream = BoxStream<'static, Result<String, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let (tx, mut rx) = unbounded_channel();
        self.0.lock().unwrap().push(tx);
        let messages = futures::stream::poll_fn(move |cx| rx.poll_recv(cx));
        Box::pin(async move {
            let stop = request.extensions().get::<StopSignal>().cloned().unwrap();
            Ok(Response::new(match request.get_ref().as_str() {
                "helped" => stop.grpc(messages).boxed(),
                _ => messages.boxed(),
            }))
        })
    }
}

impl<B> tower::Service<http::Request<B>> for Ticker
where
    B: http_body::Body<Error: std::error::Error + Send + Sync + 'static> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Text);
            Ok(grpc.server_streaming(this, request).await)
        })
    }
}

impl NamedService for Ticker {
    const NAME: &'static str = "test.Ticker";
}

/// On the own loop and on stock tonic, with the policy or without.
async fn servers(policy: Option<StreamPolicy>) -> [(Ticker, Server); 2] {
    let own = Ticker::default();
    let c = builder().build().unwrap();
    let server = match policy {
        Some(policy) => Server::start(c, StreamLayer::new(policy).layer(own.clone())).await,
        None => Server::start(c, own.clone()).await,
    };
    let stock = Ticker::default();
    let c = builder().build().unwrap();
    let (h, listener) = (c.handle(), local().await);
    let addr = listener.local_addr().unwrap();
    let layer = policy.map(StreamLayer::new);
    let stack = tower::ServiceBuilder::new()
        .layer(c.layer())
        .option_layer(layer)
        .into_inner();
    let serving = tonic::transport::Server::builder()
        .layer(stack)
        .add_service(stock.clone())
        .serve_with_incoming_shutdown(c.incoming(listener), h.draining());
    let on_tonic = Server::running(h, addr, async { c.run(serving).await.unwrap() }).await;
    [(own, server), (stock, on_tonic)]
}

/// A client that has received one message.
async fn listening(ticker: &Ticker, server: &Server, ask: &str) -> (Messages, Streaming<String>) {
    let endpoint = tonic::transport::Endpoint::new(format!("http://{}", server.addr)).unwrap();
    let channel = within("connect", endpoint.connect()).await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/test.Ticker/Watch");
    let request = Request::new(ask.to_owned());
    let answer = client.server_streaming(request, path, Text);
    let mut messages = within("the head", answer).await.unwrap().into_inner();
    let tx = ticker.0.lock().unwrap().pop().unwrap();
    tx.send(Ok("one".into())).unwrap();
    assert_eq!(next(&mut messages).await.unwrap(), "one");
    (tx, messages)
}

async fn next(messages: &mut Streaming<String>) -> Result<String, Status> {
    within("a message", messages.message())
        .await
        .map(|message| message.expect("neither a message nor a status"))
}

#[tokio::test]
async fn told_by_its_handler_a_stream_ends_with_unavailable() {
    for (ticker, server) in servers(None).await {
        let (_tx, mut messages) = listening(&ticker, &server, "helped").await;
        server.stop();
        let status = next(&mut messages).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert_eq!(status.message(), "the server is stopping");
        drop(messages);
        let report = server.clean().await;
        assert_eq!(
            (report.streams.told, report.streams.ended),
            (1, 1),
            "{report}"
        );
        assert_eq!(report.requests.finished_while_stopping, 1, "{report}");
    }
}

#[tokio::test]
async fn told_by_its_route_an_unchanged_handler_s_stream_does_too() {
    for (ticker, server) in servers(Some(StreamPolicy::Tell)).await {
        let (tx, mut messages) = listening(&ticker, &server, "plain").await;
        tx.send(Ok("two".into())).unwrap();
        assert_eq!(next(&mut messages).await.unwrap(), "two");
        server.stop();
        let status = next(&mut messages).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(tx.is_closed());
        drop(messages);
        let report = server.clean().await;
        assert_eq!(
            (report.streams.told, report.streams.ended),
            (1, 1),
            "{report}"
        );
    }
}

/// A unary call looks the same from outside: without a policy nothing of gRPC is ended.
#[tokio::test]
async fn without_a_policy_it_finishes() {
    for (ticker, server) in servers(None).await {
        let (tx, mut messages) = listening(&ticker, &server, "plain").await;
        server.stop_to(Phase::Draining).await;
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        tx.send(Ok("two".into())).unwrap();
        assert_eq!(next(&mut messages).await.unwrap(), "two");
        drop(tx);
        assert!(
            within("the end", messages.message())
                .await
                .unwrap()
                .is_none()
        );
        drop(messages);
        let report = server.clean().await;
        assert_eq!(
            (report.streams.told, report.streams.cut),
            (0, 0),
            "{report}"
        );
    }
}

#[tokio::test]
async fn cut_resets_the_stream() {
    for (ticker, server) in servers(Some(StreamPolicy::Cut)).await {
        let (tx, mut messages) = listening(&ticker, &server, "plain").await;
        server.stop();
        let status = next(&mut messages).await.unwrap_err();
        assert_ne!(
            status.code(),
            Code::Unavailable,
            "without a word: {status:?}"
        );
        assert!(tx.is_closed());
        drop(messages);
        let report = server.clean().await;
        assert_eq!(
            (report.streams.told, report.streams.cut),
            (0, 1),
            "{report}"
        );
    }
}
