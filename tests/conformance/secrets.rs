//! What is logged while an instance comes and goes: everything, at the lowest level, of our dependencies, too. No
//! password is in it, and no token.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prestop::Deadline;
use prestop::registry::etcd::Etcd;
#[cfg(feature = "nacos")]
use prestop::registry::nacos::Nacos;
use prestop::registry::zookeeper::ZooKeeper;
use prestop::registry::{Instance, Registry};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::fixtures;
use crate::server::{BOUND, Server};

const PASSWORD: &str = "hush-hush";

/// Everything that was said.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Log {
    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    fn holds_no_secret(&self) {
        let text = self.text();
        let bytes = format!("{:?}", PASSWORD.as_bytes());
        // As it travels, too.
        let basic = BASE64_STANDARD.encode(format!("svc:{PASSWORD}"));
        for secret in [PASSWORD, bytes.trim_matches(['[', ']']), &basic] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

struct Append<'a>(&'a mut String);

impl Visit for Append<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        writeln!(self.0, "{field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut Append(&mut self.0.lock().unwrap()));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Append(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = self.0.lock().unwrap();
        writeln!(text, "{}:", event.metadata().target()).unwrap();
        event.record(&mut Append(&mut text));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn shows_the_user_alone(shown: &str) {
    assert!(
        shown.contains("svc") && !shown.contains(PASSWORD),
        "{shown}"
    );
}

async fn comes_and_goes(registry: &dyn Registry) {
    let by = Deadline::after(BOUND);
    let instance = Instance::new("orders", ([10, 0, 0, 5], 80).into());
    let mut entry = registry.register(&instance, by).await.unwrap();
    entry.heartbeat(by).await.unwrap();
    entry.deregister(by).await.unwrap();
}

// One thread, so that its subscriber hears the clients' tasks.
#[tokio::test]
async fn zookeepers_password_is_in_no_log() {
    let Some(server) = Server::<fixtures::zookeeper::ZooKeeper>::start().await else {
        return;
    };
    let log = Log::default();
    let _default = tracing::subscriber::set_default(log.clone());
    let zookeeper = ZooKeeper::new(server.at().to_string()).unwrap();
    let zookeeper = zookeeper.with_digest("svc", PASSWORD).unwrap();
    shows_the_user_alone(&format!("{zookeeper:?} {zookeeper:#?}"));
    comes_and_goes(&zookeeper).await;
    assert!(
        log.text().contains("zookeeper_client"),
        "its client says nothing"
    );
    log.holds_no_secret();
}

#[tokio::test]
async fn etcds_password_is_in_no_log() {
    let Some(server) = Server::<fixtures::etcd::Etcd>::start().await else {
        return;
    };
    let log = Log::default();
    let _default = tracing::subscriber::set_default(log.clone());
    let etcd = Etcd::new([format!("http://{}", server.at())]).unwrap();
    let etcd = etcd
        .with_user("svc", PASSWORD)
        .with_ttl(Duration::from_secs(60));
    shows_the_user_alone(&format!("{etcd:?} {etcd:#?}"));
    comes_and_goes(&etcd).await;
    tracing::info!(secret = %"is heard");
    assert!(log.text().contains("is heard"), "{}", log.text());
    log.holds_no_secret();
}

/// The server asks for no user, and is told one all the same.
#[cfg(feature = "eureka")]
#[tokio::test]
async fn eurekas_password_is_in_no_log() {
    use prestop::registry::eureka::Eureka;

    let Some(site) = crate::site::Site::<fixtures::eureka::Eureka>::start().await else {
        return;
    };
    let log = Log::default();
    let _default = tracing::subscriber::set_default(log.clone());
    let eureka = Eureka::new([format!("http://svc:{PASSWORD}@{}/eureka", site.at())]).unwrap();
    let shown = format!("{eureka:?} {eureka:#?}");
    assert!(
        !shown.contains("svc") && !shown.contains(PASSWORD),
        "{shown}"
    );
    comes_and_goes(&eureka).await;
    tracing::info!(secret = %"is heard");
    assert!(log.text().contains("is heard"), "{}", log.text());
    log.holds_no_secret();
}

#[cfg(feature = "nacos")]
#[tokio::test]
async fn nacos_password_and_token_are_in_no_log() {
    let Some(site) = crate::site::Site::<fixtures::nacos::Nacos>::start().await else {
        return;
    };
    let at = site.server_at();
    let user = format!("POST /nacos/v3/auth/user?username=svc&password={PASSWORD}");
    let made = crate::raw::ask(at, &user, "").await.unwrap();
    assert_eq!(made.status, 200, "{}", made.body);
    let login = format!("POST /nacos/v3/auth/user/login?username=svc&password={PASSWORD}");
    let token = crate::raw::ask(at, &login, "").await.unwrap().json();
    // Each has another end, and all of them this beginning.
    let token = token.unwrap()["accessToken"].as_str().unwrap()[..20].to_owned();

    let log = Log::default();
    let _default = tracing::subscriber::set_default(log.clone());
    let nacos = Nacos::new([format!("http://{at}")]).unwrap();
    let nacos = nacos.with_user("svc", PASSWORD);
    shows_the_user_alone(&format!("{nacos:?} {nacos:#?}"));
    comes_and_goes(&nacos).await;
    assert!(
        log.text().contains("understand"),
        "the adapter says nothing"
    );
    log.holds_no_secret();
    assert!(!log.text().contains(&token), "{}", log.text());
}
