//! A gRPC service without generated code, and a client for it: `protoc` is not needed for bytes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use prestop::ShutdownCoordinator;
use tokio::sync::watch;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use crate::support::raw_http2::{DATA, HEADERS, Http2};
use crate::support::{Server, local, within};

/// Messages are bytes as they are.
#[derive(Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// What the test sees of the handlers, and when they go on.
#[derive(Clone)]
pub struct Stage {
    entered: Arc<watch::Sender<usize>>,
    open: Arc<watch::Sender<bool>>,
}

impl Stage {
    pub fn new() -> Self {
        Self {
            entered: Arc::new(watch::Sender::new(0)),
            open: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Waits until so many calls have reached their handler.
    pub async fn entered(&self, calls: usize) {
        let mut entered = self.entered.subscribe();
        within("the handlers", entered.wait_for(|n| *n >= calls)).await;
    }

    /// Lets the handlers go on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    fn enter(&self) {
        self.entered.send_modify(|n| *n += 1);
    }

    async fn pass(self) {
        self.open.subscribe().wait_for(|open| *open).await;
    }
}

/// The service: each kind of call answers when the stage is open.
#[derive(Clone)]
pub struct Echo(pub Stage);

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

type Answers = BoxStream<'static, Result<Bytes, Status>>;

impl tower::Service<http::Request<tonic::body::Body>> for Echo {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let stage = self.0.clone();
        let mut grpc = tonic::server::Grpc::new(Raw);
        Box::pin(async move {
            stage.enter();
            Ok(match request.uri().path() {
                "/test.Echo/Unary" => {
                    let answer = service_fn(move |request: Request<Bytes>| {
                        let stage = stage.clone();
                        async move {
                            stage.pass().await;
                            Ok::<_, Status>(Response::new(request.into_inner()))
                        }
                    });
                    grpc.unary(answer, request).await
                }
                "/test.Echo/Client" => {
                    let answer = service_fn(async |request: Request<Streaming<Bytes>>| {
                        let parts: Vec<_> = request.into_inner().collect().await;
                        let parts: Vec<Bytes> = parts.into_iter().collect::<Result<_, _>>()?;
                        Ok::<_, Status>(Response::new(Bytes::from(parts.concat())))
                    });
                    grpc.client_streaming(answer, request).await
                }
                // The first at once, the last when the stage is open.
                "/test.Echo/Server" => {
                    let answer = service_fn(move |request: Request<Bytes>| {
                        let (stage, message) = (stage.clone(), request.into_inner());
                        let first = stream::iter([Ok(message.clone())]);
                        let last = stream::once(stage.pass()).map(move |()| Ok(message.clone()));
                        async { Ok::<_, Status>(Response::new(first.chain(last).boxed())) }
                    });
                    grpc.server_streaming(answer, request).await
                }
                "/test.Echo/Bidi" => {
                    let answer = service_fn(async |request: Request<Streaming<Bytes>>| {
                        let echoes: Answers = request.into_inner().boxed();
                        Ok::<_, Status>(Response::new(echoes))
                    });
                    grpc.streaming(answer, request).await
                }
                "/test.Echo/Panics" => panic!("on purpose"),
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// The service on tonic's own server, with the layer, and a stage for its handlers.
pub async fn stock(c: ShutdownCoordinator) -> (Server, Stage) {
    let stage = Stage::new();
    let server = tonic::transport::Server::builder()
        .layer(c.layer())
        .add_service(Echo(stage.clone()));
    let listener = local().await;
    let (h, addr) = (c.handle(), listener.local_addr().unwrap());
    let serving = server.serve_with_incoming_shutdown(c.incoming(listener), h.draining());
    let server = Server::running(h, addr, async { c.run(serving).await.unwrap() }).await;
    (server, stage)
}

pub async fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::new(format!("http://{}", server.addr)).unwrap();
    within("connect", endpoint.connect()).await.unwrap()
}

/// A client that repeats nothing.
pub struct Client(tonic::client::Grpc<Channel>);

impl Client {
    pub async fn connect(server: &Server) -> Self {
        Self::over(channel(server).await)
    }

    pub fn over(channel: Channel) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = within("ready", self.0.ready()).await;
        ready.map_err(|error| Status::from_error(error.into()))
    }

    pub async fn unary(&mut self, request: Request<Bytes>) -> Result<Bytes, Status> {
        self.unary_at("/test.Echo/Unary", request).await
    }

    pub async fn unary_at(
        &mut self,
        path: &'static str,
        request: Request<Bytes>,
    ) -> Result<Bytes, Status> {
        self.ready().await?;
        let call = self.0.unary(request, PathAndQuery::from_static(path), Raw);
        within("the answer", call).await.map(Response::into_inner)
    }

    pub async fn client_streaming(
        &mut self,
        parts: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Bytes, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Client");
        let call = self.0.client_streaming(Request::new(parts), path, Raw);
        within("the answer", call).await.map(Response::into_inner)
    }

    pub async fn server_streaming(&mut self, message: Bytes) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Server");
        let call = self.0.server_streaming(Request::new(message), path, Raw);
        within("the head", call).await.map(Response::into_inner)
    }

    pub async fn bidi(
        &mut self,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/test.Echo/Bidi");
        let call = self.0.streaming(Request::new(messages), path, Raw);
        within("the head", call).await.map(Response::into_inner)
    }
}

/// The next message; `None` when the stream ended with status OK.
pub async fn next(stream: &mut Streaming<Bytes>) -> Option<Bytes> {
    within("a message", stream.message()).await.unwrap()
}

/// A stream whose messages the test sends; dropped, it ends.
pub fn messages() -> (
    tokio::sync::mpsc::UnboundedSender<Bytes>,
    impl Stream<Item = Bytes> + Send + 'static,
) {
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    (tx, stream::poll_fn(move |cx| rx.poll_recv(cx)))
}

/// A unary call as frames: HEADERS by the static table and literals, and one message that is not compressed.
pub async fn send_unary(client: &mut Http2, stream: u32) {
    send_unary_with(client, stream, &[]).await;
}

pub async fn send_unary_with(client: &mut Http2, stream: u32, headers: &[(&str, &str)]) {
    const END_HEADERS: u8 = 4;
    const END_STREAM: u8 = 1;
    let path = "/test.Echo/Unary";
    // POST, http, :authority test, :path
    let mut block = vec![0x83, 0x86, 0x41, 4];
    block.extend(b"test");
    block.extend([0x04, u8::try_from(path.len()).unwrap()]);
    block.extend(path.as_bytes());
    let always = [("content-type", "application/grpc"), ("te", "trailers")];
    for (name, value) in always.iter().chain(headers) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    client.send(HEADERS, END_HEADERS, stream, &block).await;
    client
        .send(DATA, END_STREAM, stream, b"\0\0\0\0\x05hello")
        .await;
}
