//! [`Call`] and [`Answer`]: what is asked, and what came back.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::connection::{Failure, chain};
use super::server::Server;
use crate::registry::RegistryError;

/// The longest body that is read where the call does not say otherwise: a guard against a wrong URL. No registry answers
/// what is asked of one instance with more.
pub(super) const BODY_LIMIT: usize = 1024 * 1024;

/// What RFC 3986 does not reserve stays as it is.
const RESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// One segment of a path, or one value in a query, percent-encoded.
pub(crate) fn encode(part: &str) -> String {
    match part {
        // Servers and proxies take these for steps in the path.
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        _ => utf8_percent_encode(part, &RESERVED).to_string(),
    }
}

/// A request that can be made of any of the servers.
pub(crate) struct Call {
    method: Method,
    path: String,
    content_type: Option<HeaderValue>,
    header: Option<(HeaderName, HeaderValue)>,
    body: Bytes,
    idempotent: bool,
    answer_limit: usize,
}

impl Call {
    /// A call of `path`: from the slash after the base URL on, with the query, every part [`encode`]d.
    ///
    /// It is sent again when a connection was closed without an answer, if the method is idempotent. POST is not.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            idempotent: method.is_idempotent(),
            method,
            path: path.into(),
            content_type: None,
            header: None,
            body: Bytes::new(),
            answer_limit: BODY_LIMIT,
        }
    }

    /// The same call with a body.
    pub(crate) fn with_body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.content_type = Some(HeaderValue::from_static(content_type));
        self.body = body.into();
        self
    }

    /// The same call with one header more than the client's: a token that changes from time to time.
    pub(crate) fn with_header(mut self, name: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        self.header = Some((name, value));
        self
    }

    /// The same call, which does no harm when it is heard twice.
    pub(crate) fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The same call, whose answer may be this long.
    pub(crate) fn with_answer_limit(mut self, bytes: usize) -> Self {
        self.answer_limit = bytes;
        self
    }

    pub(super) fn answer_limit(&self) -> usize {
        self.answer_limit
    }

    pub(super) fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    pub(super) fn request(
        &self,
        server: &Server,
        headers: &HeaderMap,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let uri = format!("{}{}", server.prefix(), self.path);
        let uri = uri
            .parse()
            .map_err(|error: http::uri::InvalidUri| Failure {
                what: chain(&error),
                go_on: false,
            })?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let to = request.headers_mut();
        to.clone_from(headers);
        to.insert(HOST, server.authority().clone());
        if let Some(authorization) = server.authorization() {
            to.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(content_type) = &self.content_type {
            to.insert(CONTENT_TYPE, content_type.clone());
        }
        if let Some((name, value)) = &self.header {
            to.insert(name, value.clone());
        }
        Ok(request)
    }

    /// Method and URL, without the query: it may hold secrets.
    pub(super) fn shown(&self, server: &Server) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {server}{path}", self.method)
    }
}

/// What a server answered, whatever the status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Method and URL, for the message when the status is not what was hoped for.
    call: String,
}

impl Answer {
    pub(super) fn new(status: StatusCode, body: Bytes, call: String) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body,
            call,
        }
    }

    pub(super) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = headers;
        self
    }

    /// The answer, if its status is 2xx.
    ///
    /// # Errors
    ///
    /// [`unexpected`](Self::unexpected) for any other.
    pub(crate) fn expect_success(self) -> Result<Self, RegistryError> {
        if self.status.is_success() {
            Ok(self)
        } else {
            Err(self.unexpected())
        }
    }

    /// The error that says what was asked and what came back, with the first 200 characters of the body.
    pub(crate) fn unexpected(&self) -> RegistryError {
        let mut message = format!("{} answered {}", self.call, self.status);
        // Four bytes are the longest character.
        let start = &self.body[..self.body.len().min(800)];
        let start = String::from_utf8_lossy(start);
        let start: String = start.trim().chars().take(200).collect();
        if !start.is_empty() {
            // Quoted and escaped: it must not forge lines in a log.
            let _ = write!(message, ": {start:?}");
        }
        RegistryError::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(encode("a-b_c.d~1"), "a-b_c.d~1");
        assert_eq!(encode("../x y?z#%\u{e9}"), "..%2Fx%20y%3Fz%23%25%C3%A9");
        assert_eq!((encode("."), encode("..")), ("%2E".into(), "%2E%2E".into()));
    }

    #[test]
    fn an_unexpected_answer_says_what_was_asked_and_how_it_began() {
        let call = Call::new(Method::PUT, "/v1/x?token=secret");
        let server = Server::parse("http://consul:8500/base/").unwrap();
        let body = format!("no\nleader {}", "\u{e9}".repeat(300));
        let answer = Answer::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            body.into(),
            call.shown(&server),
        );
        let message = answer.expect_success().unwrap_err().to_string();
        let begins =
            r#"PUT http://consul:8500/base/v1/x answered 500 Internal Server Error: "no\nleader "#;
        assert!(message.starts_with(begins), "{message}");
        assert_eq!(message.matches('\u{e9}').count(), 190, "{message}");
        assert!(!message.contains("secret"), "{message}");
    }
}
