//! Leaving a registry: the [`Registry`] trait, and its adapters.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::deadline::Deadline;
use crate::error::BoxError;

mod instance;

#[cfg(feature = "consul")]
#[cfg_attr(docsrs, doc(cfg(feature = "consul")))]
pub mod consul;
#[cfg(any(feature = "nacos", feature = "zookeeper"))]
mod dubbo;
#[cfg(feature = "etcd")]
#[cfg_attr(docsrs, doc(cfg(feature = "etcd")))]
pub mod etcd;
#[cfg(feature = "eureka")]
#[cfg_attr(docsrs, doc(cfg(feature = "eureka")))]
pub mod eureka;
#[cfg(feature = "_registry-http")]
pub(crate) mod http;
#[cfg(feature = "memory")]
#[cfg_attr(docsrs, doc(cfg(feature = "memory")))]
pub mod memory;
#[cfg(feature = "nacos")]
#[cfg_attr(docsrs, doc(cfg(feature = "nacos")))]
pub mod nacos;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "zookeeper")]
#[cfg_attr(docsrs, doc(cfg(feature = "zookeeper")))]
pub mod zookeeper;

pub use crate::last_gasp::LastGasp;
pub use instance::Instance;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub use tls::Tls;

/// A service registry: where clients find instances, and keep calling them until they are gone from it.
///
/// The coordinator registers when the service is [`Ready`](crate::Phase::Ready), keeps the registration alive, and
/// leaves first of all when a stop begins. An adapter says how; when and how often is the coordinator's.
///
/// Every call gets a [`Deadline`]: it must return by then, and is dropped when it does not.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// The registry's name in reports and log lines, `consul` for instance.
    fn name(&self) -> &str;

    /// How long after a successful deregistration some client may still call: caches, polls, push delays. The lame
    /// duck lasts at least this long; [`build`](crate::ShutdownCoordinatorBuilder::build) fails when that does not
    /// fit into the grace period.
    fn visibility(&self) -> Duration;

    /// Makes the instance visible to clients.
    ///
    /// # Errors
    ///
    /// When it could not be registered; the coordinator tries again.
    ///
    /// # Cancel safety
    ///
    /// Need not be cancel safe: a call that overran its deadline is treated as "may have been registered".
    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError>;
}

/// Which registry it is can be a matter of configuration.
#[async_trait]
impl<R: Registry + ?Sized> Registry for Box<R> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn visibility(&self) -> Duration {
        (**self).visibility()
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        (**self).register(instance, by).await
    }
}

/// One instance in one registry. The coordinator's actor owns it: heartbeats and the deregistration are calls on
/// `&mut self`, so that no heartbeat can overtake the deregistration and bring the instance back (S6).
#[async_trait]
pub trait Registration: Send + 'static {
    /// How long the registry lists the instance after [`register`](Registry::register) if it hears nothing more. Asked
    /// once; every heartbeat says it anew. So it is known when a stop comes right after the registration and the
    /// registry does not answer.
    ///
    /// Default: `None`, it is not known before the first heartbeat, which follows at once.
    fn listed_for(&self) -> Option<Duration> {
        None
    }

    /// Keeps the registration alive.
    ///
    /// # Errors
    ///
    /// When it is not known whether the registry heard it; the coordinator tries again before the entry expires.
    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError>;

    /// Takes the instance out for good. That it was not there any more is success.
    ///
    /// # Errors
    ///
    /// When it is not gone, or that is not known ([`RegistryError::unknown`], or no answer by the deadline): then the
    /// coordinator asks [`is_listed`](Self::is_listed). In both cases it tries again within the leave budget.
    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError>;

    /// Marks the instance as unwilling to take traffic, while it stays registered.
    ///
    /// # Errors
    ///
    /// By default [`RegistryError::unsupported`].
    async fn set_out_of_service(&mut self, by: Deadline) -> Result<(), RegistryError> {
        let _ = by;
        Err(RegistryError::unsupported("set_out_of_service"))
    }

    /// How to leave when nothing of the process runs any more: asked once, right after
    /// [`register`](Registry::register), and used when the process is ended by a panic, by the watchdog or by a third
    /// Ctrl-C before the instance has left.
    ///
    /// Default: `None`, the entry expires.
    fn last_gasp(&self) -> Option<LastGasp> {
        None
    }

    /// Whether clients are still given the instance; `None` where the registry cannot be asked.
    ///
    /// # Errors
    ///
    /// When the registry did not answer.
    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        let _ = by;
        Ok(None)
    }
}

/// What a heartbeat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The registration is alive.
    Alive {
        /// When the next heartbeat is due; a third of the time to live leaves room for two lost ones.
        next: Duration,
        /// How long the registry goes on listing the instance if it hears nothing more.
        listed_for: Duration,
    },
    /// The registry does not know the instance (any more). It is registered again, unless a stop has begun.
    Lost,
}

/// How an instance left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It was there and was removed.
    Removed,
    /// It was not there.
    AlreadyGone,
}

/// Why a call to a registry failed. The message says what was tried, on what, and what came back.
#[derive(Debug)]
pub struct RegistryError {
    message: String,
    kind: ErrorKind,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ErrorKind {
    /// It was not done.
    Failed,
    /// It may have been done.
    Unknown,
    Unsupported,
}

impl RegistryError {
    /// What was asked was not done: the registry refused, or was not reached. The message says what was tried, on what,
    /// what came back.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(ErrorKind::Failed, message)
    }

    /// It is not known whether what was asked was done: no answer came in time, or the connection broke before one. A
    /// registry that was frozen does it when it wakes.
    #[must_use]
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::of(ErrorKind::Unknown, message)
    }

    /// The registry has no such operation.
    #[must_use]
    pub fn unsupported(operation: &str) -> Self {
        let message = format!("{operation} is not supported");
        Self::of(ErrorKind::Unsupported, message)
    }

    fn of(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            kind,
            source: None,
        }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether what was asked may have been done all the same.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self.kind, ErrorKind::Unknown)
    }

    /// Whether the registry has no such operation, so that trying again is useless.
    #[must_use]
    pub const fn is_unsupported(&self) -> bool {
        matches!(self.kind, ErrorKind::Unsupported)
    }
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RegistryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
