//! [`Tls`]: whom to trust, and as whom to be known, on the way to a registry.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::registry::RegistryError;

/// How an `https` registry is spoken to: TLS 1.2 and 1.3 by rustls. The server's certificate must be valid for the name
/// (or the IP address) in its URL; there is no way to switch that off.
///
/// Without one, an adapter trusts what the [system](Self::system) trusts.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use prestop::registry::Tls;
/// use prestop::registry::consul::Consul;
///
/// let tls = Tls::with_ca_file("/etc/consul/ca.pem")?
///     .with_identity_files("/etc/consul/client.pem", "/etc/consul/client-key.pem")?;
/// let consul = Consul::agent("https://127.0.0.1:8501")?.with_tls(&tls);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tls {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts the certificate authorities that the system trusts: the files in `SSL_CERT_FILE` and `SSL_CERT_DIR`, else
    /// those of the distribution.
    ///
    /// # Errors
    ///
    /// When there are none. An image without a distribution has none: use [`with_ca_file`](Self::with_ca_file).
    pub fn system() -> Result<Self, RegistryError> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            return Err(RegistryError::new(format!(
                "the system has no certificate authorities to trust: install them (ca-certificates), or give the \
                 registry's own as a file; {}",
                errors.join("; ")
            )));
        }
        Self::of(roots)
    }

    /// Trusts the certificate authorities in this file, and no other. PEM.
    ///
    /// # Errors
    ///
    /// When it can't be read, or there is no certificate in it.
    pub fn with_ca_file(path: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let path = path.as_ref();
        Self::with_ca_pem(&read(path)?).map_err(|error| about(path, &error))
    }

    /// Trusts these certificate authorities, and no other. PEM.
    ///
    /// # Errors
    ///
    /// When there is no certificate in it.
    pub fn with_ca_pem(pem: &[u8]) -> Result<Self, RegistryError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(|error| {
                RegistryError::new("a certificate authority cannot be used").with_source(error)
            })?;
        }
        Self::of(roots)
    }

    /// The same, showing a client certificate to a server that asks for one: the certificate (its chain behind it) and
    /// its private key. PEM.
    ///
    /// # Errors
    ///
    /// When one of them can't be read, or they don't belong together.
    pub fn with_identity_files(
        self,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, RegistryError> {
        let (certificate, key) = (certificate.as_ref(), key.as_ref());
        let pem = (read(certificate)?, read(key)?);
        self.with_identity_pem(&pem.0, &pem.1)
            .map_err(|error| about(certificate, &error))
    }

    /// The same, from memory.
    ///
    /// # Errors
    ///
    /// When one of them is none, or they don't belong together. The key is not shown.
    pub fn with_identity_pem(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, RegistryError> {
        let chain = certificates(certificate)?;
        // Its own error would not show the key either; there is nothing more to say.
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| RegistryError::new("there is no private key in the PEM given as one"))?;
        let config = self.builder()?.with_client_auth_cert(chain, key);
        self.config = Arc::new(config.map_err(|error| {
            RegistryError::new("the client certificate cannot be used with its key")
                .with_source(error)
        })?);
        Ok(self)
    }

    fn of(roots: RootCertStore) -> Result<Self, RegistryError> {
        // Named, since a program may have none, or another one, as its default.
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots);
        let config = Arc::new(builder(&provider, &roots)?.with_no_client_auth());
        Ok(Self {
            roots,
            provider,
            config,
        })
    }

    fn builder(&self) -> Result<Builder, RegistryError> {
        builder(&self.provider, &self.roots)
    }

    pub(in crate::registry) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

type Builder = tokio_rustls::rustls::ConfigBuilder<
    ClientConfig,
    tokio_rustls::rustls::client::WantsClientCert,
>;

fn builder(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
) -> Result<Builder, RegistryError> {
    let unusable = |error: &dyn fmt::Display| {
        RegistryError::new(format!("TLS cannot be used like this: {error}"))
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| unusable(&error))?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?;
    Ok(builder.with_webpki_verifier(verifier))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let none = || RegistryError::new("there is no certificate in the PEM given as one");
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| none().with_source(error))?;
    if found.is_empty() {
        return Err(none());
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    std::fs::read(path).map_err(|error| {
        RegistryError::new(format!("reading {}", path.display())).with_source(error)
    })
}

fn about(path: &Path, error: &RegistryError) -> RegistryError {
    RegistryError::new(format!("{}: {error}", path.display()))
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}
