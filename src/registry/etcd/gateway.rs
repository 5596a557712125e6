//! [`Gateway`]: the calls of etcd's JSON gateway that one instance needs.
//!
//! Keys and values travel as base64, 64-bit numbers as strings (proto3's JSON). What is zero is left out of an answer.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::deadline::Deadline;
use crate::registry::http::{Answer, Call, HttpClient};
use crate::registry::{LastGasp, RegistryError};
use crate::sync::lock;

const REVOKE: &str = "/v3/lease/revoke";

/// gRPC's numbers, as the gateway repeats them in the body.
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const NOT_FOUND: u32 = 5;
const PERMISSION_DENIED: u32 = 7;
const FAILED_PRECONDITION: u32 = 9;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

#[derive(Clone)]
pub(super) struct Gateway {
    client: Arc<HttpClient>,
    login: Option<Login>,
}

/// Who asks. Neither the password nor the token is shown anywhere.
#[derive(Clone)]
struct Login {
    name: String,
    password: String,
    /// What etcd gave for the password last; empty where it asks for none.
    token: Arc<Mutex<Option<HeaderValue>>>,
}

/// Under whose lease a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Us,
    Another,
    Nobody,
    /// The user may not read the key.
    Secret,
}

/// An answer: the body of a success, or the number and words of a refusal by etcd itself.
enum Outcome {
    Done(Value),
    Refused { status: Status, answer: Answer },
}

/// gRPC's status. 3.4 and 3.5 say the message twice, as `error` too; 3.6 says `details`.
#[derive(Debug, Deserialize)]
struct Status {
    #[serde(alias = "grpc_code")]
    code: u32,
    #[serde(default)]
    message: String,
}

