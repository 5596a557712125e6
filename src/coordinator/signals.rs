//! What a signal means (S9).

use std::io::Write;

use crate::handle::ShutdownHandle;
use crate::reason::Reason;
use crate::signal::{Arrived, Caught};

/// 128 + SIGINT: what a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// SIGTERM never escalates, however often it comes: the kubelet sends it after a preStop hook has begun the stop.
/// SIGINT is somebody at a keyboard: each one makes more haste.
pub(super) async fn follow(handle: ShutdownHandle, caught: Option<Caught>) {
    let Some(mut caught) = caught else {
        return std::future::pending().await;
    };
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
                    _ => exit(&handle, name),
                }
            }
        }
    }
}

fn exit(handle: &ShutdownHandle, name: &str) -> ! {
    // A closed standard error must not keep the process from ending.
    let _ = writeln!(
        std::io::stderr(),
        "prestop: {name} for the third time, exit at once with code {INTERRUPTED}. So far it was:\n{}",
        handle.report()
    );
    std::process::exit(INTERRUPTED)
}
