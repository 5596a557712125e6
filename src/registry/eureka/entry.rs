//! One instance on the servers.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use http::{Method, StatusCode};
use serde_json::Value;

use super::{Eureka, info};
use crate::deadline::Deadline;
use crate::registry::http::{Answer, Call, HttpClient, encode};
use crate::registry::{Beat, Gone, Instance, LastGasp, Registration, RegistryError};
use crate::sync::lock;

/// Between two looks at servers that are still to be told by the one that was asked.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Between heartbeats while a status is still to be cleared: with one in its place clients may not be given the instance.
const CLEAR_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Entry {
    client: Arc<HttpClient>,
    id: String,
    /// `/apps/ORDERS`
    app: String,
    /// `/apps/ORDERS/<id>`
    path: String,
    ttl: Duration,
    listed_for: Duration,
    out_of_service_first: bool,
    /// The ids whose overridden status was cleared.
    cleared: Arc<Mutex<HashSet<String>>>,
    /// Ours was not yet.
    uncleared: bool,
    /// The instance is on its way out: it is to be gone, not only out of service.
    leaving: bool,
    /// Some server was seen to list it after a deletion was sent, or was not asked since one went well.
    unconfirmed: bool,
    /// The last heartbeat was not answered: the server may still take it, and hand it on to those that know of the deletion.
    unanswered: bool,
}

impl Entry {
    pub(super) fn new(eureka: &Eureka, instance: &Instance) -> Self {
        let app = format!("/apps/{}", encode(&info::app(instance)));
        Self {
            client: eureka.client.clone(),
            id: instance.id().to_owned(),
            path: format!("{app}/{}", encode(instance.id())),
            app,
            ttl: eureka.ttl,
            // A renewal adds the duration twice, a bug that is kept for compatibility (`Lease.isExpired`).
            listed_for: (eureka.ttl * 2).saturating_add(eureka.eviction_interval),
            out_of_service_first: eureka.out_of_service_first,
            cleared: eureka.cleared.clone(),
            uncleared: !lock(&eureka.cleared).contains(instance.id()),
            leaving: false,
            unconfirmed: false,
            unanswered: false,
        }
    }

    pub(super) async fn register(&self, body: Vec<u8>, by: Deadline) -> Result<(), RegistryError> {
        let call = Call::new(Method::POST, &self.app)
            .with_body("application/json", body)
            // The id is given: twice is once.
            .idempotent();
        let answer = self.client.send(&call, by).await?;
        let hint = match answer.status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                "is Eureka's path in the URL, /eureka or /eureka/v2?"
            }
            StatusCode::UNAUTHORIZED => {
                "the server asks for a user: write it into the URL, http://user:password@host/eureka"
            }
            StatusCode::FORBIDDEN => {
                "the user may not; or Spring Security's CSRF protection is on for /eureka/**, where it must be off"
            }
            _ => return answer.expect_success().map(drop),
        };
        Err(RegistryError::new(format!(
            "{}; {hint}",
            answer.unexpected()
        )))
    }

    /// Takes back what an operator, or an earlier process with the same id, set in place of the status.
    ///
    /// Only once for each id: later on it is an operator's. Half of the time at most, and no error: the instance is
    /// registered all the same, and is to be left. The next heartbeat tries again.
    pub(super) async fn clear_status_once(&mut self, by: Deadline) {
        if !self.uncleared {
            return;
        }
        let half = by.min(Deadline::after(by.remaining() / 2));
        if let Err(error) = self.clear_status(half).await {
            tracing::warn!(
                instance = self.id,
                %error,
                "registered, but what may be set in place of its status is not cleared; tried again with the next heartbeat"
            );
            return;
        }
        self.uncleared = false;
        lock(&self.cleared).insert(self.id.clone());
    }

    async fn clear_status(&self, by: Deadline) -> Result<(), RegistryError> {
        // Without a value the status would be UNKNOWN from then on.
        let path = format!("{}/status?value=UP", self.path);
        let answer = self
            .client
            .send(&Call::new(Method::DELETE, path), by)
            .await?;
        if answer.status.is_client_error() {
            // It may be gone again; or this is a server without the call, which then has no such status either.
            tracing::debug!(error = %answer.unexpected(), "Eureka has no status to clear");
            return Ok(());
        }
        answer.expect_success().map(drop)
    }

    async fn set_status(&self, status: &str, by: Deadline) -> Result<Answer, RegistryError> {
        let path = format!("{}/status?value={status}", self.path);
        self.client.send(&Call::new(Method::PUT, path), by).await
    }

    fn deletion(&self) -> Call {
        Call::new(Method::DELETE, &self.path)
    }

    /// Asks every server whether it lists the instance, and notes the answers; one that does not answer in half of the
    /// time leaves its note as it was. What those said that did not, which may be nothing.
    ///
    /// # Errors
    ///
    /// When none answered.
    async fn ask_all(
        &self,
        listed: &mut [bool],
        by: Deadline,
    ) -> Result<Vec<String>, RegistryError> {
        let call = Call::new(Method::GET, &self.path);
        let half = by.min(Deadline::after(by.remaining() / 2));
        let asked = (0..listed.len()).map(|server| self.client.send_to(server, &call, half));
        let mut failed = Vec::new();
        for (answer, listed) in join_all(asked).await.into_iter().zip(&mut *listed) {
            match answer.and_then(Self::is_there) {
                Ok(there) => *listed = there.is_some(),
                Err(error) => failed.push(error.to_string()),
            }
        }
        if failed.len() == listed.len() {
            return Err(RegistryError::new(failed.join("; ")));
        }
        Ok(failed)
    }

    /// What the server says of it, if it knows it.
    fn is_there(answer: Answer) -> Result<Option<Value>, RegistryError> {
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = answer.expect_success()?;
        let info = serde_json::from_slice(&answer.body).map_err(|error| {
            RegistryError::new(format!("{}, not JSON", answer.unexpected())).with_source(error)
        })?;
        Ok(Some(info))
    }

    /// Waits, as long as there is time, until no server lists it. `None` where one that does not answer may bring it back.
    async fn is_listed_by_any(&self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        // The answer must be in before the deadline is over.
        let patience = by.earlier_by(by.remaining() / 4);
        // One that never answers lists nothing.
        let mut listed = vec![false; self.client.servers()];
        loop {
            let silent = self.ask_all(&mut listed, by).await?;
            if !listed.contains(&true) {
                let may_come_back = self.unanswered && !silent.is_empty();
                return Ok((!may_come_back).then_some(false));
            }
            if patience.is_over() {
                return Ok(Some(true));
            }
            patience.min(Deadline::after(LOOK_AGAIN)).wait().await;
        }
    }

    /// Waits for the servers of which one may have a heartbeat that it did not answer.
    ///
    /// # Errors
    ///
    /// [Unknown](RegistryError::unknown) while one of them does not answer.
    async fn outlive_the_heartbeat(&mut self, by: Deadline) -> Result<(), RegistryError> {
        // Alone, it finds nothing to hand on, and nobody.
        if self.unanswered && self.client.servers() > 1 {
            let mut listed = vec![false; self.client.servers()];
            let silent = match self.ask_all(&mut listed, by).await {
                Ok(silent) => silent,
                Err(none_answers) => vec![none_answers.to_string()],
            };
            if !silent.is_empty() {
                return Err(RegistryError::unknown(format!(
                    "deleted; but the last heartbeat was not answered, and who may have it still does not answer and \
                     may bring the instance back: {}",
                    silent.join("; ")
                )));
            }
        }
        self.unanswered = false;
        Ok(())
    }

    /// Tells every server itself: they are no peers of the one that was asked, or it does not reach them.
    async fn delete_everywhere(&self, by: Deadline) {
        let (call, half) = (self.deletion(), Deadline::after(by.remaining() / 2));
        let told =
            (0..self.client.servers()).map(|server| self.client.send_to(server, &call, half));
        for answer in join_all(told).await {
            let answer = answer.and_then(|answer| match answer.status {
                StatusCode::NOT_FOUND => Ok(answer),
                _ => answer.expect_success(),
            });
            if let Err(error) = answer {
                tracing::debug!(%error, "one of the Eureka servers was not told");
            }
        }
    }
}

