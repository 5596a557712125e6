//! A file server that stops as nginx does on SIGQUIT, and better: it goes on accepting until the balancer has noticed.
//!
//! What the article does: `nginx -s quit` as the preStop hook, so that nginx finishes the requests it has. What goes wrong
//! there: the command returns at once and the SIGTERM that follows cuts them after all; and SIGQUIT closes the listener
//! while the load balancer still sends clients to it, who are refused. What to watch here: start it, download something
//! big, send SIGQUIT or SIGTERM, and
//!
//!     cargo run --example nginx_quit -- /usr/share 127.0.0.1:8080 5
//!     curl --limit-rate 100k -o /dev/null http://127.0.0.1:8080/i18n/locales/iso14651_t1_common &
//!     kill -QUIT $(pidof nginx_quit)
//!     curl -sv http://127.0.0.1:8080/i18n/SUPPORTED -o /dev/null
//!
//! the second curl is still served, in the 5 s of lame duck, and told `Connection: close`; then the listener closes; the
//! download runs to its last byte, and the process ends right after it with exit code 0.

use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri};
use futures::stream;
use prestop::{ShutdownCoordinator, Signals};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let root = PathBuf::from(args.next().unwrap_or_else(|| ".".into()));
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let mut builder = ShutdownCoordinator::builder().signals(Signals::new().and_quit());
    if let Some(seconds) = args.next() {
        builder = builder.lame_duck(Duration::try_from_secs_f64(seconds.parse()?)?);
    }
    let c = builder.build()?; // SIGTERM, SIGINT and SIGQUIT are caught from here on
    let app = Router::new().fallback(move |uri: Uri| file(root, uri));
    let listener = TcpListener::bind(address).await?;
    writeln!(io::stdout(), "listening {}", listener.local_addr()?)?;
    let report = c.serve(listener, app).await?;
    writeln!(io::stdout(), "{report}")?;
    report.exit()
}

/// The file below the root, in pieces of 64 KiB.
async fn file(root: PathBuf, uri: Uri) -> Result<Body, StatusCode> {
    let below = Path::new(uri.path().trim_start_matches('/'));
    if !below
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Err(StatusCode::NOT_FOUND); // no way up
    }
    let path = root.join(below);
    let about = tokio::fs::metadata(&path).await;
    if !about.is_ok_and(|about| about.is_file()) {
        return Err(StatusCode::NOT_FOUND);
    }
    let file = File::open(path).await.map_err(|_| StatusCode::FORBIDDEN)?;
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = Vec::with_capacity(64 * 1024);
        let read = (&mut file).take(64 * 1024).read_to_end(&mut piece).await?;
        Ok::<_, io::Error>((read > 0).then(|| (Bytes::from(piece), file)))
    });
    Ok(Body::from_stream(pieces))
}
