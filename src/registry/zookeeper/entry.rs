//! [`Entry`]: one instance, its session and its nodes.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use zookeeper_client::{Client, Error, SessionInfo, SessionState, StateWatcher};

use super::Ensemble;
use super::last_gasp::Farewell;
use super::nodes::{Owner, owners};
use super::servers::Servers;
use crate::deadline::Deadline;
use crate::registry::{Beat, Gone, LastGasp, Registration, RegistryError};

/// Servers end a session at the next tick, 2 s in their sample configuration.
const TICK: Duration = Duration::from_secs(2);

/// How long one server may take to take the session over, before the next is asked.
const TAKE_OVER: Duration = Duration::from_millis(500);

pub(super) struct Entry {
    ensemble: Ensemble,
    paths: Vec<String>,
    session: SessionInfo,
    state: State,
}

enum State {
    Open(Client),
    /// Closing was asked for and not answered. What watches over it is the connection that does it.
    Closing {
        state: StateWatcher,
        gone: Gone,
    },
    Closed,
}

impl Entry {
    pub(super) fn new(ensemble: Ensemble, paths: Vec<String>, client: Client) -> Self {
        Self {
            ensemble,
            paths,
            session: client.session().clone(),
            state: State::Open(client),
        }
    }

    /// Closes the session, and says what was there before.
    async fn close(&mut self) -> Result<Gone, RegistryError> {
        let gone = match &mut self.state {
            State::Open(client) => {
                let mut state = client.state_watcher();
                // Both on their way before the first answer; asked for only to tell the two kinds of success apart.
                let owners = owners(client, &self.paths);
                let closing = State::Closing {
                    state: state.clone(),
                    gone: Gone::Removed,
                };
                drop(std::mem::replace(&mut self.state, closing));
                let was_there = match owners.await {
                    Ok(owners) => owners.contains(&Owner::Us),
                    // Then it is not known.
                    Err(_) => true,
                };
                let known = if was_there {
                    Gone::Removed
                } else {
                    Gone::AlreadyGone
                };
                if let State::Closing { gone, .. } = &mut self.state {
                    *gone = known;
                }
                if !is_closed(&mut state).await {
                    self.close_by_another_connection().await?;
                }
                known
            }
            State::Closing { state, gone } => {
                let (mut state, gone) = (state.clone(), *gone);
                // Whichever of the two is answered first: the server of the first may be frozen, and the others not.
                let first = async {
                    if !is_closed(&mut state).await {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = first => {}
                    closed = self.close_by_another_connection() => closed?,
                }
                gone
            }
            State::Closed => return Ok(Gone::AlreadyGone),
        };
        self.state = State::Closed;
        Ok(gone)
    }

    /// Takes the session over on a connection of its own, and closes it there. That there is no such session is success.
    async fn close_by_another_connection(&self) -> Result<(), RegistryError> {
        let error = |error: &Error| {
            let what = format!("closing the session {}", self.session.id());
            self.ensemble.error(&what, error)
        };
        let connector = self
            .ensemble
            .connector()
            .with_connection_timeout(TAKE_OVER)
            .with_session(self.session.clone());
        match connector.connect(&self.ensemble.servers).await {
            Ok(client) => {
                let mut state = client.state_watcher();
                drop(client);
                match is_closed(&mut state).await {
                    true => Ok(()),
                    false => Err(error(&Error::ConnectionLoss)),
                }
            }
            Err(Error::SessionExpired) => Ok(()),
            Err(other) => Err(error(&other)),
        }
    }
}

/// Waits until the session is over for this connection; whether that is what the server said.
async fn is_closed(state: &mut StateWatcher) -> bool {
    let mut now = state.peek_state();
    while !now.is_terminated() {
        now = state.changed().await;
    }
    // `Expired` is said, too, when no server was reached for a long time; `AuthFailed` ends nothing at the server.
    now == SessionState::Closed
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("paths", &self.paths)
            .field("session", &self.session.id())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Registration for Entry {
    fn listed_for(&self) -> Option<Duration> {
        match &self.state {
            State::Open(client) => Some(client.session_timeout() + TICK),
            State::Closing { .. } | State::Closed => None,
        }
    }

    fn last_gasp(&self) -> Option<LastGasp> {
        let farewell = Farewell {
            servers: Servers::parse(&self.ensemble.servers).ok()?,
            digest: self.ensemble.digest.clone(),
            session: self.session.id().0,
            paths: self.paths.clone(),
        };
        Some(farewell.last_gasp())
    }

    async fn heartbeat(&mut self, by: Deadline) -> Result<Beat, RegistryError> {
        let State::Open(client) = &self.state else {
            return Ok(Beat::Lost);
        };
        let asking = async {
            match owners(client, &self.paths).await {
                Err(Error::SessionExpired | Error::ClientClosed | Error::AuthFailed) => Ok(None),
                Err(error) => Err(self.ensemble.error("asking for the nodes", &error)),
                Ok(owners) => Ok(Some(owners)),
            }
        };
        let asked = self.ensemble.bound("asking for the nodes", by, asking);
        let Some(owners) = asked.await? else {
            return Ok(Beat::Lost);
        };
        if owners.contains(&Owner::None) {
            return Ok(Beat::Lost);
        }
        if owners.contains(&Owner::Another) {
            // Two processes that take the node from each other in turns would be worse.
            tracing::warn!(
                registry = "zookeeper",
                paths = ?self.paths,
                "a node was made by another session: is there a process with the same address or id?"
            );
        }
        let timeout = client.session_timeout();
        Ok(Beat::Alive {
            next: timeout / 3,
            listed_for: timeout + TICK,
        })
    }

    async fn deregister(&mut self, by: Deadline) -> Result<Gone, RegistryError> {
        let ensemble = self.ensemble.clone();
        let what = format!("closing the session {}", self.session.id());
        ensemble.bound(&what, by, self.close()).await
    }

    async fn is_listed(&mut self, by: Deadline) -> Result<Option<bool>, RegistryError> {
        let client = match &mut self.state {
            State::Open(client) => client,
            State::Closing { state, .. } if state.peek_state() != SessionState::Closed => {
                let message = format!("the session {} is not closed yet", self.session.id());
                return Err(RegistryError::unknown(message));
            }
            State::Closing { .. } | State::Closed => return Ok(Some(false)),
        };
        let asking = async {
            match owners(client, &self.paths).await {
                Ok(owners) => Ok(Some(owners.contains(&Owner::Us))),
                Err(error) => Err(self.ensemble.error("asking for the nodes", &error)),
            }
        };
        self.ensemble
            .bound("asking for the nodes", by, asking)
            .await
    }
}
