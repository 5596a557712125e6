//! HAProxy's [agent check](https://docs.haproxy.org/2.6/configuration.html#5.2-agent-check): the balancer asks, on a port
//! of its own, what it should do with this server.
//!
//! ```no_run
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let app = axum::Router::<()>::new();
//! use prestop::ShutdownCoordinator;
//! use prestop::haproxy::AgentCheck;
//! use tokio::net::TcpListener;
//!
//! let agent = AgentCheck::new(TcpListener::bind("10.0.0.5:9091").await?);
//! let c = ShutdownCoordinator::builder().haproxy_agent(agent).build()?;
//! c.serve(TcpListener::bind("10.0.0.5:8080").await?, app).await?.exit()
//! # }
//! ```
//!
//! ```text
//! server orders-1 10.0.0.5:8080 check agent-check agent-port 9091 agent-inter 1s
//! ```
//!
//! | phase | answer | what HAProxy does |
//! |---|---|---|
//! | `Starting` | `down #starting` | sends nothing, not to a server either that it takes for up because it is itself new |
//! | `Ready` | `up ready` | sends requests; whatever an earlier process at this address said is taken back, and what an operator set (`state maint`, `state drain`) unless the agent is disabled first |
//! | every later one, until the process ends | `drain` | sends no request more, except those of persistent sessions; what is in flight goes on |
//!
//! The lame duck is the time until every balancer has fetched the `drain`: it lasts until then, which is the interval of
//! the agent check at the most, and its own length at the least. (Where nothing but HAProxy leads here, that may be
//! zero, the default outside of Kubernetes.) With the balancer's configuration and figures: [`_docs::gateways`].
//!
//! [`_docs::gateways`]: crate::_docs::gateways

mod answer;
mod balancers;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::handle::ShutdownHandle;
use crate::sync::lock;

use balancers::{Balancers, Missing};

/// HAProxy's own default of `agent-inter`.
const AGENT_INTER: Duration = Duration::from_secs(2);

/// For a connection that waits on a busy machine, beside the intervals.
const SLACK: Duration = Duration::from_secs(1);

/// A balancer reads its answer and closes in a round trip. Who holds a connection open is none.
const CONVERSATION: Duration = Duration::from_secs(1);

/// Said by the hook, so that what is missing stands in the report, and not just that its time was up.
const BEFORE_THE_LIMIT: Duration = Duration::from_millis(50);

/// Answers HAProxy's agent checks, and knows when they have all been told to drain; given to
/// [`haproxy_agent`](crate::ShutdownCoordinatorBuilder::haproxy_agent).
///
/// Whoever reaches the port learns whether the service is stopping, and can put the end of the lame duck off
/// [for so long](Self::with_limit): bind it where the balancers are. At most 64 connections are held, each
/// for 5 s.
///
/// A balancer is an address from which was asked, and the text it sends if its `agent-send` has one (64 bytes of it are
/// looked at). One that asks more often than every [interval](Self::with_agent_inter) is taken for several checks behind
/// one address (two backends with this server, two processes, a NAT): it has been told when it has asked as often as in
/// an interval before the stop. `agent-send "lb1-orders\n"` tells them apart.
#[derive(Debug)]
pub struct AgentCheck {
    listener: TcpListener,
    agent_inter: Duration,
    limit: Option<Duration>,
    leaving: &'static str,
}

