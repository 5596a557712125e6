//! [`Servers`]: Nacos' servers, spoken to by the API that they know.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use http::StatusCode;
use http::header::AUTHORIZATION;
use serde_json::Value;

use super::listing::{Holder, Listing};
use super::login::{Login, Token};
use crate::deadline::Deadline;
use crate::registry::http::{Answer, Call, HttpClient};
use crate::registry::{LastGasp, RegistryError};

/// An HTTP API of Nacos for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NacosApi {
    /// `/v1/ns/instance`: Nacos 1.2 and later, 2, and 3 as long as it is compatible
    /// (`nacos.core.api.compatibility.client.enabled`, with 3.2 by an adapter of its own).
    V1,
    /// `/v3/client/ns/instance`: Nacos 3.
    V3,
}

impl NacosApi {
    const fn other(self) -> Self {
        match self {
            Self::V1 => Self::V3,
            Self::V3 => Self::V1,
        }
    }
}

/// What v1 answers to the heartbeat of an instance that it does not know.
const V1_NOT_FOUND: u64 = 20_404;

/// The same of v3.
const V3_NOT_FOUND: u64 = 21_003;

pub(super) struct Servers {
    http: Arc<HttpClient>,
    login: Option<Login>,
    /// By hand.
    only: Option<NacosApi>,
    /// Which one was understood last: 0 while that is not known.
    understood: AtomicU8,
}

impl Servers {
    pub(super) fn new(http: HttpClient) -> Self {
        Self {
            http: Arc::new(http),
            login: None,
            only: None,
            understood: AtomicU8::new(0),
        }
    }

    pub(super) fn with_login(mut self, login: Login) -> Self {
        self.login = Some(login);
        self
    }

    pub(super) const fn with_only(mut self, api: NacosApi) -> Self {
        self.only = Some(api);
        self
    }

    #[cfg(feature = "tls")]
    pub(super) fn use_tls(&self, tls: &crate::registry::Tls) {
        self.http.use_tls(tls);
    }

    pub(super) async fn register(
        &self,
        listing: &Listing,
        enabled: bool,
        by: Deadline,
    ) -> Result<(), RegistryError> {
        let make = |api| listing.register(api, enabled);
        let (_, answer) = self.ask(make, by).await?;
        done(&answer)
    }

    /// Whether Nacos knows the instance.
    pub(super) async fn beat(
        &self,
        listing: &Listing,
        by: Deadline,
    ) -> Result<bool, RegistryError> {
        let (api, answer) = self.ask(|api| listing.beat(api), by).await?;
        let code = code(&answer);
        match api {
            NacosApi::V1 if code == Some(V1_NOT_FOUND) => Ok(false),
            NacosApi::V3 if code == Some(V3_NOT_FOUND) => Ok(false),
            // 10200 and the like: whatever else a success says.
            NacosApi::V1 => success(&answer).map(|()| true),
            NacosApi::V3 => done(&answer).map(|()| true),
        }
    }

    /// Removes whatever is under the address; that there is nothing is success.
    pub(super) async fn remove(
        &self,
        listing: &Listing,
        by: Deadline,
    ) -> Result<(), RegistryError> {
        let (_, answer) = self.ask(|api| listing.remove(api), by).await?;
        done(&answer)
    }

    /// Who is listed under the address; `None` when the user may not read it.
    pub(super) async fn holder(
        &self,
        listing: &Listing,
        by: Deadline,
    ) -> Result<Option<Holder>, RegistryError> {
        let (api, answer) = self.ask(|api| listing.list(api), by).await?;
        if answer.status == StatusCode::FORBIDDEN {
            return Ok(None);
        }
        done(&answer)?;
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let hosts = match api {
            NacosApi::V1 => &value["hosts"],
            NacosApi::V3 => &value["data"],
        };
        match hosts.as_array() {
            Some(hosts) => Ok(Some(listing.holder(hosts))),
            None => Err(answer.unexpected()),
        }
    }

    /// Removes them without a runtime, with the token that was taken last: heartbeats keep it fresh.
    pub(super) fn remove_with_last_gasp(self: &Arc<Self>, listings: &[Listing]) -> LastGasp {
        let (servers, listings) = (self.clone(), listings.to_vec());
        LastGasp::new(move |at_most| {
            let by = Deadline::after(at_most);
            let api = servers.first();
            let token = servers.login.as_ref().and_then(Login::last);
            for listing in &listings {
                let call = with_token(listing.remove(api), token.as_ref());
                servers.http.gasp(&call, by.remaining());
            }
        })
    }

    /// A token if there is to be one, so that calls that are made side by side do not fetch one each.
    pub(super) async fn prepare(&self, by: Deadline) -> Result<(), RegistryError> {
        self.token(by).await.map(|_| ())
    }

    /// Whether a heartbeat may bring an instance back. Those of v3 never do; those of v1 do not in Nacos, but in others
    /// that speak it.
    pub(super) fn may_revive(&self) -> bool {
        self.first() == NacosApi::V1
    }

    /// Which API is tried first.
    fn first(&self) -> NacosApi {
        let understood = match self.understood.load(Ordering::Relaxed) {
            1 => NacosApi::V1,
            _ => NacosApi::V3,
        };
        self.only.unwrap_or(understood)
    }

