//! [`Acceptor`]: a listener from its first connection to its closing, for the own loop and for stock servers.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::handle::{Guard, ShutdownHandle};
use crate::phase::Phase;
use crate::random::Spread;
use crate::roster::{Straggler, Work};
use crate::state::{Haste, Signal};

use super::connection::Connection;
use super::linger::LONGEST;
use super::listener::{Listener, back_off};
use super::transport::Transport;

/// How long new handshakes are ignored before the listener closes: those that were answered by then take a round trip
/// to be queued, and no two hosts of one cluster are farther apart.
const SETTLE: Duration = Duration::from_millis(200);

/// The accept queue counts as empty after this long without a connection: the kernel hands over a finished handshake
/// at once, tokio's reactor within a millisecond or two.
const QUIET: Duration = Duration::from_millis(20);

/// The sweep is bounded: where new handshakes can't be ignored, it would not end while clients go on connecting. Longer
/// than the settle time, which it contains when the lame duck had none of it.
const SWEEP: Duration = Duration::from_millis(250);

/// A listener under a coordinator: holds the drain open until its accept queue was swept and it is closed (S4).
pub(super) struct Acceptor<L: Listener> {
    handle: ShutdownHandle,
    /// None once it is closed.
    open: Option<Open<L>>,
    signal: watch::Receiver<Signal>,
    /// Once it has begun.
    sweep: Option<Sweep>,
    /// How long it may last for want of file descriptors. An accept then fails whether somebody waits or not.
    patience: Duration,
    accepted: u64,
    /// The places of connections in the rotation.
    shares: Spread,
}

struct Sweep {
    began: Instant,
    /// When it ends, whoever may still connect.
    end: Instant,
    /// When it ends for want of file descriptors.
    last: Instant,
    /// The last time that the queue was not empty, for all that is known.
    busy: Instant,
}

struct Open<L: Listener> {
    listener: L,
    handshakes: Handshakes,
    _guard: Guard,
}

/// What the kernel does with a client that is new.
#[derive(Clone, Copy, Debug)]
enum Handshakes {
    /// It is answered.
    Answered,
    /// It is ignored, since then.
    Ignored(Instant),
    /// It is answered: there is no way to ask for the other.
    AlwaysAnswered,
}

impl<L: Listener> Acceptor<L> {
    /// Counted at once: what was made for a coordinator is waited for by it.
    pub(super) fn new(handle: &ShutdownHandle, listener: L) -> Self {
        // Idle connections give their descriptors back when their linger is over.
        let patience = handle.state().settings.linger.saturating_mul(LONGEST);
        let patience = patience.saturating_add(SWEEP);
        Self::with_patience(handle, listener, patience)
    }

    /// For a stock server, which closes idle connections when it is told, and is told after linger and sweep.
    pub(super) fn for_stock(handle: &ShutdownHandle, listener: L) -> Self {
        Self::with_patience(handle, listener, handle.state().settings.linger)
    }

    fn with_patience(handle: &ShutdownHandle, listener: L, patience: Duration) -> Self {
        let guard = handle.enter(Arc::new(OpenListener));
        Self {
            open: guard.ok().map(|guard| Open {
                listener,
                handshakes: Handshakes::Answered,
                _guard: guard,
            }),
            signal: handle.state().subscribe(),
            handle: handle.clone(),
            sweep: None,
            patience,
            accepted: 0,
            shares: Spread::new(),
        }
    }

    /// The next connection, counted before it is handed out (T1); `None` once the listener was swept and closed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no connection is lost.
    pub(super) async fn next(&mut self) -> Option<(Arc<Connection>, Transport<L::Io>)> {
        loop {
            let open = self.open.as_mut()?;
            let signal = *self.signal.borrow_and_update();
            let now = Instant::now();
            let at = if signal.phase < Phase::Draining {
                let near = drain_is_near(&signal);
                if near.is_some_and(|at| at <= now) {
                    open.ignore_handshakes();
                }
                near.filter(|at| *at > now)
            } else {
                // What connected before the listener closes is served: dropped with the queue, it would be reset
                // after its handshake, often with a request already sent (T9).
                open.ignore_handshakes();
                let sweep = self
                    .sweep
                    .get_or_insert_with(|| Sweep::new(&signal, self.patience));
                let swept = sweep.over_at(open.handshakes, signal.haste);
                if swept <= now {
                    return self.close();
                }
                Some(swept)
            };
            let accepted = tokio::select! {
                biased;
                // The sender lives as long as the state, and so as long as the handle.
                _ = self.signal.changed() => continue,
                // Before the clock: the queue is found empty, not only said to be.
                accepted = open.listener.accept_one() => accepted,
                () = sleep_until(at.unwrap_or(now)), if at.is_some() => continue,
            };
            if let Some(connection) = self.admit(accepted).await {
                return Some(connection);
            }
        }
    }

