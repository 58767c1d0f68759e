//! Certificates of an authority that nobody else knows.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redis::{ClientTlsConfig, TlsCertificates};

/// The PEM files of a store with TLS.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority that both sides trust.
    pub authority: PathBuf,
    /// The server's certificate and its key, for 127.0.0.1 and `localhost`.
    pub server: (PathBuf, PathBuf),
    /// A client's certificate and its key.
    pub client: (PathBuf, PathBuf),
}

impl Certificates {
    /// Makes them in `folder`.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        Self::create_for(folder, "a client")
    }

    /// The same, with a certificate for this client.
    #[must_use]
    pub fn create_for(folder: &Path, client: &str) -> Self {
        // The client library takes the process's provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a new folder takes a file");
            path
        };
        let mut params = CertificateParams::default();
        // Two equal names look like a certificate that signed itself.
        params.distinguished_name.push(DnType::CommonName, "the tests' authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key).expect("the authority signs itself");
        let issue = |name: &str, hosts: &[&str]| {
            let key = KeyPair::generate().expect("a key can be made");
            let names: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let mut params = CertificateParams::new(names).expect("the hosts are names");
            // By this PostgreSQL knows who logs in.
            params.distinguished_name.push(DnType::CommonName, hosts[0]);
            let certificate = params.signed_by(&key, &authority).expect("the authority signs");
            let pem = (certificate.pem(), key.serialize_pem());
            (write(&format!("{name}.crt"), &pem.0), write(&format!("{name}.key"), &pem.1))
        };
        Self {
            authority: write("ca.crt", &authority.pem()),
            server: issue("server", &["127.0.0.1", "localhost"]),
            client: issue("client", &[client]),
        }
    }

    /// The files that a client needs, as the query of a URL.
    #[must_use]
    pub fn query(&self) -> String {
        let Self { authority, client, .. } = self;
        format!("ca={}&cert={}&key={}", authority.display(), client.0.display(), client.1.display())
    }

    pub(crate) fn for_client(&self) -> TlsCertificates {
        let read = |path: &Path| std::fs::read(path).expect("the file was written");
        TlsCertificates {
            client_tls: Some(ClientTlsConfig {
                client_cert: read(&self.client.0),
                client_key: read(&self.client.1),
            }),
            root_cert: Some(read(&self.authority)),
        }
    }
}
