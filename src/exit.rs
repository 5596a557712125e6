//! Ending the process with last words, whatever state standard error is in.

use std::io::Write;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Longer than a write to a pipe with a reader takes, shorter than any exit reserve.
const WORDS: Duration = Duration::from_millis(200);

/// Says it on standard error and exits. A pipe that is full, or whose lock a stuck thread holds, would keep a write
/// for ever: so another thread writes, and is waited for no longer than 200 ms.
pub(crate) fn exit(code: i32, last_words: Option<String>) -> ! {
    if let Some(words) = last_words {
        let (written, wait) = sync_channel::<()>(1);
        let writer = std::thread::Builder::new()
            .name("prestop-exit".into())
            .spawn(move || {
                // A closed standard error must not keep the process from ending.
                let _ = writeln!(std::io::stderr(), "{words}");
                drop(written);
            });
        if writer.is_ok() {
            // Its end closes the channel.
            let _ = wait.recv_timeout(WORDS);
        }
    }
    std::process::exit(code)
}