    async fn admit(
        &mut self,
        accepted: io::Result<(L::Io, Option<SocketAddr>)>,
    ) -> Option<(Arc<Connection>, Transport<L::Io>)> {
        if let Some(sweep) = &mut self.sweep {
            sweep.busy = Instant::now();
        }
        match accepted {
            Ok((io, peer)) => {
                if let Some(open) = &self.open {
                    open.listen_to(&io);
                }
                let share = self.shares.next();
                self.accepted += 1;
                // Refused only after a force close: the drain was cut while the listener was open.
                let connection = Connection::accepted(&self.handle, peer, share).ok()?;
                let transport = Transport::new(io, connection.clone());
                Some((connection, transport))
            }
            Err(error) => {
                match back_off(&error) {
                    None => tracing::debug!(%error, "a client gave up before it was accepted"),
                    Some(wait) => {
                        let Some(sweep) = &mut self.sweep else {
                            tracing::error!(listener = %self, %error, ?wait, "accept failed");
                            tokio::time::sleep(wait).await;
                            return None;
                        };
                        sweep.go_on();
                        tracing::debug!(listener = %self, %error, "accept failed");
                        // Often enough for a connection that ends to make room.
                        tokio::time::sleep(QUIET / 4).await;
                    }
                }
                None
            }
        }
    }

    fn close<T>(&mut self) -> Option<T> {
        tracing::info!(listener = %self, accepted = self.accepted, "listener closed");
        self.open = None;
        None
    }
}

impl<L: Listener> Open<L> {
    /// Asks for it once.
    fn ignore_handshakes(&mut self) {
        if !matches!(self.handshakes, Handshakes::Answered) {
            return;
        }
        let listener = self.listener.describe();
        self.handshakes = match self.listener.ignore_handshakes() {
            Ok(()) => {
                tracing::debug!(listener, "new handshakes are ignored from now on");
                Handshakes::Ignored(Instant::now())
            }
            Err(error) => {
                tracing::debug!(listener, %error, bound = ?SWEEP, "new handshakes can't be ignored: the sweep ends by its bound");
                Handshakes::AlwaysAnswered
            }
        };
    }

    fn listen_to(&self, io: &L::Io) {
        if let Handshakes::Ignored(_) = self.handshakes
            && let Err(error) = L::listen_to(io)
        {
            tracing::warn!(listener = self.listener.describe(), %error, "an accepted connection stays deaf");
        }
    }
}

/// The option is the socket's, not this process's: a listener that was inherited (socket activation) or handed on (a
/// restart in place) lives on after its descriptor here is closed, and would be deaf for good. Nobody can ask whether it
/// will. What arrives between this and the close, two system calls later, is lost as it was before there was a sweep.
impl<L: Listener> Drop for Open<L> {
    fn drop(&mut self) {
        if let Handshakes::Ignored(_) = self.handshakes
            && let Err(error) = self.listener.answer_handshakes()
        {
            tracing::warn!(listener = self.listener.describe(), %error, "a listener that others share stays deaf");
        }
    }
}

impl Sweep {
    fn new(signal: &Signal, patience: Duration) -> Self {
        let now = Instant::now();
        // A drain may be shorter than a sweep: the other half is for those it found.
        let drain = signal.stop.map_or(SWEEP, |stop| stop.drain_by.remaining());
        Self {
            began: now,
            end: now + SWEEP.min(drain / 2),
            last: now + patience.min(drain / 2),
            busy: now,
        }
    }

    /// Nobody was accepted for want of descriptors, which may change.
    fn go_on(&mut self) {
        self.end = self.last.min(Instant::now() + SWEEP).max(self.end);
    }

