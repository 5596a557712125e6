//! The pod: answers, and stops when it is told on its standard input.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use prestop::{GracePeriod, Phase, Reason, ShutdownCoordinator};
use tokio::net::TcpSocket;

pub(crate) async fn run(lame_duck: Duration) {
    let grace = GracePeriod::from_secs(lame_duck.as_secs() * 2 + 30).expect("seconds");
    let c = ShutdownCoordinator::builder()
        .grace_period(grace)
        .lame_duck(lame_duck)
        .build()
        .expect("the lame duck fits twice");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a free port");
    let listener = socket.listen(4_096).expect("it listens");
    println!("{}", listener.local_addr().expect("bound"));
    let h = c.handle();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        h.trigger(Reason::requested("the measurement"));
    });
    let lame = c.handle();
    tokio::spawn(async move {
        lame.wait_for(Phase::LameDuck).await;
        println!("lame_duck");
    });
    let app = Router::new().route("/", get(|| async { "hello" }));
    let report = c.serve(listener, app).await.expect("it serves");
    let r = report.requests;
    println!(
        "the pod: {} requests finished, {} of them while stopping, {} cut, {} refused",
        r.finished, r.finished_while_stopping, r.cut, r.refused
    );
}
