//! The admin API of a daemon, for the commands that ask it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{error::Elapsed, timeout};
use tokio_rustls::TlsConnector;

use super::client::{ANSWER_TIME as WIRE_TIME, ask_at};
use crate::admin::Token;
use crate::listen::{at_loopback, is_own};
use crate::printable::in_words;
use crate::protocol::{self, ADMIN_NAME, PortReply, decode_port_reply, decode_whereabouts};
use crate::settings::{Admin, Origin, Settings};

/// How long a daemon may take to answer: a list of a large cluster has four seconds for its store.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A stream of events shows that it is alive every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// The longest answer that is read: 10,000 nodes with the longest of names.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The longest line of an event that is kept whole.
const EVENT_BYTES_MAX: usize = 64 << 10;

/// What stays as it is in a path.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'@');

/// Why the API does not say what was asked, and what would help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(
        "the settings say that the admin API is off: `admin` must be an address, for the daemon and for this command"
    )]
    Off,
    #[error("admin-token-file: {0}")]
    TokenFile(String),
    #[error(
        "no admin API at {address}: {}; without --admin the daemon on --port is asked where it has one",
        in_words(.error)
    )]
    Connect { address: Place, error: io::Error },
    #[error(
        "the daemon on port {port} has no admin API: the stock epmd has none, nor has repmd with its command line, or \
         where `admin` is off; --admin asks elsewhere"
    )]
    Without { port: u16 },
    #[error("{0}")]
    NoDaemon(String),
    #[error("no connection by TLS to {address}: {error}")]
    Tls { address: Place, error: String },
    #[error("the admin API at {address} wants a token: name the daemon's file by --admin-token-file")]
    TokenNeeded { address: Place },
    #[error(
        "the admin API at {address} takes another token than the one that --admin-token-file names: is it the daemon's file?"
    )]
    TokenWrong { address: Place },
    #[error("the admin API at {address} answers {status}: {error}")]
    Status { address: Place, status: StatusCode, error: String },
    #[error("what listens at {address} is no admin API: {error}; --admin asks elsewhere")]
    Alien { address: Place, error: String },
    #[error("the admin API at {address} does not answer within {time:?}")]
    Silent { address: Place, time: Duration },
}

/// An event of the daemon's stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// A number, so that whatever a daemon sends can be sent back as the last.
    pub(super) id: u64,
    pub(super) kind: String,
    /// As JSON.
    pub(super) data: String,
}

/// Where an API is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A daemon's own.
    At(SocketAddr),
    /// Behind a proxy of this name and port.
    Https(String, u16),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Https(host, port) => write!(f, "https://{host}:{port}"),
        }
    }
}

/// A connection, by TLS or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Place {
    /// What the request calls it.
    fn host(&self) -> String {
        match self {
            Self::At(address) => address.to_string(),
            Self::Https(host, 443) => host.clone(),
            Self::Https(host, port) => format!("{host}:{port}"),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, ApiError> {
        let unreachable = |error| ApiError::Connect { address: self.clone(), error };
        match self {
            Self::At(address) => Ok(Box::new(TcpStream::connect(address).await.map_err(unreachable)?)),
            Self::Https(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                let failed = |error: &dyn fmt::Display| ApiError::Tls {
                    address: self.clone(),
                    error: in_words(error),
                };
                let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
                let connector = TlsConnector::from(tls().map_err(|error| failed(&error))?);
                let stream = connector.connect(name, stream).await.map_err(|error| failed(&error))?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// TLS with the certificates that this system trusts, or those that `SSL_CERT_FILE` names.
fn tls() -> Result<Arc<ClientConfig>, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (trusted, _) = roots.add_parsable_certificates(loaded.certs);
    if trusted == 0 {
        let why = loaded.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(format!("this system trusts no certificate{why}"));
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// Where to ask, and by what right.
#[derive(Debug)]
pub(crate) struct Api {
    address: Place,
    token: Option<Token>,
    runtime: Runtime,
}

impl Api {
    /// The API of the daemon that these settings mean: the one that is named, or else that of the daemon on their port,
    /// which says where it is.
    pub(crate) fn of(settings: &Settings) -> Result<Self, ApiError> {
        let address = match &settings.admin {
            Admin::Off if is_named(settings) => return Err(ApiError::Off),
            Admin::At(address) if is_named(settings) => Place::At(at_loopback(*address)),
            Admin::Https(host, port) => Place::Https(host.clone(), *port),
            Admin::Off | Admin::At(_) | Admin::Default => Place::At(of_port(settings.port)?),
        };
        let token = settings.admin_token_file.as_deref().map(Token::read).transpose();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| ApiError::Connect { address: address.clone(), error })?;
        Ok(Self { address, token: token.map_err(ApiError::TokenFile)?, runtime })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Place {
        &self.address
    }

    /// The object that the API answers to `path`. `None`: there is no such thing.
    pub(crate) fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        self.runtime.block_on(self.within(ANSWER_TIME, async {
            let response = self.send(path, None).await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let response = self.good(response).await?;
            read_object(&self.body(response).await?).map(Some).map_err(|error| self.alien(&error))
        }))
    }

    /// What the API answers to `path`, where there must be something.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.find(path)?.ok_or_else(|| self.alien(&format_args!("there is no {path}")))
    }

    /// Calls `on_event` for each event after `last`, until the daemon ends or `on_event` fails.
    pub(super) fn follow<E: From<ApiError>>(
        &self,
        last: Option<u64>,
        mut on_event: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        self.runtime.block_on(async {
            let opened =
                self.within(ANSWER_TIME, async { self.good(self.send("/api/v1/events", last).await?).await });
            let mut body = opened.await?.into_body();
            let mut events = Events::default();
            // A stream that breaks off has ended: the daemon may have been killed.
            while let Ok(Some(Ok(frame))) =
                timeout(SILENCE_MAX, body.frame()).await.map_err(|_: Elapsed| self.silent(SILENCE_MAX))
            {
                for event in events.take(frame.data_ref().map_or(&[][..], |bytes| bytes)) {
                    on_event(event)?;
                }
            }
            Ok(())
        })
    }

    async fn send(&self, path: &str, last_event: Option<u64>) -> Result<Response<Incoming>, ApiError> {
        let stream = self.address.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.alien(&error))?;
        // It moves the bytes of the one exchange, and ends with it.
        tokio::spawn(connection);
        let mut request = Request::get(path).header(HOST, self.address.host());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.bearer());
        }
        if let Some(last) = last_event {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("paths are encoded, and tokens are checked");
        sender.send_request(request).await.map_err(|error| self.alien(&error))
    }

    async fn good(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
        let (address, status) = (self.address.clone(), response.status());
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(match self.token {
                None => ApiError::TokenNeeded { address },
                Some(_) => ApiError::TokenWrong { address },
            });
        }
        let body: Value =
            serde_json::from_slice(&self.body(response).await?).map_err(|error| self.alien(&error))?;
        Err(ApiError::Status {
            address,
            status,
            error: body["error"].as_str().unwrap_or_default().to_owned(),
        })
    }

    async fn body(&self, response: Response<Incoming>) -> Result<Bytes, ApiError> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(Collected::to_bytes).map_err(|error| self.alien(&error))
    }

    async fn within<T>(
        &self,
        time: Duration,
        answer: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        timeout(time, answer).await.unwrap_or_else(|_: Elapsed| Err(self.silent(time)))
    }

    pub(super) fn alien(&self, error: &dyn std::fmt::Display) -> ApiError {
        ApiError::Alien { address: self.address.clone(), error: in_words(error) }
    }

    fn silent(&self, time: Duration) -> ApiError {
        ApiError::Silent { address: self.address.clone(), time }
    }
}

