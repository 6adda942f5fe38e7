//! https as a client: rustls, with the certificates that this machine trusts.

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

/// How certificates are judged.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl Tls {
    /// By the system's store, or the file that `SSL_CERT_FILE` names. It is read once.
    pub(crate) fn system() -> Self {
        static SYSTEM: OnceLock<Tls> = OnceLock::new();
        let read = || {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                warn!(%error, "a store of certificates cannot be read");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                warn!("no certificate is trusted here: no https endpoint will be reached");
            }
            Self::trusting(roots)
        };
        SYSTEM.get_or_init(read).clone()
    }

    /// By these.
    pub(crate) fn trusting(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions();
        let config = config.expect("the provider has TLS 1.2 and 1.3");
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".into()];
        Self(Arc::new(config).into())
    }

    /// Shakes hands with whom the URL names, wherever the stream leads.
    pub(crate) async fn connect(
        &self,
        url: &Url,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = match url.host() {
            Some(Host::Ipv4(ip)) => ServerName::from(std::net::IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => ServerName::from(std::net::IpAddr::V6(ip)),
            Some(Host::Domain(name)) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(io::Error::other)?,
            None => return Err(io::Error::other("the URL names no host")),
        };
        self.0.connect(name, stream).await
    }
}
