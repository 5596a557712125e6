//! One GET of one pod.

use std::path::Path;

use http::header::{ACCEPT, AUTHORIZATION, DATE, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::pod::Pod;
use super::{OwnPod, time};
use crate::deadline::Deadline;
use crate::registry::Tls;
use crate::registry::http::{Answer, Call, HttpClient, encode};

/// The server has answered.
pub(super) struct Answered {
    /// `None`: it has no such pod, in its own words.
    pub(super) pod: Result<Box<Pod>, String>,
    /// Its clock, in seconds since 1970, when it answered: after `asked`.
    pub(super) date: Option<u64>,
    pub(super) asked: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Trouble {
    /// What was tried, and what to do.
    pub(super) what: String,
    /// It may be over in a moment.
    pub(super) passing: bool,
}

/// What the API server says when it does not give what it was asked for (`metav1.Status`).
#[derive(Deserialize)]
struct Status {
    message: String,
}

impl OwnPod {
    /// Asks for the pod. Files and connection are of this question alone: hours are between two of them, and token and
    /// authority are replaced meanwhile.
    pub(super) async fn ask(&self, by: Deadline) -> Result<Answered, Trouble> {
        let token = self.account.join("token");
        let bearer = self.bearer(&token)?;
        let tls = Tls::with_ca_file(self.account.join("ca.crt")).map_err(|error| {
            Trouble::lasting(format!(
                "the API server's certificate authority cannot be used: {error}"
            ))
        })?;
        let client = HttpClient::new([&self.server])
            .and_then(|client| client.with_header(ACCEPT, "application/json"))
            .map_err(|error| Trouble::lasting(error.to_string()))?;
        client.use_tls(&tls);
        let (namespace, name) = (encode(&self.namespace), encode(&self.name));
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let call = Call::new(Method::GET, path).with_header(AUTHORIZATION, bearer);
        let asked = Instant::now();
        let answer = client.send(&call, by).await.map_err(|error| {
            let what = error.to_string();
            // What it shows is wrong, and will be.
            let passing = !what.contains("invalid peer certificate");
            Trouble { what, passing }
        })?;
        let date = answer.headers.get(DATE);
        let date = date.and_then(|date| time::of_http(date.to_str().ok()?));
        let pod = self.read(&answer, &token)?;
        Ok(Answered { pod, date, asked })
    }

    fn bearer(&self, token: &Path) -> Result<HeaderValue, Trouble> {
        let lasting = |what: &str| {
            Trouble::lasting(format!(
                "{} {what}: does the pod have a service account (automountServiceAccountToken)?",
                token.display()
            ))
        };
        let text = std::fs::read_to_string(token)
            .map_err(|error| lasting(&format!("cannot be read ({error})")))?;
        // Not shown: it may be a token all the same.
        HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .ok()
            .filter(|_| !text.trim().is_empty())
            .ok_or_else(|| lasting("is not a token"))
    }

    fn read(&self, answer: &Answer, token: &Path) -> Result<Result<Box<Pod>, String>, Trouble> {
        let said = || match serde_json::from_slice::<Status>(&answer.body) {
            // Quoted and escaped: it must not forge lines in a log.
            Ok(Status { message }) => {
                format!("{:?}", message.chars().take(300).collect::<String>())
            }
            Err(_) => answer.unexpected().to_string(),
        };
        match answer.status {
            StatusCode::OK => {
                let read = serde_json::from_slice::<Pod>(&answer.body);
                let not_one = |why: String| {
                    Trouble::lasting(format!("what {} answered is not a pod: {why}", self.server))
                };
                let pod = read.map_err(|error| not_one(error.to_string()))?;
                match &pod.kind {
                    Some(kind) if kind != "Pod" => Err(not_one(format!("its kind is {kind:?}"))),
                    _ => Ok(Ok(Box::new(pod))),
                }
            }
            StatusCode::NOT_FOUND => Ok(Err(said())),
            StatusCode::UNAUTHORIZED => Err(Trouble::lasting(format!(
                "the API server does not take the token in {}: {}",
                token.display(),
                said()
            ))),
            StatusCode::FORBIDDEN => Err(Trouble::lasting(format!(
                "the pod's service account may not get pods in namespace {:?}: apply the Role and the RoleBinding of \
                 prestop's examples/kind/own-pod.yaml (in its docs: The own pod); the API server says {}",
                self.namespace,
                said()
            ))),
            status => Err(Trouble {
                what: answer.unexpected().to_string(),
                passing: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
            }),
        }
    }
}

impl Trouble {
    pub(super) const fn lasting(what: String) -> Self {
        Self {
            what,
            passing: false,
        }
    }
}
