//! Commands that ask an admin API behind a proxy with TLS, as the pages say that it should be for others.

use std::fs::read;
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;

use repmd_test_stores::Certificates;
use repmd_test_support::{Daemon, free_port};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::{done, register, repmd};

/// Passes what comes by TLS on to `port`, for as long as the tests run.
fn proxy(certificates: &Certificates, port: u16) -> u16 {
    let (certificate, key) = &certificates.server;
    let certificate = CertificateDer::from_pem_slice(&read(certificate).unwrap()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&read(key).unwrap()).unwrap();
    let config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust it ends here.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut api = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = copy_bidirectional(&mut stream, &mut api).await;
                });
            }
        });
    });
    at
}

#[test]
fn a_proxy_with_tls_is_asked_if_the_system_trusts_it_and_shown_the_token_then() {
    let folder = tempfile::TempDir::new().unwrap();
    let certificates = Certificates::create(folder.path());
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let token = token.to_str().unwrap();
    let (port, admin) = (free_port(), free_port());
    let mut command =
        repmd(["serve", "--host", "here", "--port", &port.to_string(), "--admin-token-file", token]);
    command.args(["--admin", &format!("127.0.0.1:{admin}")]).stderr(Stdio::null());
    let daemon = Daemon::spawn(command, port);
    let _node = register(daemon.port(), "app");
    let place = format!("https://localhost:{}/", proxy(&certificates, admin));
    let mut nodes = repmd(["nodes", "--admin", &place, "--admin-token-file", token]);
    let shown = done(nodes.env("SSL_CERT_FILE", &certificates.authority));
    assert!(shown.exit == 0 && shown.stdout.contains("app@here"), "{shown:?}");
    let other = folder.path().join("client.crt");
    let refused = done(nodes.env("SSL_CERT_FILE", other));
    let said = format!("no connection by TLS to {}: invalid peer certificate", place.trim_end_matches('/'));
    assert!(refused.exit == 2 && refused.stderr.contains(&said), "{refused:?}");
    let serves = done(&mut repmd(["serve", "--port", &free_port().to_string(), "--admin", &place]));
    assert!(serves.exit == 1 && serves.stderr.contains("https is for commands"), "{serves:?}");
}
