//! [`Login`]: a user, and the token that Nacos gives for the password. Neither is shown anywhere.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use http::Method;
use http::header::HeaderValue;
use serde_json::Value;

use super::NacosApi;
use super::listing::encoded;
use crate::deadline::Deadline;
use crate::registry::RegistryError;
use crate::registry::http::{Answer, Call};
use crate::sync::lock;

/// What Nacos' own configuration says (`token.expire.seconds`), for a server that does not say it.
const TTL: Duration = Duration::from_secs(18_000);

/// Between attempts at renewing a token: as often as there are heartbeats.
const RETRY: Duration = Duration::from_secs(5);

pub(super) struct Login {
    user: String,
    password: String,
    token: Mutex<Option<Token>>,
}

/// `None` in it is what a server without a login gives.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) header: Option<HeaderValue>,
    /// A tenth of its life before its end, as Nacos' own client has it.
    renewed: Deadline,
    expires: Deadline,
}

impl Login {
    pub(super) const fn new(user: String, password: String) -> Self {
        Self {
            user,
            password,
            token: Mutex::new(None),
        }
    }

    /// The token that was taken last, whether it is still good or not.
    pub(super) fn last(&self) -> Option<Token> {
        lock(&self.token).clone()
    }

    pub(super) fn keep(&self, token: &Token) {
        *lock(&self.token) = Some(token.clone());
    }

    pub(super) fn call(&self, api: NacosApi) -> Call {
        let path = match api {
            NacosApi::V1 => "/v1/auth/users/login",
            NacosApi::V3 => "/v3/auth/user/login",
        };
        let form = [
            ("username", self.user.clone()),
            ("password", self.password.clone()),
        ];
        // In the body: a query ends up in access logs.
        Call::new(Method::POST, path)
            .with_body("application/x-www-form-urlencoded", encoded(&form))
            .idempotent()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.user)
    }
}

impl Token {
    pub(super) fn read(answer: &Answer) -> Result<Self, RegistryError> {
        // The body of an answer with a token is not for a message.
        let bad = || RegistryError::new("Nacos answered a login with something that has no token");
        if !answer.status.is_success() {
            return Err(answer.unexpected());
        }
        let value: Value = serde_json::from_slice(&answer.body).map_err(|_| bad())?;
        let value = match &value["data"] {
            Value::Object(_) => &value["data"],
            _ => &value,
        };
        let token = value["accessToken"].as_str().ok_or_else(bad)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| bad())?;
        header.set_sensitive(true);
        let ttl = value["tokenTtl"].as_u64().map_or(TTL, Duration::from_secs);
        Ok(Self::of(Some(header), ttl))
    }

    /// Of a server that has no login: it is asked as nobody, and says itself when that is not enough.
    pub(super) fn none() -> Self {
        Self::of(None, TTL)
    }

    fn of(header: Option<HeaderValue>, ttl: Duration) -> Self {
        Self {
            header,
            renewed: Deadline::after(ttl - ttl / 10),
            expires: Deadline::after(ttl),
        }
    }

    /// The same, whose renewal failed: the next attempt is not by the very next call.
    pub(super) fn for_now(self) -> Self {
        Self {
            renewed: Deadline::after(RETRY),
            ..self
        }
    }

    pub(super) fn is_fresh(&self) -> bool {
        !self.renewed.is_over()
    }

    pub(super) fn has_expired(&self) -> bool {
        self.expires.is_over()
    }
}
