//! A connection to one server, from its address to the login.
//!
//! The stream is made here and not by the client library, which would leave no place for the bound on
//! replies, read the files of TLS on the thread that calls it, and keep the local address to itself.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Fault;
use crate::reply::Bounded;
use crate::settings::{Address, Login, Tls, read};

/// When the kernel gives up a peer that acknowledges nothing.
const VANISHED: Duration = Duration::from_secs(5);

/// A connection that is logged in. It ends when this is dropped.
pub(crate) struct Line {
    pub(crate) connection: MultiplexedConnection,
    /// This machine's address on it.
    pub(crate) local_address: IpAddr,
    _driver: AbortOnDropHandle<()>,
}

/// How to get in.
pub(crate) struct Entry<'a> {
    pub(crate) login: &'a Login,
    pub(crate) tls: Option<&'a Tls>,
    pub(crate) database: i64,
    pub(crate) protocol: ProtocolVersion,
    /// Who reads the files: one at a time, so that a disk that stands still holds one thread, however often
    /// another attempt is made.
    pub(crate) reading: &'a Arc<Semaphore>,
}

/// Connects and logs in. Whoever calls has a deadline of its own.
pub(crate) async fn dial(
    address: &Address,
    entry: &Entry<'_>,
    config: AsyncConnectionConfig,
) -> Result<Line, Fault> {
    let Entry { login, tls, database, protocol, reading } = entry;
    let config = config.set_connection_timeout(None).set_response_timeout(None);
    let mut redis = RedisConnectionInfo::default().set_db(*database).set_protocol(*protocol);
    if let Some(user) = &login.user {
        redis = redis.set_username(user);
    }
    let (of_login, of_tls) = ((*login).clone(), tls.cloned());
    let turn = Arc::clone(reading).acquire_owned().await;
    let read = move || {
        let _turn = turn;
        Ok::<_, Fault>((of_login.password()?, of_tls.as_ref().map(client_config).transpose()?))
    };
    let (password, tls) = tokio::task::spawn_blocking(read).await.map_err(|_| Fault::Silent)??;
    if let Some(password) = password {
        redis = redis.set_password(password.expose_secret());
    }
    let stream = connect(address).await.map_err(RedisError::from)?;
    let local_address = stream.local_addr().map_err(RedisError::from)?.ip().to_canonical();
    let Some(tls) = tls else { return log_in(&redis, stream, local_address, config).await };
    let name = ServerName::try_from(address.host.clone()).map_err(|_| {
        RedisError::from((ErrorKind::InvalidClientConfig, "the host cannot be the name of a certificate"))
    })?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(RedisError::from)?;
    log_in(&redis, stream, local_address, config).await
}

async fn log_in(
    redis: &RedisConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    local_address: IpAddr,
    config: AsyncConnectionConfig,
) -> Result<Line, Fault> {
    let stream = Bounded::new(stream);
    let (connection, driver) = MultiplexedConnection::new_with_config(redis, stream, config).await?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
    Ok(Line { connection, local_address, _driver })
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
fn client_config(tls: &Tls) -> Result<ClientConfig, Fault> {
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
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Ok(config.with_no_client_auth());
    };
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| Fault::of_file(key, error))?;
    let config = config.with_client_auth_cert(certificates(certificate)?, secret);
    config.map_err(|error| Fault::of_file(certificate, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let all: Result<_, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    all.map_err(|error| Fault::of_file(path, error))
}
