//! A connection to one member, from its address to the login.
//!
//! HTTP/2 is made here, and gRPC over it by its client library: a transport of that library would make every call wait
//! for one that is refused, spread calls over members that are away, and keep the local address to itself.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use repmd_backend_remote::{Address, Opened, tcp};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::error::Fault;
use crate::line::{Channel, Line};
use crate::proto::{AuthenticateRequest, AuthenticateResponse};
use crate::settings::Settings;

/// How often a connection is asked for a sign of life, and how long that may take. Servers of etcd end connections
/// that ask more often than each 5 s.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

/// Bytes that may be on their way before they are read: of one answer, and of all.
const WINDOW: (u32, u32) = (1 << 20, 4 << 20);

/// Connects and logs in. Whoever calls has a deadline of its own.
pub(crate) async fn dial(address: &Address, settings: &Settings) -> Result<Line, Fault> {
    let access = &settings.access;
    let Opened { password, tls } = access.open::<Fault>().await?;
    let stream = tcp::connect(address).await.map_err(|error| Fault::of_connection(&error))?;
    let local_address =
        stream.local_addr().map_err(|error| Fault::of_connection(&error))?.ip().to_canonical();
    let line = match tls {
        None => talk(stream, address, "http", local_address).await?,
        Some(tls) => {
            let (tls, asked) = for_grpc(Arc::unwrap_or_clone(tls));
            let name = ServerName::try_from(address.host.clone()).map_err(|_| Fault::Certificate {
                reason: "the host cannot be the name of a certificate".to_owned(),
            })?;
            let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
            let stream = stream.map_err(|error| of_tls_error(&error))?;
            let line = talk(stream, address, "https", local_address).await?;
            if asked.0.load(Ordering::Relaxed) { line.with_certificate_asked_for() } else { line }
        }
    };
    match (&access.login.user, password) {
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

/// What TLS needs for gRPC, and whether a certificate will have been asked for.
fn for_grpc(mut config: ClientConfig) -> (ClientConfig, Arc<Asked>) {
    // Servers of gRPC talk to nobody who does not say so.
    config.alpn_protocols = vec![b"h2".to_vec()];
    let asked = Arc::new(Asked(AtomicBool::new(false), Arc::clone(&config.client_auth_cert_resolver)));
    config.client_auth_cert_resolver = Arc::<Asked>::clone(&asked);
    (config, asked)
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
