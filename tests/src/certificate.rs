//! Certificates for tests: an authority, and a certificate that it issues to a server on this
//! machine.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// The certificate of a server at `localhost`, and the files that servers read it from.
pub struct Certificate {
    directory: tempfile::TempDir,
    server: rcgen::Certificate,
    key: KeyPair,
}

impl Certificate {
    /// Issues a new certificate.
    ///
    /// # Panics
    /// When it cannot be made or written.
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, authority).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("names");
        let server = params.signed_by(&key, &authority).expect("a certificate");
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in [
            ("authority.pem", authority.pem()),
            ("server.pem", server.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(directory.path().join(name), text).expect("a file");
        }
        Self { directory, server, key }
    }

    /// One of its files: `authority.pem`, `server.pem` or `key.pem`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Accepts TLS connections with the certificate.
    ///
    /// # Panics
    /// Never: key and certificate belong together.
    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![self.server.der().clone()], key)
            .expect("key and certificate belong together");
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}