impl AgentCheck {
    /// Answers on this listener: from `build` until [`Stopped`](crate::Phase::Stopped).
    #[must_use]
    pub const fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            agent_inter: AGENT_INTER,
            limit: None,
            leaving: "drain\n",
        }
    }

    /// The longest `agent-inter` that a balancer is configured with (with `spread-checks`: and that share more).
    ///
    /// Default: 2 s, HAProxy's own.
    #[must_use]
    pub const fn with_agent_inter(mut self, agent_inter: Duration) -> Self {
        self.agent_inter = agent_inter;
        self
    }

    /// How long is waited for balancers to ask, as the limit of a `pre_stop` hook. One that has not asked then is in the
    /// report by name, and the stop goes on.
    ///
    /// Default: twice the [interval](Self::with_agent_inter) and a second, so that one of its checks may be lost.
    #[must_use]
    pub const fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Says `maint` in place of `drain`: HAProxy sends nothing any more, not the requests of persistent sessions either,
    /// whose server is chosen by cookie or stick table. With `drain` those come until the listener is closed, and fail
    /// then where there is no `option redispatch`.
    ///
    /// Not for servers with `on-marked-down shutdown-sessions`: there `maint` cuts what is in flight. And HAProxy stops its
    /// health checks until an agent at this address says `ready` again.
    #[must_use]
    pub const fn with_maint(mut self) -> Self {
        self.leaving = "maint\n";
        self
    }

    /// The two halves: one that answers, one that is waited for.
    pub(crate) fn into_parts(self) -> (Answers, Told) {
        let asked = Arc::new(Asked {
            balancers: Mutex::new(Balancers::new(self.agent_inter)),
            open: AtomicUsize::new(0),
            news: Notify::new(),
        });
        let told = Told {
            asked: asked.clone(),
            limit: self
                .limit
                .unwrap_or_else(|| self.agent_inter.saturating_mul(2).saturating_add(SLACK)),
        };
        let answers = Answers {
            listener: self.listener,
            leaving: self.leaving,
            asked,
        };
        (answers, told)
    }
}

/// Who asked, and what they were told.
#[derive(Debug)]
struct Asked {
    balancers: Mutex<Balancers>,
    /// Conversations that are not over: with whom is yet to be known.
    open: AtomicUsize,
    /// Of a conversation that is over.
    news: Notify,
}

/// A conversation, from before its answer is chosen.
struct Conversation(Arc<Asked>);

impl Conversation {
    fn begin(asked: &Arc<Asked>) -> Self {
        asked.open.fetch_add(1, Ordering::SeqCst);
        Self(asked.clone())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.news.notify_waiters();
    }
}

pub(crate) struct Answers {
    listener: TcpListener,
    leaving: &'static str,
    asked: Arc<Asked>,
}

impl Answers {
    /// Answers until it is dropped. Its connections are exempt by being counted nowhere: they are dropped with it.
    pub(crate) async fn run(self, handle: ShutdownHandle) {
        answer::listen(self, handle).await;
    }
}

/// What the lame duck waits for.
pub(crate) struct Told {
    asked: Arc<Asked>,
    limit: Duration,
}

impl Told {
    /// How long that may take at the most.
    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Resolves when every balancer has fetched the news that the service leaves.
    pub(crate) async fn wait(self, by: Deadline) -> Result<(), NotTold> {
        let since = Instant::now();
        let by = by.earlier_by(BEFORE_THE_LIMIT);
        // One that was told just now that the service is ready is on record when it has read that.
        let read = by.min(Deadline::after(CONVERSATION));
        read.bound(self.nobody_reads()).await;
        loop {
            // Before the look, so that no news is between the two.
            let news = self.asked.news.notified();
            let missing = lock(&self.asked.balancers).missing(since);
            if missing.is_empty() {
                tracing::info!(took = ?since.elapsed(), "every HAProxy has been told");
                return Ok(());
            }
            if by.bound(news).await.is_none() {
                return Err(NotTold(missing));
            }
        }
    }

    async fn nobody_reads(&self) {
        loop {
            let news = self.asked.news.notified();
            if self.asked.open.load(Ordering::SeqCst) == 0 {
                return;
            }
            news.await;
        }
    }
}

/// Some balancers have not asked since the stop began.
#[derive(Debug)]
pub(crate) struct NotTold(Vec<Missing>);

impl fmt::Display for NotTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HAProxy may still send requests here: ")?;
        for (n, missing) in self.0.iter().enumerate() {
            write!(f, "{}{missing}", if n == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for NotTold {}
