//! A service that is its own preStop hook: no shell, no second binary in the image.
//!
//!     PRESTOP_SOCKET=target/hook/hook.sock cargo run --example exec_hook
//!     # in another terminal
//!     PRESTOP_SOCKET=target/hook/hook.sock cargo run --example exec_hook -- prestop
//!
//! What to watch: the second command waits for the lame duck of three seconds and says so; the service ends with a report
//! whose reason is the hook. In a manifest:
//!
//! ```yaml
//! lifecycle:
//!   preStop:
//!     exec: { command: ["/app", "prestop"] }
//!   postStart:
//!     exec: { command: ["/app", "prestop", "started"] }
//! ```

use std::time::Duration;

use prestop::{HookSocket, ShutdownCoordinator};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    prestop::exec_hook(); // `exec_hook prestop` ends here
    let c = ShutdownCoordinator::builder()
        .hook_socket(HookSocket::from_env())
        .lame_duck(Duration::from_secs(3))
        .build()?;
    let h = c.handle();
    let report = c.run(h.draining()).await?;
    eprintln!("{report}");
    report.exit()
}
