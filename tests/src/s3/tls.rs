//! A certificate for this machine, signed by an authority that only the test knows.

use std::io::Write;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

pub(super) struct Tls {
    ca_file: tempfile::NamedTempFile,
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Tls {
    pub(super) fn new() -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().expect("a key");
        let authority_cert = authority.self_signed(&authority_key).expect("signed");
        let issuer = Issuer::new(authority, authority_key);
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let server = CertificateParams::new(names).expect("parameters");
        let server = server.signed_by(&key, &issuer).expect("signed");
        let mut ca_file = tempfile::NamedTempFile::new().expect("a temporary file");
        ca_file.write_all(authority_cert.pem().as_bytes()).expect("written");
        Self { ca_file, chain: vec![server.der().clone()], key: key.serialize_der().into() }
    }

    pub(super) fn ca_file(&self) -> String {
        self.ca_file.path().display().to_string()
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), PrivateKeyDer::Pkcs8(self.key.clone_key()))
            .expect("a certificate with its key");
        TlsAcceptor::from(Arc::new(config))
    }
}
