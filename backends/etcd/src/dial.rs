//! A connection to one member, from its address to the login.
//!
//! HTTP/2 is made here, and gRPC over it by its client library: a transport of that library would make every call wait
//! for one that is refused, spread calls over members that are away, and keep the local address to itself.

use std::error::Error;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use futures_util::future::select_ok;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

use crate::error::Fault;
use crate::line::{Channel, Line};
use crate::proto::{AuthenticateRequest, AuthenticateResponse};
use crate::settings::{Address, Settings, Tls, read};

/// When the kernel gives up a peer that acknowledges nothing.
const VANISHED: Duration = Duration::from_secs(5);

/// How often a connection is asked for a sign of life, and how long that may take. Servers of etcd end connections
/// that ask more often than each 5 s.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

/// Bytes that may be on their way before they are read: of one answer, and of all.
const WINDOW: (u32, u32) = (1 << 20, 4 << 20);

/// Connects and logs in. Whoever calls has a deadline of its own.
pub(crate) async fn dial(address: &Address, settings: &Settings) -> Result<Line, Fault> {
    let Settings { login, tls, reading, .. } = settings;
    let (of_login, of_tls) = (login.clone(), tls.clone());
    // One at a time, so that a disk that stands still holds one thread, however often another attempt is made.
    let turn = Arc::clone(reading).acquire_owned().await;
    let read = move || {
        let _turn = turn;
        Ok::<_, Fault>((of_login.password()?, of_tls.as_ref().map(client_config).transpose()?))
    };
    let (password, tls) = tokio::task::spawn_blocking(read).await.map_err(|_| Fault::Silent)??;
    let stream = connect(address).await.map_err(|error| Fault::of_connection(&error))?;
    let local_address =
        stream.local_addr().map_err(|error| Fault::of_connection(&error))?.ip().to_canonical();
    let line = match tls {
        None => talk(stream, address, "http", local_address).await?,
        Some((tls, asked)) => {
            let name = ServerName::try_from(address.host.clone()).map_err(|_| Fault::Certificate {
                reason: "the host cannot be the name of a certificate".to_owned(),
            })?;
            let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
            let stream = stream.map_err(|error| of_tls_error(&error))?;
            let line = talk(stream, address, "https", local_address).await?;
            if asked.0.load(Ordering::Relaxed) { line.with_certificate_asked_for() } else { line }
        }
    };
    match (&login.user, password) {
        (Some(user), Some(password)) => log_in(line, user, &password).await,
        _ => Ok(line),
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    address: &Address,
    scheme: &str,
    local_address: IpAddr,
) -> Result<Line, Fault> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new());
    http.keep_alive_interval(PING.0).keep_alive_timeout(PING.1).keep_alive_while_idle(true);
    http.initial_stream_window_size(WINDOW.0).initial_connection_window_size(WINDOW.1);
    let made = http.handshake(TokioIo::new(stream)).await;
    let (sender, driver) = made.map_err(|error| of_tls_error(&error))?;
    let origin = format!("{scheme}://{address}").parse().map_err(|error| Fault::of_connection(&error))?;
    let driver = driver.map_err(|error| of_tls_error(&error));
    Ok(Line::new(Channel::new(sender), origin, local_address, driver))
}

async fn log_in(mut line: Line, user: &str, password: &SecretString) -> Result<Line, Fault> {
    let (name, password) = (user.to_owned(), password.expose_secret().to_owned());
    let request = AuthenticateRequest { name, password };
    match line.unary::<_, AuthenticateResponse>("/etcdserverpb.Auth/Authenticate", request).await {
        Ok(answer) => {
            line.log_in(&answer.token)?;
            Ok(line)
        }
        // Then nobody needs to.
        Err(fault) if fault.is_without_logins() => Ok(line),
        Err(fault) => Err(fault),
    }
}

/// The first of the server's addresses that answers.
async fn connect(Address { host, port }: &Address) -> std::io::Result<TcpStream> {
    let attempts: Vec<_> =
        lookup_host((&**host, *port)).await?.map(|address| Box::pin(TcpStream::connect(address))).collect();
    if attempts.is_empty() {
        return Err(std::io::Error::other("the host has no address"));
    }
    let (stream, _) = select_ok(attempts).await?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(VANISHED).with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&keepalive.with_retries(3))?;
    socket.set_tcp_user_timeout(Some(VANISHED))?;
    Ok(stream)
}

/// What TLS needs, from its files.
fn client_config(tls: &Tls) -> Result<(ClientConfig, Arc<Asked>), Fault> {
    let mut roots = RootCertStore::empty();
    match &tls.authority {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| Fault::of_file(path, error))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("the provider has the versions").with_root_certificates(roots);
    let mut config = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            let secret =
                PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| Fault::of_file(key, error))?;
            let config = config.with_client_auth_cert(certificates(certificate)?, secret);
            config.map_err(|error| Fault::of_file(certificate, error))?
        }
        _ => config.with_no_client_auth(),
    };
    // Servers of gRPC talk to nobody who does not say so.
    config.alpn_protocols = vec![b"h2".to_vec()];
    let asked = Arc::new(Asked(AtomicBool::new(false), Arc::clone(&config.client_auth_cert_resolver)));
    config.client_auth_cert_resolver = Arc::<Asked>::clone(&asked);
    Ok((config, asked))
}

/// Whether the server has asked for a client's certificate.
#[derive(Debug)]
struct Asked(AtomicBool, Arc<dyn ResolvesClientCert>);

impl ResolvesClientCert for Asked {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        self.1.resolve(issuers, schemes)
    }

    fn has_certs(&self) -> bool {
        self.1.has_certs()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let all: Result<_, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    all.map_err(|error| Fault::of_file(path, error))
}

/// Whether a connection failed by what the two sides hold of each other, or was lost.
fn of_tls_error(error: &(dyn Error + 'static)) -> Fault {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Fault::Certificate { reason: refused.to_string() };
        }
        cause = error.source();
    }
    Fault::of_connection(error)
}
