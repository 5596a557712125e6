//! `/livez`, `/readyz`, `/startupz`: what the kubelet and load balancers ask.

mod check;
#[cfg(feature = "hook")]
mod hook_route;
mod listener;
#[cfg(feature = "hook")]
mod token;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tower::Service;

use crate::handle::ShutdownHandle;
use crate::state::Readiness;

use check::Probe;
pub(crate) use listener::listen;
#[cfg(feature = "hook")]
pub(crate) use listener::listen_with_hook;
#[cfg(feature = "hook")]
pub use token::HookToken;

/// An Envoy that hears this takes the host out at once, and does not count it as one that failed: enough of those, and
/// Envoy panics and sends to all.
const ENVOY_LEAVES: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

/// Answers `GET` and `HEAD` of `/livez`, `/readyz` and `/startupz`; anything else is 404.
///
/// 200 or 503, and a body that says phase and seconds left, as text, or as JSON where `Accept` asks for it:
///
/// ```text
/// $ curl localhost:9090/readyz
/// not ready: lame_duck, 23.4 s left
/// $ curl -H 'accept: application/json' localhost:9090/readyz
/// {"probe":"readyz","ok":false,"phase":"lame_duck","seconds_left":23.4}
/// ```
///
/// While the service stops, a `/readyz` that fails also carries `x-envoy-immediate-health-check-fail: true`
/// ([Envoy](crate::_docs::gateways#envoy)), and may be [404](crate::Readiness::NotFoundWhenStopping) by choice
/// ([HAProxy](crate::_docs::gateways#haproxy-by-404)).
///
/// `/livez` stays green while the service stops: failing it would make the kubelet kill again, with the probe's own
/// grace period (R29).
///
/// A tower service: in axum it is mounted with `route_service`, or with the feature `axum` merged as a
/// [`router`](Self::router). An own listener
/// ([`probe_listener`](crate::ShutdownCoordinatorBuilder::probe_listener)) answers until the very end.
#[derive(Clone, Debug)]
pub struct Probes {
    handle: ShutdownHandle,
}

impl Probes {
    pub(crate) const fn new(handle: ShutdownHandle) -> Self {
        Self { handle }
    }

    /// The three routes as an `axum::Router`, to be merged into another one.
    #[cfg(feature = "axum")]
    #[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> axum::Router<S> {
        Probe::ALL
            .into_iter()
            .fold(axum::Router::new(), |router, probe| {
                router.route_service(probe.path(), self.clone())
            })
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let Some(probe) = Probe::at(request.uri().path()) else {
            return plain(
                StatusCode::NOT_FOUND,
                "not found: there are /livez, /readyz and /startupz\n".into(),
            );
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "probes are asked with GET\n".into(),
            );
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let phase = self.handle.phase();
        let readiness = self.handle.state().settings.readiness;
        let ok = probe.is_ok(phase, readiness);
        // Of the three, readiness alone can fail in a stop.
        let leaves = !ok && phase.is_stopping();
        let status = match (ok, readiness) {
            (true, _) => StatusCode::OK,
            (false, Readiness::NotFoundWhenStopping) if leaves => StatusCode::NOT_FOUND,
            (false, _) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let left = self.handle.time_left();
        let wants_json = request.headers().get_all(ACCEPT).iter().any(|accept| {
            accept
                .to_str()
                .is_ok_and(|a| a.contains("application/json"))
        });
        let mut response = if wants_json {
            let mut response = plain(status, probe.json(ok, phase, left));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        } else {
            plain(status, probe.text(ok, phase, left))
        };
        if leaves {
            let headers = response.headers_mut();
            headers.insert(ENVOY_LEAVES, HeaderValue::from_static("true"));
        }
        response
    }
}

fn plain(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl<B> Service<Request<B>> for Probes {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}
