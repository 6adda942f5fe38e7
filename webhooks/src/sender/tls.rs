//! TLS as a client: rustls, with the certificates that this machine trusts.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use tracing::warn;
use url::{Host, Url};

/// The trusted certificates.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Trusts the system's store, or the file that `SSL_CERT_FILE` names. The store is read once.
    pub fn system() -> Self {
        static SYSTEM: OnceLock<Tls> = OnceLock::new();
        let read = || {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                warn!(%error, "cannot read a certificate store");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                warn!("no trusted certificates found: https endpoints cannot be reached");
            }
            Self::trusting(roots)
        };
        SYSTEM.get_or_init(read).clone()
    }

    /// Trusts these roots only.
    pub fn trusting(roots: RootCertStore) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".into()];
        Self(Arc::new(config))
    }

    /// Does the handshake over `stream`. The certificate must be valid for the URL's host.
    ///
    /// # Errors
    /// If the certificate is not valid, or the handshake fails.
    pub async fn connect(&self, url: &Url, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = match url.host() {
            Some(Host::Ipv4(ip)) => ServerName::from(std::net::IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => ServerName::from(std::net::IpAddr::V6(ip)),
            Some(Host::Domain(name)) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(io::Error::other)?,
            None => return Err(io::Error::other("the URL names no host")),
        };
        TlsConnector::from(self.0.clone())
            .connect(name, stream)
            .await
    }
}
