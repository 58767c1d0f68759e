//! A connection to one server, from its address to the login.
//!
//! The stream is made here and not by the client library, which would leave no place for the bound on messages, and
//! keep the local address to itself.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;

use repmd_backend_remote::bounded::Bounded;
use repmd_backend_remote::{Address, Opened, tcp};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Notification};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Fault;
use crate::reply::Messages;
use crate::settings::Settings;

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
    opened: &Opened,
    listener: &impl Listener,
) -> Result<Line, Fault> {
    match dial_with(address, settings, opened, listener, Some(OPTIONS)).await {
        // PgBouncer takes only those that it knows.
        Err(fault) if fault.is_about_options() => dial_with(address, settings, opened, listener, None).await,
        answer => answer,
    }
}

async fn dial_with(
    address: &Address,
    settings: &Settings,
    opened: &Opened,
    listener: &impl Listener,
    options: Option<&str>,
) -> Result<Line, Fault> {
    let mut config = Config::new();
    config.user(settings.user()).dbname(settings.database()).application_name("repmd");
    if let Some(options) = options {
        config.options(options);
    }
    if let Some(password) = &opened.password {
        config.password(password.expose_secret());
    }
    let mut stream = tcp::connect(address).await?;
    let local_address = stream.local_addr()?.ip().to_canonical();
    let Some(tls) = &opened.tls else { return log_in(&config, stream, local_address, listener).await };
    stream.write_all(&TLS_REQUEST).await?;
    // Not a byte more: what comes before TLS is from anybody.
    if stream.read_u8().await? != b'S' {
        return Err(Fault::NoTls);
    }
    let name = ServerName::try_from(address.host.clone()).map_err(std::io::Error::other)?;
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
    log_in(&config, stream, local_address, listener).await
}

pub(crate) async fn log_in(
    config: &Config,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    local_address: IpAddr,
    listener: &impl Listener,
) -> Result<Line, Fault> {
    let (client, mut connection) = config.connect_raw(Bounded::<_, Messages>::new(stream), NoTls).await?;
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
