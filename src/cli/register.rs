//! `repmd register`: holds a name for a node that does not register by itself, or that the daemon has forgotten.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgMatches;
use repmd_backend_api::{AliveName, Node, NodeType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::client::ANSWER_TIME;
use super::modern::{Environment, Failure, NOT_FOUND, complain, say, settings};
use crate::printable::{escaped, in_words};
use crate::protocol::{Request, decode_alive2_reply, encode_request};

/// Between two tries once the daemon has gone: as often as a node of OTP 23.3 or later.
const AGAIN: Duration = Duration::from_secs(2);

/// How it went with one daemon.
enum Held {
    /// Another node has the name.
    Refused,
    /// The daemon has closed the connection.
    Over,
}

/// Holds the name until it is told to end, and ends with 1 when another node has it.
pub(super) fn main(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let name = matches.get_one::<String>("alive").expect("clap demands a name");
    if name.contains('@') {
        return Err(format!("{name:?}: only the part before the @ is registered").into());
    }
    let alive = AliveName::parse(name.as_bytes()).map_err(|error| format!("{name:?}: {error}"))?;
    let mut node = Node::ordinary(alive, *matches.get_one("node-port").expect("clap demands a port"));
    if matches.get_flag("hidden") {
        node.node_type = NodeType::HIDDEN;
    }
    let port = settings(matches, environment)?.port;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
            _ = end.recv() => Ok(ExitCode::SUCCESS),
            ended = keep(&node, port) => ended,
        }
    })
}

/// Registers with one daemon after the other. The first must be there.
async fn keep(node: &Node, port: u16) -> Result<ExitCode, Failure> {
    let mut was_held = false;
    loop {
        match hold(node, port, &mut was_held).await {
            Ok(Held::Refused) => {
                complain(&format_args!("{} is registered by another node", node.name.as_str()));
                return Ok(ExitCode::from(NOT_FOUND));
            }
            Ok(Held::Over) if was_held => {
                complain(&format_args!("the daemon on port {port} has ended; trying again every {AGAIN:?}"));
            }
            Ok(Held::Over) => return Err("the daemon has closed the connection without an answer".into()),
            Err(_) if was_held => {}
            Err(error) => {
                return Err(format!("no EPMD at this host, port {port}: {}", in_words(&error)).into());
            }
        }
        sleep(AGAIN).await;
    }
}

/// Registers, says so, and waits for the end of the connection.
async fn hold(node: &Node, port: u16, was_held: &mut bool) -> io::Result<Held> {
    let asked = async {
        let mut stream = match TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
            Ok(stream) => stream,
            Err(_) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?,
        };
        stream.write_all(&encode_request(&Request::Alive2(node.clone()))).await?;
        // Six bytes to whom speaks version 6, as this does.
        let mut reply = [0; 6];
        stream.read_exact(&mut reply).await?;
        io::Result::Ok((stream, reply))
    };
    let silent = |_| {
        let said = format!("what listens there gives no answer within {ANSWER_TIME:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, said))
    };
    let asked = timeout(ANSWER_TIME, asked).await.unwrap_or_else(silent);
    let (mut stream, reply) = match asked {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Held::Over),
        asked => asked?,
    };
    let Some(creation) = decode_alive2_reply(&reply).map_err(io::Error::other)? else {
        return Ok(Held::Refused);
    };
    *was_held = true;
    let name = escaped(node.name.as_str());
    let said =
        say(format!("{name}: port {}, creation {creation}, held until this ends\n", node.port).as_bytes());
    said.map_err(|error| io::Error::other(error.to_string()))?;
    // Nothing more comes from a daemon.
    let mut rest = [0; 64];
    while 0 < stream.read(&mut rest).await.unwrap_or(0) {}
    Ok(Held::Over)
}
