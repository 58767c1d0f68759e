//! A request's body -> what to answer. All that a request can do to the daemon's nodes is here.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use repmd_backend_api::Node;
use rustix::net::getsockname;
use tracing::{debug, warn};

use super::daemon::Daemon;
use super::policy::is_local;
use crate::protocol::{DecodeError, Request, Response, decode_request};

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    /// Without IPv4 mapped into IPv6.
    pub(super) peer: IpAddr,
    /// The port that NAMES and DUMP report: the one that the asker used.
    pub(super) port: u16,
    pub(super) socket: BorrowedFd<'a>,
}

impl Asker<'_> {
    /// The address that the asker connected to: one system call, so only where it decides something.
    fn local(&self) -> Option<IpAddr> {
        let address = SocketAddr::try_from(getsockname(self.socket).ok()?).ok()?;
        Some(address.ip().to_canonical())
    }

    fn is_local(&self) -> bool {
        is_local(self.peer, || self.local())
    }
}

/// What a connection does next.
#[derive(Debug)]
pub(super) enum Answer {
    /// Close without a word.
    Silence,
    /// Write what was encoded, and close.
    Reply,
    /// Write this list, and close.
    List(Arc<Vec<u8>>),
    /// Register the node, and hold the connection for as long as it is registered.
    Register(Node),
    /// Write what was encoded, and end the daemon.
    Kill,
}

/// Answers one request; a reply is appended to `out`.
pub(super) fn answer(daemon: &Daemon, body: &[u8], asker: Asker<'_>, out: &mut Vec<u8>) -> Answer {
    let may_register = || daemon.policy.may_register(asker.peer, || asker.local());
    let may_look_up = || daemon.policy.may_look_up(asker.peer, || asker.local());
    let relaxed = daemon.policy.relaxed_command_check;
    match decode_request(body) {
        Ok(Request::PortPlease2(name)) if may_look_up() => look_up(daemon, name, out),
        Ok(Request::Names) if may_look_up() => Answer::List(daemon.table().names(asker.port)),
        Ok(Request::Dump) if asker.is_local() => Answer::List(Arc::new(daemon.table().dump(asker.port))),
        Ok(Request::Alive2(node)) if may_register() => register(daemon, node, asker),
        Ok(Request::Kill) if asker.is_local() && (relaxed || daemon.table().len() == 0) => {
            Response::Killed.encode(out);
            Answer::Kill
        }
        Ok(Request::Kill) if asker.is_local() => {
            complain(daemon, asker, &"Disallowed KILL_REQ, live nodes");
            reply(Response::KillRefused, out)
        }
        Ok(Request::Stop(name)) if asker.is_local() && relaxed => stop(daemon, name, out),
        Ok(Request::Stop(_)) if asker.is_local() => {
            complain(daemon, asker, &"Disallowed STOP_REQ, no relaxed_command_check");
            Answer::Silence
        }
        Err(DecodeError::Refused { highest_version, reason }) if may_register() => {
            complain(daemon, asker, &reason);
            reply(Response::Alive2Refused { highest_version }, out)
        }
        Ok(request) => not_allowed(daemon, asker, tag_name(&request)),
        Err(DecodeError::Refused { .. }) => not_allowed(daemon, asker, "ALIVE2_REQ"),
        Err(error) => {
            complain(daemon, asker, &error);
            Answer::Silence
        }
    }
}

fn register(daemon: &Daemon, node: Node, asker: Asker<'_>) -> Answer {
    if daemon.table().len() < daemon.limits.nodes_max {
        return Answer::Register(node);
    }
    // Not a refusal: the node would print it as a duplicate name.
    complain(daemon, asker, &"no descriptor left for another node");
    Answer::Silence
}

fn look_up(daemon: &Daemon, name: &str, out: &mut Vec<u8>) -> Answer {
    match daemon.table().find(name) {
        Some(registration) => {
            let node = &registration.node;
            reply(Response::PortFound { node, port: node.port, extra: &node.extra }, out)
        }
        None => reply(Response::PortNotFound, out),
    }
}

fn stop(daemon: &Daemon, name: &[u8], out: &mut Vec<u8>) -> Answer {
    let known = std::str::from_utf8(name).is_ok_and(|name| daemon.table().stop(name));
    debug!(name = %name.escape_ascii(), known, "STOP_REQ");
    reply(if known { Response::Stopped } else { Response::StopUnknown }, out)
}

fn reply(response: Response<'_>, out: &mut Vec<u8>) -> Answer {
    response.encode(out);
    Answer::Reply
}

fn not_allowed(daemon: &Daemon, asker: Asker<'_>, request: &str) -> Answer {
    complain(daemon, asker, &format_args!("{request} from non local address"));
    Answer::Silence
}

/// Logs what a peer did wrong, within bounds: a stranger must not be able to fill the disk.
pub(super) fn complain(daemon: &Daemon, asker: Asker<'_>, what: &dyn std::fmt::Display) {
    match daemon.complaints.pass() {
        Some(0) => warn!(peer = %asker.peer, "{what}"),
        Some(left_out) => warn!(peer = %asker.peer, left_out, "{what}"),
        None => debug!(peer = %asker.peer, "{what}"),
    }
}

fn tag_name(request: &Request<'_>) -> &'static str {
    match request {
        Request::Alive2(_) => "ALIVE2_REQ",
        Request::PortPlease2(_) => "PORT2_REQ",
        Request::Names => "NAMES_REQ",
        Request::Dump => "DUMP_REQ",
        Request::Kill => "KILL_REQ",
        Request::Stop(_) => "STOP_REQ",
    }
}
