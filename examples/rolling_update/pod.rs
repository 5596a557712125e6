//! What the kubelet does before SIGTERM: the preStop hook, on the clock of the grace period.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use prestop::HookSocket;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use crate::call::{Limits, call_with};
use crate::cli::Hook;

/// terminationGracePeriodSeconds, at its Kubernetes default.
pub const GRACE: Duration = Duration::from_secs(30);

/// What a container has left for SIGTERM at the least, however long its hook took (R15).
const LEAST: Duration = Duration::from_secs(2);

/// What manifests usually sleep.
pub const SLEEP: Duration = Duration::from_secs(5);

/// The token of the `httpGet` hook; a manifest has it in its `httpHeaders`.
pub const TOKEN: &str = "rolling-update-0123456789";

/// Where a hook finds its replica.
#[derive(Clone, Debug)]
pub struct Container {
    /// The variable that its manifest sets.
    pub socket: PathBuf,
    /// Where it answers an `httpGet` hook.
    pub hook_address: Option<SocketAddr>,
}

/// How the hook of one replica went.
#[derive(Clone, Debug)]
pub struct Hooked {
    pub took: Duration,
    /// What it said, or how it failed.
    pub said: Result<String, String>,
}

/// Runs the hook, for the grace period at the most (R10), and gives what is left until SIGKILL: whole seconds are taken
/// off (R11), and there are always two.
pub async fn pre_stop(hook: Hook, container: &Container) -> (Option<Hooked>, Duration) {
    let began = Instant::now();
    let running = async {
        match hook {
            Hook::None => Ok(String::new()),
            Hook::Sleep => {
                // By the kubelet itself: there is nothing in the container that could fail.
                sleep(SLEEP).await;
                Ok("slept".to_owned())
            }
            Hook::Http => get(container).await,
            Hook::ExecOwn => exec(&own_binary()?, "prestop", &container.socket).await,
            Hook::ExecHelper => exec(&helper()?, "hook", &container.socket).await,
        }
    };
    // What still runs is left alone by the kubelet (R13); here it would be in the way of the next one.
    let said = timeout(GRACE, running)
        .await
        .unwrap_or_else(|_| Err("it took longer than the grace period".to_owned()));
    let took = began.elapsed();
    let left = GRACE
        .saturating_sub(Duration::from_secs(took.as_secs()))
        .max(LEAST);
    let hooked = (hook != Hook::None).then_some(Hooked { took, said });
    (hooked, left)
}

fn own_binary() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|error| format!("looking for this program: {error}"))
}

/// The helper binary, beside the directory of the examples.
///
/// # Errors
///
/// When it was not built.
pub fn helper() -> Result<PathBuf, String> {
    let own = own_binary()?;
    let helper = own.ancestors().nth(2).unwrap_or(&own).join("prestop");
    if helper.is_file() {
        Ok(helper)
    } else {
        Err(format!(
            "{} is missing: build it with `cargo build --release --features cli --bin prestop` (without --release for a debug build)",
            helper.display()
        ))
    }
}

/// `exec` in the container: the same environment, as far as it matters.
async fn exec(program: &Path, argument: &str, socket: &Path) -> Result<String, String> {
    let output = Command::new(program)
        .arg(argument)
        .env(HookSocket::VARIABLE, socket)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("starting {}: {error}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}: {}", output.status, text(&output.stderr)))
    }
}

/// `httpGet`: any answer is a success for the kubelet (R23), but not here.
async fn get(container: &Container) -> Result<String, String> {
    let address = container
        .hook_address
        .ok_or("the replica did not say where its hook is")?;
    let limits = Limits {
        longest: GRACE,
        headers: &[("x-prestop-token", TOKEN), ("accept", "*/*")],
    };
    let status = call_with(Method::GET, address, "/prestop", String::new(), limits).await?;
    if status.is_success() {
        Ok(status.to_string())
    } else {
        Err(status.to_string())
    }
}