/// Whether somebody named the API for this very command. A file, or a variable beside a flag for the port, may speak of
/// another daemon of this machine.
pub(super) fn is_named(settings: &Settings) -> bool {
    match settings.origin("admin") {
        Origin::Flag => true,
        Origin::Variable(_) => *settings.origin("port") != Origin::Flag,
        Origin::File(_) | Origin::Default => false,
    }
}

/// Where the API of the daemon on this port is, as it says itself.
fn of_port(port: u16) -> Result<SocketAddr, ApiError> {
    let request = protocol::Request::PortPlease2(ADMIN_NAME);
    let found = ask_at(None, port, &request, WIRE_TIME, decode_port_reply).map_err(ApiError::NoDaemon)?;
    // Whoever listens there may say anything; a token is shown to no other machine.
    let place = |found: PortReply| {
        let address = *decode_whereabouts(&found.extra)?.addresses.first()?;
        is_own(address).then(|| SocketAddr::new(address, found.port))
    };
    found.and_then(place).ok_or(ApiError::Without { port })
}

/// Reads JSON that must be an object: no other has values that can be set by their keys.
pub(super) fn read_object(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<Map<String, Value>>(text).map(Value::Object)
}

/// A name as one part of a path, or as a value in a query.
pub(crate) fn in_path(name: &str) -> String {
    utf8_percent_encode(name, IN_PATH).to_string()
}

/// Events, as they come in pieces.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    event: Event,
}

impl Events {
    /// The events that are whole with these bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut whole = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                // No event of a daemon is that long; what is cut is no JSON either.
                if self.line.len() < EVENT_BYTES_MAX {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            match line.split_once(": ") {
                Some(("id", id)) => self.event.id = id.parse().unwrap_or_default(),
                Some(("event", kind)) => self.event.kind = kind.to_owned(),
                Some(("data", data)) => self.event.data = data.to_owned(),
                None if line.is_empty() => {
                    let event = std::mem::take(&mut self.event);
                    // What only says when to come back is no event.
                    whole.extend((!event.kind.is_empty()).then_some(event));
                }
                _ => {}
            }
        }
        whole
    }
}

/// What is in the list under a key of an answer; nothing where there is none.
pub(super) fn items<'a>(answer: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    answer[key].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_cut_anywhere_are_the_same_events() {
        let text = b"retry: 1000\n\n:\n\nid: 7\nevent: released\ndata: {\"node\":\"a@b\"}\n\nid: 8\nevent: missed\ndata: {}\n\n";
        let event = |id, kind: &str, data: &str| Event { id, kind: kind.to_owned(), data: data.to_owned() };
        let all = [event(7, "released", "{\"node\":\"a@b\"}"), event(8, "missed", "{}")];
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut got = events.take(&text[..cut]);
            got.extend(events.take(&text[cut..]));
            assert_eq!(got, all, "cut after {cut} bytes");
        }
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(in_path("rabbit-1@host_a.example"), "rabbit-1@host_a.example");
        assert_eq!(in_path("a/../b ?#%é"), "a%2F..%2Fb%20%3F%23%25%C3%A9");
    }
}
