//! [`Signals`]: what the operating system sends to end the process.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Kind};

/// Which signals begin a stop.
///
/// SIGTERM (the kubelet, systemd, docker) and SIGINT (Ctrl-C) always; SIGQUIT when asked for: images made from nginx
/// inherit `STOPSIGNAL SIGQUIT`. As PID 1 a signal without a handler is dropped by the kernel, so a pod whose image
/// has an odd STOPSIGNAL dies by SIGKILL alone.
///
/// Elsewhere than on Unix: Ctrl-C.
#[derive(Clone, Copy, Debug, Default)]
pub struct Signals {
    quit: bool,
}

impl Signals {
    /// SIGTERM and SIGINT.
    #[must_use]
    pub const fn new() -> Self {
        Self { quit: false }
    }

    /// The same, and SIGQUIT as SIGTERM.
    #[must_use]
    pub const fn and_quit(mut self) -> Self {
        self.quit = true;
        self
    }

    /// Installs the handlers. From here on the signals are kept until they are read.
    #[cfg(unix)]
    pub(crate) fn install(self) -> Result<Caught, Error> {
        let on =
            |kind, name| signal(kind).map_err(|e| Error::new(Kind::Signal(name)).with_source(e));
        Ok(Caught {
            terminate: on(SignalKind::terminate(), "SIGTERM")?,
            interrupt: on(SignalKind::interrupt(), "SIGINT")?,
            quit: if self.quit {
                Some(on(SignalKind::quit(), "SIGQUIT")?)
            } else {
                None
            },
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn install(self) -> Result<Caught, Error> {
        Ok(Caught {})
    }
}

/// One signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// End in order: SIGTERM, SIGQUIT. Repeated, it changes nothing (S9).
    Orderly(&'static str),
    /// Somebody at a keyboard: SIGINT. Each one makes more haste (S9).
    Impatient(&'static str),
}

/// The installed handlers.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Caught {
    terminate: Signal,
    interrupt: Signal,
    quit: Option<Signal>,
}

#[cfg(unix)]
impl Caught {
    /// The next signal.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a signal that was not returned is returned by the next call.
    pub(crate) async fn next(&mut self) -> Arrived {
        let quit = async {
            match &mut self.quit {
                Some(quit) => quit.recv().await,
                None => std::future::pending().await,
            }
        };
        // `None` is documented never to come while the runtime lives.
        tokio::select! {
            Some(()) = self.terminate.recv() => Arrived::Orderly("SIGTERM"),
            Some(()) = self.interrupt.recv() => Arrived::Impatient("SIGINT"),
            Some(()) = quit => Arrived::Orderly("SIGQUIT"),
            else => std::future::pending().await,
        }
    }
}

#[cfg(not(unix))]
#[derive(Debug)]
pub(crate) struct Caught {}

#[cfg(not(unix))]
impl Caught {
    pub(crate) async fn next(&mut self) -> Arrived {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Arrived::Impatient("Ctrl-C"),
            Err(_) => std::future::pending().await,
        }
    }
}
