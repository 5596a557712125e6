//! One instance on the agent that took it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, StatusCode};

use crate::deadline::Deadline;
use crate::registry::http::{Answer, Call, HttpClient, encode};
use crate::registry::{Beat, Gone, Instance, LastGasp, Registration, RegistryError};

/// The agent's own name for the one check of a service.
pub(super) fn check_id(instance: &Instance) -> String {
    format!("service:{}", instance.id())
}

#[derive(Debug)]
pub(super) struct Entry {
    agent: Arc<HttpClient>,
    id: String,
    /// Encoded, as the others below.
    id_in_path: String,
    check_in_path: String,
    service_in_path: String,
    ttl: Duration,
    maintenance_first: bool,
    /// There are other agents that could have it.
    others: bool,
    /// The agent has it, as far as is known.
    known: bool,
    /// By then the agent calls the check critical.
    expires: Deadline,
}

impl Entry {
    pub(super) fn new(agent: Arc<HttpClient>, instance: &Instance, ttl: Duration) -> Self {
        Self {
            agent,
            id: instance.id().to_owned(),
            id_in_path: encode(instance.id()),
            check_in_path: encode(&check_id(instance)),
            service_in_path: encode(instance.service()),
            ttl,
            maintenance_first: false,
            others: false,
            known: true,
            expires: Deadline::after(ttl),
        }
    }

    pub(super) const fn with_maintenance_first(mut self, maintenance_first: bool) -> Self {
        self.maintenance_first = maintenance_first;
        self
    }

    pub(super) const fn with_others(mut self, others: bool) -> Self {
        self.others = others;
        self
    }

    pub(super) async fn register(
        &mut self,
        body: Vec<u8>,
        by: Deadline,
    ) -> Result<(), RegistryError> {
        // Without it the checks of an earlier registration under the same id would stay.
        let path = "/v1/agent/service/register?replace-existing-checks=true";
        let call = Call::new(Method::PUT, path).with_body("application/json", body);
        self.agent.send(&call, by).await?.expect_success()?;
        self.expires = Deadline::after(self.ttl);
        if self.maintenance_first {
            // It outlives its process, where an id is used again. Not to know it is to have an id that is new.
            self.maintain(false, by).await?;
        }
        Ok(())
    }

    async fn maintain(&self, enable: bool, by: Deadline) -> Result<Answer, RegistryError> {
        let path = format!(
            "/v1/agent/service/maintenance/{}?enable={enable}&reason=stopping",
            self.id_in_path
        );
        self.put(path, by).await
    }

    async fn put(&self, path: String, by: Deadline) -> Result<Answer, RegistryError> {
        self.agent.send(&Call::new(Method::PUT, path), by).await
    }

    fn deregistration(&self) -> String {
        format!("/v1/agent/service/deregister/{}", self.id_in_path)
    }
}

/// What an agent says that does not know the service or the check: 404, or in Consul 1.8 a 500 with these words.
fn is_unknown(answer: &Answer) -> bool {
    let says = |words: &str| String::from_utf8_lossy(&answer.body).contains(words);
    answer.status == StatusCode::NOT_FOUND
        || answer.status == StatusCode::INTERNAL_SERVER_ERROR
            && (says("does not have associated TTL") || says("Unknown check"))
}

#[async_trait]
impl Registration for Entry {
    fn listed_for(&self) -> Option<Duration> {
        Some(self.ttl)
    }

    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        let path = format!("/v1/agent/check/pass/{}", self.check_in_path);
        let answer = match self.put(path, by).await {
            Ok(answer) => answer,
            // Its agent is gone: another one is to have it.
            Err(error) if self.others && self.expires.is_over() => {
                tracing::warn!(%error, "the Consul agent is given up");
                return Ok(Beat::Lost);
            }
            Err(error) => return Err(error),
        };
        if is_unknown(&answer) {
            self.known = false;
            return Ok(Beat::Lost);
        }
        answer.expect_success()?;
        self.expires = Deadline::after(self.ttl);
        Ok(Beat::Alive {
            // Room for two that get lost.
            next: self.ttl / 3,
            listed_for: self.ttl,
        })
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        if self.maintenance_first && self.known {
            // Half of the time at most: what counts comes after it.
            let half = by.min(Deadline::after(by.remaining() / 2));
            let maintained = self.maintain(true, half).await;
            if let Err(error) = maintained.and_then(Answer::expect_success) {
                tracing::debug!(%error, "no maintenance before the deregistration");
            }
        }
        let answer = self.put(self.deregistration(), by).await?;
        if is_unknown(&answer) {
            self.known = false;
            return Ok(Gone::AlreadyGone);
        }
        answer.expect_success()?;
        // Consul 1.8 says the same of a service that it does not know.
        Ok(match std::mem::replace(&mut self.known, false) {
            true => Gone::Removed,
            false => Gone::AlreadyGone,
        })
    }

    fn last_gasp(&self) -> Option<LastGasp> {
        let call = Call::new(Method::PUT, self.deregistration());
        Some(self.agent.last_gasp(call))
    }

    async fn set_out_of_service(&mut self, by: Deadline) -> Result<(), RegistryError> {
        self.maintain(true, by).await?.expect_success().map(|_| ())
    }

    /// What the servers tell clients, not what the agent knows: it may not have told them yet.
    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        let only = format!("Service.ID == {:?}", self.id);
        let path = format!(
            "/v1/health/service/{}?passing=true&filter={}",
            self.service_in_path,
            encode(&only)
        );
        let answer = self.agent.send(&Call::new(Method::GET, path), by).await?;
        let answer = answer.expect_success()?;
        let listed: Vec<serde_json::Value> =
            serde_json::from_slice(&answer.body).map_err(|error| {
                RegistryError::new(format!("{}, not a list", answer.unexpected()))
                    .with_source(error)
            })?;
        Ok(Some(!listed.is_empty()))
    }
}
