//! The gRPC half of the service, by hand: two methods whose messages are bytes, so that nobody needs `protoc`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use prestop::StopSignal;
use tokio::time::sleep;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tower::{Service, service_fn};

const MESSAGE_EVERY: Duration = Duration::from_millis(100);
pub const GET: &str = "/demo.Demo/Get";
pub const WATCH: &str = "/demo.Demo/Watch";
/// A message of an answer.
pub const MESSAGE: &[u8] = b"a small message";

/// `demo.Demo`: `Get` answers at once, `Watch` sends a message every 100 ms until its client leaves or it is told.
#[derive(Clone, Copy)]
pub struct Demo;

impl NamedService for Demo {
    const NAME: &'static str = "demo.Demo";
}

impl Service<http::Request<Body>> for Demo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw);
            Ok(match request.uri().path() {
                GET => grpc.unary(service_fn(get), request).await,
                WATCH => grpc.server_streaming(service_fn(watch), request).await,
                _ => Status::unimplemented("there are Get and Watch").into_http(),
            })
        })
    }
}

async fn get(_: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    Ok(Response::new(Bytes::from_static(MESSAGE)))
}

type Messages = BoxStream<'static, Result<Bytes, Status>>;

async fn watch(request: Request<Bytes>) -> Result<Response<Messages>, Status> {
    let first = stream::iter([Ok(Bytes::from_static(MESSAGE))]);
    let more = stream::repeat(Bytes::from_static(MESSAGE)).then(|message| async {
        sleep(MESSAGE_EVERY).await;
        Ok(message)
    });
    let messages = first.chain(more);
    Ok(Response::new(
        match request.extensions().get::<StopSignal>() {
            Some(stop) => stop.grpc(messages).boxed(),
            // Without prestop nobody says when to end.
            None => messages.boxed(),
        },
    ))
}

/// Messages are bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

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