    /// Asks by one API, and by the other where the servers do not know the first.
    async fn ask(
        &self,
        make: impl Fn(NacosApi) -> Call,
        by: Deadline,
    ) -> Result<(NacosApi, Answer), RegistryError> {
        let first = self.first();
        let answer = self.send(|| make(first), by).await?;
        if !is_no_such_api(&answer) {
            self.understand(first);
            return Ok((first, answer));
        }
        let hint = "is that Nacos 1.2 or later, and the path in its URL the server's context path?";
        if self.only.is_some() {
            let what = answer.unexpected();
            return Err(RegistryError::new(format!(
                "{what}; only {first:?} may be used by Nacos::with_api; {hint}"
            )));
        }
        let other = first.other();
        let second = self.send(|| make(other), by).await?;
        if is_no_such_api(&second) {
            let (first, second) = (answer.unexpected(), second.unexpected());
            return Err(RegistryError::new(format!("{first}; {second}; {hint}")));
        }
        self.understand(other);
        Ok((other, second))
    }

    fn understand(&self, api: NacosApi) {
        let number = match api {
            NacosApi::V1 => 1,
            NacosApi::V3 => 3,
        };
        // A hint that orders nothing.
        if self.understood.swap(number, Ordering::Relaxed) != number {
            tracing::debug!(registry = "nacos", ?api, "the servers understand");
        }
    }

    /// Asks, with a token where there is one, and once more with a new one when Nacos does not take the old one.
    async fn send(&self, make: impl Fn() -> Call, by: Deadline) -> Result<Answer, RegistryError> {
        let token = self.token(by).await?;
        let call = with_token(make(), token.as_ref());
        let answer = self.http.send(&call, by).await?;
        // 403 for both, no right and no good token; 401 by what stands before Nacos.
        let is_refused = [StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED].contains(&answer.status);
        let (Some(login), Some(token), true) = (&self.login, token, is_refused) else {
            return Ok(answer);
        };
        // Another call may have fetched a new one meanwhile.
        let newer = login.last().filter(|last| last.header != token.header);
        let token = match newer {
            Some(newer) => newer,
            None => self.log_in(login, by).await?,
        };
        let call = with_token(make(), Some(&token));
        self.http.send(&call, by).await
    }

    async fn token(&self, by: Deadline) -> Result<Option<Token>, RegistryError> {
        let Some(login) = &self.login else {
            return Ok(None);
        };
        let old = match login.last() {
            Some(token) if token.is_fresh() => return Ok(Some(token)),
            old => old.filter(|token| !token.has_expired()),
        };
        // The old one will do for a while: not all of the time for a new one.
        let by = match old {
            Some(_) => by.min(Deadline::after(by.remaining() / 2)),
            None => by,
        };
        match (self.log_in(login, by).await, old) {
            (Ok(token), _) => Ok(Some(token)),
            (Err(error), Some(old)) => {
                tracing::warn!(registry = "nacos", %error, "the token was not renewed");
                let old = old.for_now();
                login.keep(&old);
                Ok(Some(old))
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn log_in(&self, login: &Login, by: Deadline) -> Result<Token, RegistryError> {
        let first = self.first();
        // By hand or not: the first 3.0 has its login in one of the two alone.
        let mut answer = self.http.send(&login.call(first), by).await?;
        if is_no_such_api(&answer) {
            answer = self.http.send(&login.call(first.other()), by).await?;
        }
        let token = match is_no_such_api(&answer) {
            true => Token::none(),
            false => Token::read(&answer)?,
        };
        login.keep(&token);
        Ok(token)
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers")
            .field("http", &self.http)
            .field("user", &self.login)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

/// In a header: a query ends up in access logs.
fn with_token(call: Call, token: Option<&Token>) -> Call {
    match token.and_then(|token| token.header.clone()) {
        Some(header) => call.with_header(AUTHORIZATION, header),
        None => call,
    }
}

/// The number in Nacos' own answers.
fn code(answer: &Answer) -> Option<u64> {
    let value: Value = serde_json::from_slice(&answer.body).ok()?;
    value["code"].as_u64()
}

/// Whether this is a server that does not know the path, or does not serve it any more. Nacos says that in many ways.
fn is_no_such_api(answer: &Answer) -> bool {
    match answer.status {
        // `API_DEPRECATED`, of 3: switched off by its configuration.
        StatusCode::GONE => true,
        // Nacos' own 404 has a code, and is about a thing that it knows.
        StatusCode::NOT_FOUND => code(answer).is_none_or(|code| code == 404),
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => true,
        StatusCode::INTERNAL_SERVER_ERROR => {
            // Spring's exceptions, as Nacos' own handler tells of them.
            let body = String::from_utf8_lossy(&answer.body);
            body.contains("No static resource")
                || body.contains("Request method") && body.contains("not supported")
        }
        _ => false,
    }
}

fn success(answer: &Answer) -> Result<(), RegistryError> {
    match answer.status.is_success() {
        true => Ok(()),
        false => Err(refused(answer)),
    }
}

/// A success, also by the number in it. v1 says `ok`.
fn done(answer: &Answer) -> Result<(), RegistryError> {
    success(answer)?;
    match code(answer) {
        None | Some(0 | 200) => Ok(()),
        Some(_) => Err(refused(answer)),
    }
}

/// What was asked, what Nacos said, and what may be done about it.
fn refused(answer: &Answer) -> RegistryError {
    let what = answer.unexpected();
    match answer.status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => RegistryError::new(format!(
            "{what}; Nacos asks for a user (Nacos::with_user) whose role has the namespace's rw"
        )),
        _ => what,
    }
}
