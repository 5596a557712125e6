//! What a signal means (S9), heard on a thread of its own (S10).

use std::sync::mpsc::sync_channel;

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Kind};
use crate::exit;
use crate::handle::ShutdownHandle;
use crate::last_gasp::LastGasps;
use crate::reason::Reason;
use crate::signal::{Arrived, Caught, Signals};

/// 128 + SIGINT: what a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Follows the signals until it is dropped; from then on they do nothing.
///
/// On a thread with a small runtime: a worker of the service's that blocks may be the one that reads signals for tokio,
/// and then SIGTERM would not be heard at all.
#[derive(Debug)]
pub(crate) struct SignalThread {
    _end: DropGuard,
}

impl SignalThread {
    /// Installs the handlers, and returns when that is done.
    pub(crate) fn start(handle: &ShutdownHandle, signals: Signals) -> Result<Self, Error> {
        let failed = |e| Error::new(Kind::Thread("signal")).with_source(e);
        let end = CancellationToken::new();
        let (ended, handle) = (end.clone(), handle.clone());
        let runtime: Runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(failed)?;
        let (tell, installed) = sync_channel(1);
        std::thread::Builder::new()
            .name("prestop-signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    let caught = signals.install();
                    let (caught, said) = match caught {
                        Ok(caught) => (Some(caught), Ok(())),
                        Err(error) => (None, Err(error)),
                    };
                    // `start` waits for exactly this word.
                    let _ = tell.send(said);
                    if let Some(caught) = caught {
                        ended.run_until_cancelled(follow(handle, caught)).await;
                    }
                });
            })
            .map_err(failed)?;
        installed
            .recv()
            .map_err(|e| Error::new(Kind::Thread("signal")).with_source(e))??;
        Ok(Self {
            _end: end.drop_guard(),
        })
    }
}

/// SIGTERM never escalates, however often it comes: the kubelet sends it after a preStop hook has begun the stop.
/// SIGINT is somebody at a keyboard: each one makes more haste.
async fn follow(handle: ShutdownHandle, mut caught: Caught) {
    let mut impatience = 0;
    loop {
        match caught.next().await {
            Arrived::Orderly(name) => {
                handle.trigger(Reason::Signal(name));
            }
            Arrived::Impatient(name) => {
                impatience += 1;
                match impatience {
                    1 => {
                        // Haste first: a stop that this signal begins has no lame duck from its first moment on.
                        handle.end_lame_duck();
                        handle.trigger(Reason::Signal(name));
                    }
                    2 => {
                        tracing::warn!(
                            "{name} again: what is in flight is cut; once more exits at once"
                        );
                        handle.force();
                    }
                    _ => exit_at_once(&handle, name),
                }
            }
        }
    }
}

fn exit_at_once(handle: &ShutdownHandle, name: &str) -> ! {
    handle.state().last_gasps.breathe(LastGasps::BOUND);
    let words = format!(
        "prestop: {name} for the third time, exit at once with code {INTERRUPTED}. So far it was:\n{}",
        handle.state().last_report()
    );
    exit::exit(INTERRUPTED, Some(words))
}