impl Gateway {
    pub(super) fn new(client: HttpClient) -> Self {
        Self {
            client: Arc::new(client),
            login: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn use_tls(&self, tls: &crate::registry::Tls) {
        self.client.use_tls(tls);
    }

    pub(super) fn with_user(mut self, name: String, password: String) -> Self {
        self.login = Some(Login {
            name,
            password,
            token: Arc::default(),
        });
        self
    }

    /// Makes sure that there is a lease with this id; how long it lives.
    pub(super) async fn grant(
        &self,
        lease: i64,
        ttl: Duration,
        by: Deadline,
    ) -> Result<Duration, RegistryError> {
        // Whole seconds, rounded up, at least one.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let body = json!({ "ID": lease.to_string(), "TTL": seconds.max(1).to_string() });
        match self.ask("/v3/lease/grant", &body, by).await? {
            Outcome::Done(answer) => Ok(ttl_of(&answer).unwrap_or(ttl)),
            // Ours, from an attempt whose answer was lost, or of before the key was lost.
            Outcome::Refused { status, answer } if status.code == FAILED_PRECONDITION => {
                match self.keep_alive(lease, by).await? {
                    Some(ttl) => Ok(ttl),
                    None => Err(refused(&status, &answer)),
                }
            }
            Outcome::Refused { status, answer } => Err(refused(&status, &answer)),
        }
    }

    pub(super) async fn put(
        &self,
        key: &str,
        value: &str,
        lease: i64,
        by: Deadline,
    ) -> Result<(), RegistryError> {
        let body =
            json!({ "key": encode(key), "value": encode(value), "lease": lease.to_string() });
        match self.ask("/v3/kv/put", &body, by).await? {
            Outcome::Done(_) => Ok(()),
            Outcome::Refused { status, answer } => Err(refused(&status, &answer)),
        }
    }

    /// The time to live that the lease has again; `None` when there is no such lease (any more).
    pub(super) async fn keep_alive(
        &self,
        lease: i64,
        by: Deadline,
    ) -> Result<Option<Duration>, RegistryError> {
        let body = json!({ "ID": lease.to_string() });
        match self.ask("/v3/lease/keepalive", &body, by).await? {
            Outcome::Done(answer) => Ok(ttl_of(&answer["result"])),
            Outcome::Refused { status, .. } if status.code == NOT_FOUND => Ok(None),
            Outcome::Refused { status, answer } => Err(refused(&status, &answer)),
        }
    }

    /// Ends the lease, and with it every key that hangs on it; whether there was one.
    pub(super) async fn revoke(&self, lease: i64, by: Deadline) -> Result<bool, RegistryError> {
        let body = json!({ "ID": lease.to_string() });
        match self.ask(REVOKE, &body, by).await? {
            Outcome::Done(_) => Ok(true),
            Outcome::Refused { status, .. } if status.code == NOT_FOUND => Ok(false),
            Outcome::Refused { status, answer } => Err(refused(&status, &answer)),
        }
    }

    /// The same without a runtime, with the token that was taken last: heartbeats keep it fresh.
    pub(super) fn revoke_with_last_gasp(&self, lease: i64) -> LastGasp {
        let gateway = self.clone();
        LastGasp::new(move |at_most| {
            let body = json!({ "ID": lease.to_string() });
            let token = gateway.login.as_ref().and_then(Login::token);
            let call = call(REVOKE, &body, token.as_ref());
            gateway.client.gasp(&call, at_most);
        })
    }

    /// Under whose lease the key is.
    pub(super) async fn holder(
        &self,
        key: &str,
        lease: i64,
        by: Deadline,
    ) -> Result<Holder, RegistryError> {
        // Whom it belongs to is enough: the value stays where it is.
        let body = json!({ "key": encode(key), "keys_only": true });
        match self.ask("/v3/kv/range", &body, by).await? {
            Outcome::Done(answer) => Ok(match &answer["kvs"][0] {
                Value::Null => Holder::Nobody,
                found if number(&found["lease"]) == Some(lease) => Holder::Us,
                _ => Holder::Another,
            }),
            Outcome::Refused { status, .. } if status.code == PERMISSION_DENIED => {
                Ok(Holder::Secret)
            }
            Outcome::Refused { status, answer } => Err(refused(&status, &answer)),
        }
    }

    /// Asks, with a token where one is needed, and once more with a new token when etcd does not take the old one.
    async fn ask(
        &self,
        path: &'static str,
        body: &Value,
        by: Deadline,
    ) -> Result<Outcome, RegistryError> {
        let Some(login) = &self.login else {
            return self.send(path, body, None, by).await;
        };
        let token = match login.token() {
            Some(token) => token,
            None => self.authenticate(login, by).await?,
        };
        let first = self.send(path, body, Some(&token), by).await?;
        if !matches!(&first, Outcome::Refused { status, .. } if status.is_about_the_token()) {
            return Ok(first);
        }
        // Another call may have fetched a new one meanwhile.
        let token = match login.token() {
            Some(newer) if newer != token => newer,
            _ => self.authenticate(login, by).await?,
        };
        self.send(path, body, Some(&token), by).await
    }

    async fn authenticate(
        &self,
        login: &Login,
        by: Deadline,
    ) -> Result<HeaderValue, RegistryError> {
        let body = json!({ "name": login.name, "password": login.password });
        let token = match self.send("/v3/auth/authenticate", &body, None, by).await? {
            Outcome::Done(answer) => {
                let token = answer["token"].as_str().unwrap_or_default();
                HeaderValue::from_str(token)
                    .map_err(|_| RegistryError::new("etcd gave a token that no header can carry"))?
            }
            // "authentication is not enabled"
            Outcome::Refused { status, .. } if status.code == FAILED_PRECONDITION => {
                HeaderValue::from_static("")
            }
            Outcome::Refused { status, answer } => return Err(refused(&status, &answer)),
        };
        *lock(&login.token) = Some(token.clone());
        Ok(token)
    }

    async fn send(
        &self,
        path: &'static str,
        body: &Value,
        token: Option<&HeaderValue>,
        by: Deadline,
    ) -> Result<Outcome, RegistryError> {
        let answer = self.client.send(&call(path, body, token), by).await?;
        // Two values where a stream ended with an error; the first is what was asked for.
        let first = serde_json::Deserializer::from_slice(&answer.body)
            .into_iter()
            .next();
        let value: Value = match first {
            Some(Ok(value @ Value::Object(_))) => value,
            // A 404 of something else must not be taken for "no such lease".
            _ if answer.status == StatusCode::NOT_FOUND => {
                let hint = "is that a member of etcd 3.4 or later, without a path?";
                return Err(RegistryError::new(format!(
                    "{}; {hint}",
                    answer.unexpected()
                )));
            }
            _ => return Err(answer.unexpected()),
        };
        // A stream wraps its status, at times behind a 200.
        let wrapped = Some(&value["error"]).filter(|error| error.is_object());
        if answer.status.is_success() && wrapped.is_none() {
            return Ok(Outcome::Done(value));
        }
        match Status::deserialize(wrapped.unwrap_or(&value)) {
            Ok(status) => Ok(Outcome::Refused { status, answer }),
            Err(_) => Err(answer.unexpected()),
        }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("client", &self.client)
            .field("user", &self.login.as_ref().map(|login| &login.name))
            .finish_non_exhaustive()
    }
}

impl Login {
    fn token(&self) -> Option<HeaderValue> {
        lock(&self.token).clone()
    }
}

impl Status {
    /// It is expired or unknown (a server that restarted knows none), missing because authentication was switched on
    /// meanwhile, or older than the last change of the users.
    fn is_about_the_token(&self) -> bool {
        self.code == UNAUTHENTICATED
            || self.code == INVALID_ARGUMENT
                && ["user name is empty", "revision of auth store is old"]
                    .iter()
                    .any(|words| self.message.contains(words))
    }
}

/// Each of them does the same when it is heard twice: the lease's id and the key are given.
fn call(path: &'static str, body: &Value, token: Option<&HeaderValue>) -> Call {
    let call = Call::new(Method::POST, path)
        .with_body("application/json", body.to_string())
        .idempotent();
    match token.filter(|token| !token.is_empty()) {
        Some(token) => call.with_header(AUTHORIZATION, token.clone()),
        None => call,
    }
}

/// What was asked, what etcd said, and what may be done about it.
fn refused(status: &Status, answer: &Answer) -> RegistryError {
    let what = answer.unexpected();
    if status.is_about_the_token() {
        RegistryError::new(format!("{what}; etcd asks for a user: see Etcd::with_user"))
    } else if status.code == PERMISSION_DENIED {
        RegistryError::new(format!(
            "{what}; the user's role needs readwrite on the key"
        ))
    } else if [DEADLINE_EXCEEDED, UNAVAILABLE].contains(&status.code) {
        // "request timed out", "leader changed": the cluster may have heard it.
        RegistryError::unknown(what.to_string())
    } else {
        what
    }
}

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// The seconds that a lease lives; none are left of one that is over.
fn ttl_of(answer: &Value) -> Option<Duration> {
    let seconds = u64::try_from(number(&answer["TTL"])?).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// A 64-bit number is written as a string; a reader takes either.
fn number(value: &Value) -> Option<i64> {
    match value {
        Value::String(digits) => digits.parse().ok(),
        other => other.as_i64(),
    }
}
