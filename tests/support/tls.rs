//! TLS by rustls, with a certificate of the moment.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::within;

pub const HTTP1: &[u8] = b"http/1.1";
pub const HTTP2: &[u8] = b"h2";

/// A server's side, and the certificate that its clients trust.
pub struct Tls {
    pub acceptor: TlsAcceptor,
    certificate: CertificateDer<'static>,
}

impl Tls {
    /// For `localhost`, with HTTP/2 and HTTP/1.1 to choose from.
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate,
        }
    }

    pub fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Client { roots }
    }
}

#[derive(Clone)]
pub struct Client {
    roots: RootCertStore,
}

impl Client {
    /// The handshake, with this protocol and no other.
    pub async fn over<IO>(&self, io: IO, alpn: &[u8]) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, io);
        let stream = within("the handshake", connecting).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
        Ok(stream)
    }

    pub async fn connect(&self, addr: SocketAddr, alpn: &[u8]) -> TlsStream<TcpStream> {
        let io = within("connect", TcpStream::connect(addr)).await.unwrap();
        self.over(io, alpn).await.unwrap()
    }
}

/// A client's socket that sends the first few bytes, and the rest only when it may.
#[derive(Debug)]
pub struct Halting {
    io: TcpStream,
    sends: usize,
    goes_on: Pin<Box<oneshot::Receiver<()>>>,
}

impl Halting {
    /// How many bytes come through until the sender is used or dropped.
    pub fn new(io: TcpStream, sends: usize) -> (Self, oneshot::Sender<()>) {
        let (go_on, goes_on) = oneshot::channel();
        let goes_on = Box::pin(goes_on);
        (Self { io, sends, goes_on }, go_on)
    }
}

impl AsyncRead for Halting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Halting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.sends == 0 {
            // A client that waits here would not hear of the end.
            if this
                .io
                .poll_peek(cx, &mut ReadBuf::new(&mut [0]))
                .is_ready()
            {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let _used_or_dropped = std::task::ready!(this.goes_on.as_mut().poll(cx));
            this.sends = usize::MAX;
        }
        let some = &buf[..buf.len().min(this.sends)];
        let written = std::task::ready!(Pin::new(&mut this.io).poll_write(cx, some))?;
        if this.sends != usize::MAX {
            this.sends -= written;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
