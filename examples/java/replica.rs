//! A JVM under the crate: what an image's ENTRYPOINT would be. (`prestop run` does the same by flags.)

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use prestop::ShutdownCoordinator;
use prestop::process::{Output, ReadyWhen, StopPlan, StopStep, Supervisor};
use prestop::registry::Instance;
use prestop::registry::memory::MemoryRegistryClient;

use crate::harness::{SERVICE, Start};
use crate::progress::say;

/// Longer than the gateway's view is old, and than most clients idle.
const LAME_DUCK: Duration = Duration::from_millis(2_500);

/// This program again, as the wrapper of `java`.
pub fn command(start: &Start, classes: &Path) -> Result<Command, String> {
    let own = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
    let mut command = Command::new(own);
    command.arg("replica").arg(classes).args([
        start.port.to_string(),
        start.registry.to_string(),
        start.visibility.as_millis().to_string(),
    ]);
    Ok(command)
}

/// The wrapper: `replica CLASSES PORT REGISTRY VISIBILITY_MS`.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(supervise(&args)) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn supervise(args: &[String]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let [classes, port, registry, visibility_ms] = args else {
        return Err("replica CLASSES PORT REGISTRY VISIBILITY_MS".into());
    };
    let port = port.parse::<u16>()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let registry = MemoryRegistryClient::new(&format!("http://{registry}"))?
        .with_visibility(Duration::from_millis(visibility_ms.parse()?));

    let c = ShutdownCoordinator::builder()
        .lame_duck(LAME_DUCK)
        .registry(registry, Instance::new(SERVICE, address))
        .build()?;
    let leave = StopStep::http_post(format!("http://{address}/leave"));
    let java = Supervisor::from(crate::java(Path::new(classes), port))
        .output(Output::Discard)
        .ready_when(ReadyWhen::http(format!("http://{address}/fast")))
        .stop_plan(StopPlan::java().leave(leave));
    c.supervise(java).await?.exit()
}
