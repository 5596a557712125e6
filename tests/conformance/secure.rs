//! TLS to real servers: their certificates, and those of their clients, are of an authority made for the test.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use prestop::Deadline;
use prestop::registry::consul::Consul;
use prestop::registry::etcd::Etcd;
use prestop::registry::{Beat, Gone, Registry, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use crate::contract::{NEVER, SERVICE, Service, address, instance};
use crate::fixture::Fixture;
use crate::fixtures;
use crate::server::{BOUND, Server};
use crate::watcher::Watcher;

/// An authority, and a certificate of it: PEM.
struct Authority {
    ca: String,
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        // An address, so that a name that leads there is a wrong one.
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        Self {
            ca: ca.pem(),
            certificate: params.signed_by(&key, &ca).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// The servers'.
    fn theirs() -> &'static Self {
        static THEIRS: OnceLock<Authority> = OnceLock::new();
        THEIRS.get_or_init(Self::new)
    }

    fn trusted(&self) -> Tls {
        Tls::with_ca_pem(self.ca.as_bytes()).unwrap()
    }

    fn write(&self, dir: &Path) -> [PathBuf; 3] {
        let parts = [
            ("ca", &self.ca),
            ("cert", &self.certificate),
            ("key", &self.key),
        ];
        parts.map(|(name, pem)| {
            let file = dir.join(format!("{name}.pem"));
            std::fs::write(&file, pem).unwrap();
            file
        })
    }
}

/// A server as its fixture has it, that takes adapters on one more port, over TLS and with client certificates alone.
trait OverTls: Fixture {
    /// With the files of the authority, the certificate and the key.
    fn secured(command: Command, dir: &Path, files: [&Path; 3], port: u16) -> Command;

    fn adapter(url: &str, tls: &Tls) -> Box<dyn Registry>;
}

impl OverTls for fixtures::consul::Consul {
    fn secured(mut command: Command, dir: &Path, files: [&Path; 3], port: u16) -> Command {
        let [ca, certificate, key] = files.map(|file| format!("{:?}", file.to_str().unwrap()));
        let config = dir.join("tls.hcl");
        let text = format!(
            "ca_file = {ca}\ncert_file = {certificate}\nkey_file = {key}\n\
             verify_incoming_https = true\nports {{ https = {port} }}\n"
        );
        std::fs::write(&config, text).unwrap();
        command.arg("-config-file").arg(config);
        command
    }

    fn adapter(url: &str, tls: &Tls) -> Box<dyn Registry> {
        let agent = Consul::agent(url).unwrap().with_tls(tls);
        Box::new(agent.with_ttl(NEVER).with_visibility(Duration::ZERO))
    }
}

impl OverTls for fixtures::etcd::Etcd {
    fn secured(mut command: Command, _: &Path, files: [&Path; 3], port: u16) -> Command {
        // The fixture's own address, and this one.
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = args.iter().position(|arg| arg == "--listen-client-urls");
        let plain = args[at.unwrap() + 1].to_str().unwrap();
        let both = format!("{plain},https://127.0.0.1:{port}");
        command.args(["--listen-client-urls", &both]);
        for (option, file) in ["--trusted-ca-file", "--cert-file", "--key-file"]
            .iter()
            .zip(files)
        {
            command.arg(option).arg(file);
        }
        command.arg("--client-cert-auth");
        command
    }

    fn adapter(url: &str, tls: &Tls) -> Box<dyn Registry> {
        let etcd = Etcd::new([url]).unwrap().with_tls(tls);
        Box::new(etcd.with_ttl(NEVER).with_visibility(Duration::ZERO))
    }
}

struct Secured<F>(PhantomData<F>);

impl<F: OverTls> Fixture for Secured<F> {
    const NAME: &'static str = F::NAME;
    const TTL: Duration = F::TTL;
    const PORTS: usize = F::PORTS + 1;
    const HTTP: bool = F::HTTP;

    fn program() -> Option<PathBuf> {
        F::program()
    }

    fn command(program: &Path, dir: &Path, ports: &[u16]) -> Command {
        let (port, ports) = ports.split_last().unwrap();
        let command = F::command(program, dir, ports);
        // Beside the data: etcd takes the directory for its own.
        let beside = dir.parent().unwrap();
        let [ca, certificate, key] = Authority::theirs().write(beside);
        F::secured(command, beside, [&ca, &certificate, &key], *port)
    }

    async fn is_ready(at: SocketAddr) -> bool {
        F::is_ready(at).await
    }

    fn registry(at: SocketAddr, ttl: Duration) -> Box<dyn Registry> {
        F::registry(at, ttl)
    }

    async fn follow(at: SocketAddr, service: &str, seen: &crate::watcher::Seen) -> io::Result<()> {
        F::follow(at, service, seen).await
    }
}

fn soon() -> Deadline {
    Deadline::after(BOUND)
}

async fn an_instance_comes_and_goes_over_tls<F: OverTls>() {
    let Some(server) = Server::<Secured<F>>::start().await else {
        return;
    };
    let port = *server.ports().last().unwrap();
    let url = format!("https://127.0.0.1:{port}");
    let theirs = Authority::theirs();
    let (certificate, key) = (theirs.certificate.as_bytes(), theirs.key.as_bytes());
    let known = theirs
        .trusted()
        .with_identity_pem(certificate, key)
        .unwrap();
    let mut watcher = Watcher::start::<F>(server.at(), SERVICE).await;

    let registry = F::adapter(&url, &known);
    let mut entry = registry.register(&instance(4000), soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_ne!(entry.is_listed(soon()).await.unwrap(), Some(false));
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    watcher.misses(address(4000)).await;

    // A run that is dropped: by blocking sockets, over TLS as well.
    let service = Service::start(F::adapter(&url, &known), instance(4001)).await;
    service.is_kept_alive().await;
    watcher.sees(address(4001)).await;
    service.run.abort();
    watcher.misses(address(4001)).await;

    let refused = |url: String, tls: Tls| async move {
        let registry = F::adapter(&url, &tls);
        let refused = registry.register(&instance(4002), soon()).await.err();
        refused.expect("not registered")
    };
    let other = Authority::new();
    let error = refused(url.clone(), other.trusted()).await;
    assert!(!error.is_unknown(), "{error}");
    let message = error.to_string();
    assert!(message.contains("in the TLS handshake: "), "{message}");
    assert!(message.contains("invalid peer certificate"), "{message}");
    // A certificate of the right authority, for another name.
    let error = refused(format!("https://localhost:{port}"), known).await;
    let message = error.to_string();
    assert!(message.contains("not valid for name"), "{message}");
    // The right server, and no certificate of our own; or one that it does not know.
    refused(url.clone(), theirs.trusted()).await;
    let (certificate, key) = (other.certificate.as_bytes(), other.key.as_bytes());
    let stranger = theirs.trusted().with_identity_pem(certificate, key);
    refused(url, stranger.unwrap()).await;
    assert_eq!(watcher.now(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_comes_and_goes_over_tls_in_consul() {
    an_instance_comes_and_goes_over_tls::<fixtures::consul::Consul>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_comes_and_goes_over_tls_in_etcd() {
    an_instance_comes_and_goes_over_tls::<fixtures::etcd::Etcd>().await;
}

/// The server is real, what speaks TLS before it is a fixture: it takes connections apart and hands them on.
#[cfg(feature = "eureka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_comes_and_goes_over_a_tls_fixture_before_eureka() {
    use fixtures::eureka::Eureka;
    use prestop::registry;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::{ServerConfig, crypto::ring};

    let Some(site) = crate::site::Site::<Eureka>::start().await else {
        return;
    };
    let theirs = Authority::theirs();
    let certificate = CertificateDer::from_pem_slice(theirs.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(theirs.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/eureka", listener.local_addr().unwrap());
    let server = site.server_at();
    let mut front = tokio::task::JoinSet::new();
    front.spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                // A client that does not trust it goes away.
                let Ok(mut client) = acceptor.accept(client).await else {
                    return;
                };
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let adapter = |tls: &Tls| {
        let eureka = registry::eureka::Eureka::new([&url]).unwrap().with_tls(tls);
        Box::new(eureka.with_ttl(NEVER).with_visibility(Duration::ZERO))
    };
    let mut watcher = site.watch().await;
    let eureka = adapter(&theirs.trusted());
    let mut entry = eureka.register(&site.instance(4000), soon()).await.unwrap();
    watcher.sees(address(4000)).await;
    assert_ne!(entry.heartbeat(soon()).await.unwrap(), Beat::Lost);
    assert_eq!(entry.deregister(soon()).await.unwrap(), Gone::Removed);
    assert_eq!(entry.is_listed(soon()).await.unwrap(), Some(false));
    watcher.misses(address(4000)).await;

    // A run that is dropped: by blocking sockets, over TLS as well.
    let service = Service::start(adapter(&theirs.trusted()), site.instance(4001)).await;
    service.is_kept_alive().await;
    watcher.sees(address(4001)).await;
    service.run.abort();
    watcher.misses(address(4001)).await;

    let stranger = adapter(&Authority::new().trusted());
    let refused = stranger.register(&site.instance(4002), soon()).await;
    let message = refused.map(drop).unwrap_err().to_string();
    assert!(message.contains("invalid peer certificate"), "{message}");
}

#[test]
fn what_cannot_be_used_is_refused_by_name_and_no_key_is_shown() {
    let theirs = Authority::theirs();
    let refused = |tls: Result<Tls, prestop::registry::RegistryError>| {
        let message = tls.unwrap_err().to_string();
        assert!(!message.contains("PRIVATE"), "{message}");
        message
    };
    let message = refused(Tls::with_ca_file("/nonexistent/ca.pem"));
    assert!(message.contains("/nonexistent/ca.pem"), "{message}");
    for pem in ["", "nonsense", &theirs.key] {
        let message = refused(Tls::with_ca_pem(pem.as_bytes()));
        assert!(message.contains("no certificate"), "{message}");
    }
    let (certificate, key) = (theirs.certificate.as_bytes(), theirs.key.as_bytes());
    refused(theirs.trusted().with_identity_pem(certificate, certificate));
    let other = Authority::new();
    refused(
        theirs
            .trusted()
            .with_identity_pem(certificate, other.key.as_bytes()),
    );
    let known = theirs
        .trusted()
        .with_identity_pem(certificate, key)
        .unwrap();
    let shown = format!("{known:?}");
    assert!(shown.starts_with("Tls { roots: 1"), "{shown}");
}
