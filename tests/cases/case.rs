//! [`Case`]: what a client does, and how that ends on each path.

use std::fmt;

use futures::future::BoxFuture;
use prestop::WorkKind;

use crate::harness::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// `coordinator.serve`.
    Own,
    /// `axum::serve` on `coordinator.listener`, with the layer, told by `draining()`.
    Stock,
    /// tonic on `coordinator.incoming`, likewise.
    Tonic,
    /// `axum::serve(..).with_graceful_shutdown(..)` and nothing of ours.
    Alone,
}

/// What the client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// All that it asked for, to the last byte.
    Whole,
    /// The end of a connection on which nothing was under way.
    Closed,
    /// A part.
    Cut,
    /// Nothing for a whole request.
    Lost,
    /// No connection.
    Refused,
}

/// When the drain was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Before the linger was.
    AtOnce,
    /// After the linger.
    Linger,
    /// Told after the linger at the latest, and waited for once more.
    TwoLingers,
    /// When the client was done, before the deadline.
    Client,
    Deadline,
    /// Not within the measurement.
    Never,
}

#[derive(Clone, Debug)]
pub struct Promise {
    pub got: Got,
    pub ends: Ends,
    /// The stragglers, without the main future, which on stock servers waits for every connection.
    pub report: Vec<(WorkKind, &'static str)>,
}

pub const fn ends(got: Got, ends: Ends) -> Promise {
    Promise {
        got,
        ends,
        report: Vec::new(),
    }
}

pub const WHOLE: Promise = ends(Got::Whole, Ends::Client);
pub const LINGERS: Promise = ends(Got::Closed, Ends::Linger);
pub const HANGS: Promise = ends(Got::Cut, Ends::Never);

/// A connection on which nothing was asked, and which is there until the deadline.
pub fn stays() -> Promise {
    Promise {
        got: Got::Closed,
        ..cut(&[CONNECTION])
    }
}

fn cut(report: &[(WorkKind, &'static str)]) -> Promise {
    Promise {
        got: Got::Cut,
        ends: Ends::Deadline,
        report: report.to_vec(),
    }
}

/// One that never said what it wants, or whose server does not tell us.
const CONNECTION: (WorkKind, &str) = (WorkKind::Connection, "");

pub struct Case {
    pub name: &'static str,
    /// What can happen before the drain's end.
    pub before: &'static str,
    pub own: Promise,
    /// Of stock axum and stock tonic.
    pub stock: Promise,
    pub alone: Promise,
    pub http2: bool,
    pub lame_duck: bool,
    /// The linger is longer than a busy machine takes for a client's turn.
    pub patient: bool,
    pub few_descriptors: bool,
    /// Over TLS, which is on the own loop alone.
    pub tls: bool,
    /// Run by the harness; `None` where a test of its own does it.
    pub script: Option<Script>,
}

pub type Script = fn(World) -> BoxFuture<'static, Got>;

impl Case {
    pub fn new(name: &'static str, before: &'static str, script: Script) -> Self {
        Self {
            name,
            before,
            own: WHOLE,
            stock: WHOLE,
            alone: WHOLE,
            http2: false,
            lame_duck: false,
            patient: false,
            few_descriptors: false,
            tls: false,
            script: Some(script),
        }
    }

    /// Run by a test of its own.
    pub fn racing(name: &'static str, before: &'static str) -> Self {
        let mut case = Self::new(name, before, |_| unreachable!("has no script"));
        case.script = None;
        case
    }

    /// On both of our paths.
    pub fn ours(self, promise: Promise) -> Self {
        self.own(promise.clone()).stock(promise)
    }

    /// The handler or its body is still at it: the layer knows the request, and nothing of its connection.
    pub fn request_is_cut(self, route: &'static str) -> Self {
        let request = (WorkKind::Request, route);
        self.own(cut(&[request]))
            .stock(cut(&[request, CONNECTION]))
            .alone(HANGS)
    }

    /// All that is left is the socket's: the layer knows nothing of it.
    pub fn socket_is_cut(self, kind: WorkKind, route: &'static str) -> Self {
        self.own(cut(&[(kind, route)])).stock(cut(&[CONNECTION]))
    }

    pub fn own(mut self, promise: Promise) -> Self {
        self.own = promise;
        self
    }

    pub fn stock(mut self, promise: Promise) -> Self {
        self.stock = promise;
        self
    }

    pub fn alone(mut self, promise: Promise) -> Self {
        self.alone = promise;
        self
    }

    pub const fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    pub const fn lame_duck(mut self) -> Self {
        self.lame_duck = true;
        self
    }

    pub const fn patient(mut self) -> Self {
        self.patient = true;
        self
    }

    pub const fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    pub const fn few_descriptors(mut self) -> Self {
        self.few_descriptors = true;
        self
    }

    pub const fn promise(&self, path: Path) -> &Promise {
        match path {
            Path::Own => &self.own,
            Path::Stock | Path::Tonic => &self.stock,
            Path::Alone => &self.alone,
        }
    }

    /// tonic speaks HTTP/2 alone.
    pub fn paths(&self) -> impl Iterator<Item = Path> + use<> {
        let tonic = self.http2.then_some(Path::Tonic);
        let all = [Path::Own, Path::Stock, Path::Alone];
        let (runs, tls) = (self.script.is_some(), self.tls);
        all.into_iter()
            .chain(tonic)
            .filter(move |path| runs && (!tls || *path == Path::Own))
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.got, self.ends) {
            (_, Ends::Never) => "**never ends**",
            (Got::Whole, _) => "served whole",
            (Got::Closed, Ends::AtOnce) => "closed at once",
            (Got::Closed, Ends::Linger) => "closed after the linger",
            (Got::Closed, Ends::TwoLingers) => "closed within twice the linger",
            (Got::Closed, Ends::Client) => "closed with the client",
            (Got::Closed | Got::Cut, Ends::Deadline) => "cut at the deadline",
            (Got::Cut, _) => "**ends at once, cut by the exit**",
            (Got::Lost, _) => "**lost**",
            (Got::Refused, _) => "**refused**",
        })
    }
}
