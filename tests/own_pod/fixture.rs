//! A FIXTURE, not an API server: it answers `GET /api/v1/namespaces/{ns}/pods/{name}` with what the test says, by TLS of
//! an authority made for the test, and writes down who asked. The manifest's defaults, quorum reads, rights and the
//! admission of tokens are the real server's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Where no other is said.
pub const DATE: &str = "Sun, 22 Nov 2026 10:00:00 GMT";

/// What is answered, from now on.
#[derive(Clone, Debug)]
pub enum Answer {
    Pod(Value),
    /// With a `metav1.Status`.
    Status(u16, &'static str),
    Text(&'static str),
    /// Nothing; the connection stays open.
    Silence,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub authorization: String,
}

#[derive(Default)]
struct Shared {
    answer: Mutex<Option<Answer>>,
    asked: Mutex<Vec<Asked>>,
}

pub struct Api {
    pub at: SocketAddr,
    /// `token` and `ca.crt`, as Kubernetes mounts them.
    pub account: Account,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
    _held: Option<TcpSocket>,
}

/// A directory that goes with the test.
pub struct Account(PathBuf);

impl Account {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("prestop-own-pod-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn dir(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) {
        // As the kubelet does it: whole, or not at all.
        let beside = self.0.join(format!(".{name}"));
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.0.join(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.join(name)).unwrap();
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority, and what it has signed for `at`.
pub struct Authority {
    pub ca: String,
    certificate: String,
    key: String,
}

impl Authority {
    pub fn new(at: SocketAddr) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([at.ip().to_string()]).unwrap();
        Self {
            ca: ca.pem(),
            certificate: params.signed_by(&key, &ca).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Api {
    pub async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, answer)
    }

    pub fn on(listener: TcpListener, answer: Answer) -> Self {
        let at = listener.local_addr().unwrap();
        let authority = Authority::new(at);
        let account = Account::new();
        account.write("ca.crt", &authority.ca);
        account.write("token", "token-of-the-start\n");
        let shared = Arc::new(Shared::default());
        *shared.answer.lock().unwrap() = Some(answer);
        let (acceptor, sharing) = (authority.acceptor(), shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                connections.spawn(serve(io, acceptor.clone(), sharing.clone()));
            }
        });
        Self {
            at,
            account,
            shared,
            _serving: serving,
            _held: None,
        }
    }

    /// A port that refuses: nobody else gets it while this is held.
    pub fn refusing() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let at = socket.local_addr().unwrap();
        let account = Account::new();
        account.write("ca.crt", &Authority::new(at).ca);
        account.write("token", "token-of-the-start");
        Self {
            at,
            account,
            shared: Arc::default(),
            _serving: JoinSet::new(),
            _held: Some(socket),
        }
    }

    pub fn answers(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = Some(answer);
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

/// Each question opens a connection of its own.
async fn serve(io: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    // Who does not trust us goes away here.
    let Ok(mut io) = acceptor.accept(io).await else {
        return;
    };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    assert!(head.starts_with("GET "), "{head}");
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    shared.asked.lock().unwrap().push(Asked {
        path,
        authorization: header("authorization"),
    });
    let answer = shared.answer.lock().unwrap().clone().unwrap();
    let (status, body) = match answer {
        Answer::Pod(pod) => (200, pod.to_string()),
        Answer::Status(code, message) => (
            code,
            json!({ "kind": "Status", "message": message, "code": code }).to_string(),
        ),
        Answer::Text(text) => (200, text.to_owned()),
        Answer::Silence => std::future::pending().await,
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ndate: {DATE}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let _ = io.write_all(text.as_bytes()).await;
    let _ = io.shutdown().await;
}

/// The pod as a server gives it: much more than is read.
pub fn pod(grace: u64) -> Value {
    json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": "orders-7d9f", "namespace": "shop", "uid": "5a0c", "resourceVersion": "77",
            "labels": { "app": "orders" }, "creationTimestamp": "2026-11-22T09:00:00Z",
        },
        "spec": {
            "terminationGracePeriodSeconds": grace,
            "containers": [{ "name": "app", "image": "app:1", "ports": [{ "containerPort": 8080 }] }],
            "serviceAccountName": "orders",
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.5",
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{ "name": "app", "ready": true, "started": true, "restartCount": 0 }],
        },
    })
}

/// The pod, deleted with this grace period, which ends at this moment of its server's day.
pub fn deleted(mut pod: Value, grace: u64, ends: &str) -> Value {
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    pod["metadata"]["deletionTimestamp"] = json!(ends);
    pod
}
