//! [`MemoryRegistryClient`]: the way to a [`MemoryRegistry`](super::MemoryRegistry) in another process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};

use super::{Body, TTL, beat, gone, in_millis};
use crate::deadline::Deadline;
use crate::registry::http::{Call, HttpClient, encode};
use crate::registry::{Beat, Gone, Instance, LastGasp, Registration, Registry, RegistryError};

/// A [`MemoryRegistry`](super::MemoryRegistry) that another process [serves](super::MemoryRegistry::serve).
///
/// For demonstrations and tests, as the registry itself. Every call ends by its deadline, also when the server
/// accepts and never answers; its error then says what was asked and how far it got.
#[derive(Debug)]
pub struct MemoryRegistryClient {
    client: Arc<HttpClient>,
    ttl: Duration,
    visibility: Duration,
}

impl MemoryRegistryClient {
    /// A client of the registry at `http://host[:port][/prefix]`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When the URL is none of these: `https` among others, and a user or password in it.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        Ok(Self {
            client: Arc::new(HttpClient::new([url])?),
            ttl: TTL,
            visibility: Duration::from_secs(1),
        })
    }

    /// The same client, whose instances expire when no heartbeat came for this long. Counted in whole milliseconds,
    /// at least one.
    ///
    /// Default: 10 s, the shortest expiry that registries are commonly run with.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = in_millis(ttl);
        self
    }

    /// The same client, declaring that clients of the service may still call this long after an instance left.
    ///
    /// Default: 1 s. Over HTTP one can only poll, and once a second is what a demonstration does. Give the longest
    /// interval between two polls.
    #[must_use]
    pub const fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }
}

#[async_trait]
impl Registry for MemoryRegistryClient {
    fn name(&self) -> &str {
        "memory"
    }

    fn visibility(&self) -> Duration {
        self.visibility
    }

    async fn register(
        &self,
        instance: &Instance,
        by: Deadline,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let path = format!(
            "/v1/services/{}/instances/{}",
            encode(instance.service()),
            encode(instance.id())
        );
        let body = Body {
            address: instance.address(),
            metadata: instance.metadata().clone(),
        };
        let body = serde_json::to_vec(&body).map_err(|error| {
            RegistryError::new("the instance could not be written as JSON").with_source(error)
        })?;
        let put = format!("{path}?ttl_ms={}", self.ttl.as_millis());
        let put = Call::new(Method::PUT, put).with_body("application/json", body);
        self.client.send(&put, by).await?.expect_success()?;
        Ok(Box::new(OverHttp {
            client: self.client.clone(),
            path,
            ttl: self.ttl,
        }))
    }
}

#[derive(Debug)]
struct OverHttp {
    client: Arc<HttpClient>,
    /// Of the instance.
    path: String,
    ttl: Duration,
}

impl OverHttp {
    /// Whether the registry knew the instance.
    async fn ask(&self, method: Method, below: &str, by: Deadline) -> Result<bool, RegistryError> {
        let call = Call::new(method, format!("{}{below}", self.path));
        let answer = self.client.send(&call, by).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        answer.expect_success().map(|_| true)
    }
}

#[async_trait]
impl Registration for OverHttp {
    fn listed_for(&self) -> Option<Duration> {
        Some(self.ttl)
    }

    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        let is_listed = self.ask(Method::PUT, "/heartbeat", by).await?;
        Ok(beat(is_listed, self.ttl))
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        self.ask(Method::DELETE, "", by).await.map(gone)
    }

    fn last_gasp(&self) -> Option<LastGasp> {
        let call = Call::new(Method::DELETE, self.path.clone());
        Some(self.client.last_gasp(call))
    }

    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        self.ask(Method::GET, "", by).await.map(Some)
    }
}