#[async_trait]
impl Registration for Entry {
    fn listed_for(&self) -> Option<Duration> {
        Some(self.listed_for)
    }

    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        let call = Call::new(Method::PUT, format!("{}?status=UP", self.path));
        self.unanswered = true;
        let answer = self.client.send(&call, by).await?;
        self.unanswered = false;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Beat::Lost);
        }
        answer.expect_success()?;
        // Where the instance is known: elsewhere there is nothing to clear.
        self.clear_status_once(by).await;
        // Room for two that get lost.
        let next = self.ttl / 3;
        Ok(Beat::Alive {
            next: if self.uncleared {
                next.min(CLEAR_AGAIN)
            } else {
                next
            },
            listed_for: self.listed_for,
        })
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        if self.out_of_service_first && !self.leaving {
            // Half of the time at most: what counts comes after it. One that is late finds nothing to change.
            let half = by.min(Deadline::after(by.remaining() / 2));
            let set = self.set_status("OUT_OF_SERVICE", half).await;
            if let Err(error) = set.and_then(Answer::expect_success) {
                tracing::debug!(%error, "not out of service before the deletion");
            }
        }
        self.leaving = true;
        let told_before = self.unconfirmed;
        let answer = self.client.send(&self.deletion(), by).await?;
        let gone = match answer.status {
            StatusCode::NOT_FOUND if told_before => Gone::Removed,
            StatusCode::NOT_FOUND => Gone::AlreadyGone,
            _ => {
                answer.expect_success()?;
                self.unconfirmed = true;
                Gone::Removed
            }
        };
        if told_before {
            self.delete_everywhere(by).await;
        }
        self.outlive_the_heartbeat(by).await?;
        Ok(gone)
    }

    fn last_gasp(&self) -> Option<LastGasp> {
        Some(self.client.last_gasp(self.deletion()))
    }

    async fn set_out_of_service(&mut self, by: Deadline) -> Result<(), RegistryError> {
        let answer = self.set_status("OUT_OF_SERVICE", by).await?;
        answer.expect_success().map(drop)
    }

    /// What the registry itself has: the caches that clients are given are [visibility](Eureka::with_visibility).
    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        if self.leaving {
            let listed = self.is_listed_by_any(by).await?;
            // Whatever the one that was asked said: it may know less than the others.
            self.unconfirmed = listed.unwrap_or(self.unconfirmed);
            return Ok(listed);
        }
        let call = Call::new(Method::GET, &self.path);
        let info = Self::is_there(self.client.send(&call, by).await?)?;
        Ok(Some(
            info.is_some_and(|info| info["instance"]["status"] == "UP"),
        ))
    }
}
