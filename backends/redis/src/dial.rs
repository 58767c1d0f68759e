//! A connection to one server, from its address to the login.
//!
//! The stream is made here and not by the client library, which would leave no place for the bound on
//! replies, read the files of TLS on the thread that calls it, and keep the local address to itself.

use std::net::IpAddr;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError};
use repmd_backend_remote::bounded::Bounded;
use repmd_backend_remote::{Access, Address, Opened, tcp};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Fault;
use crate::reply::Reply;

/// A connection that is logged in. It ends when this is dropped.
pub(crate) struct Line {
    pub(crate) connection: MultiplexedConnection,
    /// This machine's address on it.
    pub(crate) local_address: IpAddr,
    _driver: AbortOnDropHandle<()>,
}

/// How to get in.
pub(crate) struct Entry<'a> {
    pub(crate) access: &'a Access,
    pub(crate) database: i64,
    pub(crate) protocol: ProtocolVersion,
}

/// Connects and logs in. Whoever calls has a deadline of its own.
pub(crate) async fn dial(
    address: &Address,
    entry: &Entry<'_>,
    config: AsyncConnectionConfig,
) -> Result<Line, Fault> {
    let Entry { access, database, protocol } = entry;
    let config = config.set_connection_timeout(None).set_response_timeout(None);
    let mut redis = RedisConnectionInfo::default().set_db(*database).set_protocol(*protocol);
    if let Some(user) = &access.login.user {
        redis = redis.set_username(user);
    }
    let Opened { password, tls } = access.open::<Fault>().await?;
    if let Some(password) = password {
        redis = redis.set_password(password.expose_secret());
    }
    let stream = tcp::connect(address).await.map_err(RedisError::from)?;
    let local_address = stream.local_addr().map_err(RedisError::from)?.ip().to_canonical();
    let Some(tls) = tls else { return log_in(&redis, stream, local_address, config).await };
    let name = ServerName::try_from(address.host.clone()).map_err(|_| {
        RedisError::from((ErrorKind::InvalidClientConfig, "the host cannot be the name of a certificate"))
    })?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(RedisError::from)?;
    log_in(&redis, stream, local_address, config).await
}

async fn log_in(
    redis: &RedisConnectionInfo,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    local_address: IpAddr,
    config: AsyncConnectionConfig,
) -> Result<Line, Fault> {
    let stream = Bounded::<_, Reply>::new(stream);
    let (connection, driver) = MultiplexedConnection::new_with_config(redis, stream, config).await?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
    Ok(Line { connection, local_address, _driver })
}
