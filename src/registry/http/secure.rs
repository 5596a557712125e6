//! [`Secure`]: TLS on a connection, or why there is none.

#[cfg(feature = "tls")]
pub(super) use with::Secure;
#[cfg(not(feature = "tls"))]
pub(super) use without::Secure;

#[cfg(feature = "tls")]
mod with {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

    use crate::registry::http::server::Server;
    use crate::registry::{RegistryError, Tls};
    use crate::sync::lock;

    /// How https servers are spoken to; as the system does it until something else is set.
    #[derive(Default)]
    pub(in crate::registry::http) struct Secure(Mutex<Option<Tls>>);

    impl Secure {
        pub(in crate::registry::http) fn set(&self, tls: &Tls) {
            *lock(&self.0) = Some(tls.clone());
        }

        /// Read from the system's files once, by the first connection that needs it.
        fn config(&self) -> Result<Arc<ClientConfig>, RegistryError> {
            let mut tls = lock(&self.0);
            match &*tls {
                Some(tls) => Ok(tls.config()),
                None => Ok(tls.insert(Tls::system()?).config()),
            }
        }

        pub(in crate::registry::http) async fn connect(
            &self,
            server: &Server,
            stream: TcpStream,
        ) -> Result<TlsStream<TcpStream>, String> {
            let config = self.config().map_err(|error| error.to_string())?;
            let connector = TlsConnector::from(config);
            let connecting = connector.connect(name(server)?, stream).await;
            connecting.map_err(|error| format!("in the TLS handshake: {error}"))
        }

        /// The handshake comes with the first byte.
        pub(in crate::registry::http) fn connect_blocking(
            &self,
            server: &Server,
            stream: std::net::TcpStream,
        ) -> io::Result<StreamOwned<ClientConnection, std::net::TcpStream>> {
            let config = self.config().map_err(io::Error::other)?;
            let name = name(server).map_err(io::Error::other)?;
            let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
            Ok(StreamOwned::new(connection, stream))
        }
    }

    fn name(server: &Server) -> Result<ServerName<'static>, String> {
        ServerName::try_from(server.host().to_owned())
            .map_err(|_| format!("{:?} is no name a certificate can have", server.host()))
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use std::io;

    use tokio::net::TcpStream;

    use crate::registry::http::server::Server;

    /// No server is https: such a URL is refused.
    #[derive(Default)]
    pub(in crate::registry::http) struct Secure(());

    impl Secure {
        pub(in crate::registry::http) async fn connect(
            &self,
            _: &Server,
            _: TcpStream,
        ) -> Result<TcpStream, String> {
            Err("the feature `tls` is off".into())
        }

        pub(in crate::registry::http) fn connect_blocking(
            &self,
            _: &Server,
            _: std::net::TcpStream,
        ) -> io::Result<std::net::TcpStream> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}
