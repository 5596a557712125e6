//! A service over TLS, with HTTP/2 and HTTP/1.1 to choose from (ALPN), whose stop loses nothing either.
//!
//!     cargo run --example tls -- 127.0.0.1:8443
//!
//! The certificate is made when it starts, so clients must be told to take it:
//!
//!     curl -k https://localhost:8443/ & sleep 1; kill -TERM $(pidof tls)

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::{Router, routing::get};
use prestop::{ShutdownCoordinator, serve};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

async fn hello() -> &'static str {
    tokio::time::sleep(Duration::from_secs(3)).await;
    "hello\n"
}

fn acceptor() -> Result<TlsAcceptor, Box<dyn std::error::Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8443".to_owned());
    let c = ShutdownCoordinator::builder().build()?; // SIGTERM is caught from here on
    let listener = TcpListener::bind(address).await?;
    writeln!(io::stdout(), "listening {}", listener.local_addr()?)?;
    let tls = acceptor()?;
    let server = serve(&c.handle(), listener, Router::new().route("/", get(hello)))
        .handshake(move |io| tls.accept(io));
    let report = c.run(server).await?;
    writeln!(io::stdout(), "{report}")?;
    report.exit()
}
