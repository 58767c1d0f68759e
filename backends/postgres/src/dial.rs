//! A connection to one server, from its address to the login.
//!
//! The stream is made here and not by the client library, which would leave no place for the bound on messages, and
//! keep the local address to itself.

use std::future::poll_fn;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Fault;
use crate::reply::Bounded;
use crate::settings::{Address, Settings, Tls, read};

/// When the kernel gives up a peer that acknowledges nothing.
const VANISHED: Duration = Duration::from_secs(5);

/// Asks a server for TLS: eight bytes, and a code that is no version of the protocol.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// What a server is told of this session: it ends a statement that nobody waits for any longer, and looks for names in
/// no schema but its own.
const OPTIONS: &str = "-c statement_timeout=5000 -c lock_timeout=2000 -c idle_in_transaction_session_timeout=5000 \
                       -c search_path=pg_catalog";

/// A connection that is logged in. It ends when this is dropped.
pub(crate) struct Line {
    pub(crate) client: Client,
    /// This machine's address on it.
    pub(crate) local_address: IpAddr,
    _driver: AbortOnDropHandle<()>,
}

/// How to get in, as the files say at this moment.
#[derive(Clone)]
pub(crate) struct Entry {
    password: Option<SecretString>,
    tls: Option<Arc<ClientConfig>>,
}

impl Entry {
    /// Reads the files, one connection at a time, so that a disk that stands still holds one thread, however often
    /// another attempt is made.
    pub(crate) async fn read(settings: &Settings) -> Result<Self, Fault> {
        let (login, tls) = (settings.login.clone(), settings.tls.clone());
        let turn = Arc::clone(&settings.reading).acquire_owned().await;
        let read = move || {
            let _turn = turn;
            let tls = tls.as_ref().map(client_config).transpose()?;
            Ok(Self { password: login.password()?, tls: tls.map(Arc::new) })
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| Fault::Silent)?
    }
}

/// What happens on a connection beside answers.
pub(crate) trait Listener: Clone + Send + 'static {
    /// The server tells something.
    fn hear(&self, notification: &Notification);

    /// The connection is over.
    fn end(&self);
}

/// Connects and logs in. Whoever calls has a deadline of its own.
pub(crate) async fn dial(
    address: &Address,
    settings: &Settings,
    entry: &Entry,
    listener: &impl Listener,
) -> Result<Line, Fault> {
    match dial_with(address, settings, entry, listener, Some(OPTIONS)).await {
        // PgBouncer takes only those that it knows.
        Err(fault) if fault.is_about_options() => dial_with(address, settings, entry, listener, None).await,
        answer => answer,
    }
}

async fn dial_with(
    address: &Address,
    settings: &Settings,
    entry: &Entry,
    listener: &impl Listener,
    options: Option<&str>,
) -> Result<Line, Fault> {
    let mut config = Config::new();
    config.user(&settings.login.user).dbname(&settings.database).application_name("repmd");
    if let Some(options) = options {
        config.options(options);
    }
    if let Some(password) = &entry.password {
        config.password(password.expose_secret());
    }
    let mut stream = connect(address).await?;
    let local_address = stream.local_addr()?.ip().to_canonical();
    let Some(tls) = &entry.tls else { return log_in(&config, stream, local_address, listener).await };
    stream.write_all(&TLS_REQUEST).await?;
    // Not a byte more: what comes before TLS is from anybody.
    if stream.read_u8().await? != b'S' {
        return Err(Fault::NoTls);
    }
    let name = ServerName::try_from(address.host.clone()).map_err(std::io::Error::other)?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    log_in(&config, stream, local_address, listener).await
}

async fn log_in(
    config: &Config,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    local_address: IpAddr,
    listener: &impl Listener,
) -> Result<Line, Fault> {
    let (client, mut connection) = config.connect_raw(Bounded::new(stream), NoTls).await?;
    let listener = listener.clone();
    let driver = async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                listener.hear(&notification);
            }
        }
        listener.end();
    };
    Ok(Line { client, local_address, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
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