    /// When the queue counts as swept, as long as nobody connects.
    fn over_at(&self, handshakes: Handshakes, haste: Haste) -> Instant {
        let quiet = self.busy + QUIET;
        let over = match (haste, handshakes) {
            (Haste::None, Handshakes::Ignored(since)) => quiet.max(since + SETTLE),
            (Haste::None | Haste::EndLameDuck, _) => quiet,
            (Haste::Force, _) => self.began + QUIET,
        };
        over.min(self.end)
    }
}

/// When new handshakes are to be ignored so that the settle time is the tail of the lame duck. `None` while its end is
/// not known, which a running `pre_stop` hook may put off: a service that goes on accepting answers. It is then taken
/// from the drain, as it is from a lame duck that is shorter or ends early.
fn drain_is_near(signal: &Signal) -> Option<Instant> {
    let (from, length) = signal.lame_duck?;
    let by = signal.stop?.lame_duck_by.instant();
    (signal.phase == Phase::LameDuck && signal.pre_stop_done && length >= SETTLE)
        .then(|| (from + length).min(by.max(from + SETTLE)) - SETTLE)
}

impl<L: Listener> fmt::Display for Acceptor<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.open {
            Some(open) => f.write_str(&open.listener.describe()),
            None => f.write_str("closed"),
        }
    }
}

/// Holds the drain open until the listener is swept and closed.
struct OpenListener;

impl Work for OpenListener {
    fn describe(&self, _into: &mut Vec<Straggler>) {}

    fn cut(&self) {}
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    use crate::coordinator::ShutdownCoordinator;
    use crate::reason::Reason;

    fn handle() -> ShutdownHandle {
        let c = ShutdownCoordinator::builder_without_signals().build();
        c.expect("the defaults fit").handle()
    }

    fn stopping(lame_duck: Duration) -> ShutdownHandle {
        let handle = handle();
        handle.trigger(Reason::requested("test"));
        handle.state().plan_lame_duck(Instant::now(), lame_duck);
        handle.state().raise(Phase::LameDuck);
        handle
    }

    fn near(handle: &ShutdownHandle) -> Option<Duration> {
        let at = drain_is_near(&handle.state().signal());
        at.map(|at| at - Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn the_settle_time_is_the_tail_of_a_lame_duck_whose_end_is_known() {
        assert_eq!(near(&handle()), None, "there is no stop");
        let handle = stopping(Duration::from_secs(5));
        assert_eq!(near(&handle), None, "a hook runs");
        handle.state().pre_stop_done();
        assert_eq!(near(&handle), Some(Duration::from_millis(4800)));
        handle.trigger_within(Reason::requested("sooner"), Duration::from_secs(4));
        let by = handle.state().signal().stop.expect("it stops").lame_duck_by;
        assert_eq!(near(&handle), Some(by.remaining() - SETTLE));
        assert!(near(&handle) < Some(Duration::from_secs(4)));
        handle.state().raise(Phase::Draining);
        assert_eq!(near(&handle), None, "it is too late");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lame_duck_shorter_than_the_settle_time_accepts_for_all_of_it() {
        let handle = stopping(SETTLE - Duration::from_millis(1));
        handle.state().pre_stop_done();
        assert_eq!(near(&handle), None);
    }

    /// A client for whom it is done before the kernel has heard of that: here it waits for the first data, elsewhere
    /// for an ACK that is on its way.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_handshake_that_was_half_done_is_accepted_and_heard() {
        use std::io::Write;

        use tokio::io::AsyncReadExt;
        use tokio::net::TcpListener;

        use crate::server::handshakes::set_option;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fd = std::os::fd::AsFd::as_fd(&listener);
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5).unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();

        let handle = stopping(Duration::from_secs(1));
        let mut acceptor = Acceptor::new(&handle, listener);
        acceptor.open.as_mut().unwrap().ignore_handshakes();
        let soon = Duration::from_millis(100);
        std::net::TcpStream::connect_timeout(&address, soon).expect_err("a new one");
        client.write_all(b"one").unwrap();
        // Inherited, the option would keep the rest from it.
        let (_, mut io) = acceptor.next().await.expect("it was connected");
        client.write_all(b"two").unwrap();
        let mut heard = [0; 6];
        let read = io.read_exact(&mut heard);
        tokio::time::timeout(Duration::from_secs(5), read)
            .await
            .expect("not deaf")
            .unwrap();
        assert_eq!(&heard, b"onetwo");
    }
}
