//! What is opened before the daemon serves.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tracing::warn;

use super::files::read_token;
use super::past::Before;
use super::{Ended, Start};
use crate::admin::Token;
use crate::listen::{ListenError, Passed, Sockets, listen, passed_by_service_manager, taken};
use crate::printable::in_words;
use crate::server::Listener;
use crate::settings::{ADMIN_ADDRESS, Admin, Settings};
use crate::upgrade::{Inherited, OtherSockets, Outcome, State};

/// What is opened before the step into the background: whoever started the daemon hears what cannot be had.
pub(super) struct Opened {
    pub(super) wire: Vec<Listener>,
    pub(super) dns: Sockets,
    pub(super) admin: Option<(TcpListener, Option<Token>)>,
    /// `None`: there can be no file in memory.
    pub(super) outcome: Option<Outcome>,
}

/// Opens what is not there already, from the program before, whose state may be `resumed`, or from the service manager.
/// Returns with it what the run may go on from.
pub(super) fn open(
    settings: &Settings,
    start: Start,
    environment: &dyn Fn(&str) -> Option<String>,
    resumed: Option<Box<State>>,
) -> Result<(Opened, Before), Ended> {
    let (wire, there, outcome, before) = match resumed {
        Some(state) => {
            let Inherited { wire, others, outcome } =
                Inherited::take(&state).map_err(Ended::not_taken_over)?;
            (wire, others, Some(outcome), Before::Program(state))
        }
        None => {
            let Passed { wire, dns, nodes, states } = open_listeners(settings, start, environment)
                .map_err(|error| Ended::not_listening(&error, start))?;
            let outcome = Outcome::new().inspect_err(
                |error| warn!(%error, "no file in memory: no other program can take this one's place"),
            );
            let there = OtherSockets { dns, admin: None };
            (wire, there, outcome.ok(), Before::Run { states, nodes })
        }
    };
    let listener = |socket| Listener { port: reported_port(&socket, settings), socket };
    let wire = wire.into_iter().map(listener).collect();
    let admin = match there.admin.filter(|socket| is_wanted(socket, settings)) {
        Some(socket) => Some((socket, read_token(settings)?)),
        None => open_admin(settings, start)?,
    };
    let dns = if there.dns.is_empty() { Sockets::bind("dns", &settings.dns.addresses)? } else { there.dns };
    Ok((Opened { wire, dns, admin, outcome }, before))
}

fn open_listeners(
    settings: &Settings,
    start: Start,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Passed, ListenError> {
    let (ask, demand) = match start {
        Start::Classic { systemd, .. } => (systemd, systemd),
        Start::Modern => (true, false),
    };
    let mut passed = if ask { passed_by_service_manager(environment)? } else { Passed::default() };
    if demand && passed.wire.is_empty() {
        return Err(ListenError::NotPassed("LISTEN_FDS is not set for this process".to_owned()));
    }
    if passed.wire.is_empty() {
        passed.wire = listen(&settings.addresses, settings.port)?;
    }
    Ok(passed)
}

/// The port that NAMES reports is the one that clients use: the socket's own, unless somebody who knows
/// of a translation in between has set one.
fn reported_port(socket: &TcpListener, settings: &Settings) -> u16 {
    if settings.port_is_set {
        return settings.port;
    }
    socket.local_addr().map_or(settings.port, |address| address.port())
}

/// Whether the settings still want the socket that the program before had for operators.
fn is_wanted(socket: &TcpListener, settings: &Settings) -> bool {
    match &settings.admin {
        Admin::Off | Admin::Https(..) => false,
        Admin::Default => true,
        Admin::At(address) => socket.local_addr().is_ok_and(|local| local == *address),
    }
}

/// The socket for operators, and the token that they must have. `None`: there is none. Where somebody else has the
/// default address, such as another daemon of this machine, it is at a free port.
///
/// # Errors
/// When what was asked for cannot be had. Without the default there is only a warning: the wire is served all the same.
fn open_admin(settings: &Settings, start: Start) -> Result<Option<(TcpListener, Option<Token>)>, String> {
    let address = match (&settings.admin, start) {
        (Admin::Off, _) | (Admin::Default, Start::Classic { .. }) => return Ok(None),
        (Admin::Default, Start::Modern) => ADMIN_ADDRESS,
        (Admin::At(address), _) => *address,
        (Admin::Https(..), _) => {
            return Err("admin: https is for commands that ask a proxy; a daemon has an address".to_owned());
        }
    };
    let token = read_token(settings)?;
    let bind = |address: SocketAddr| {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true).map(|()| socket)
    };
    let bound = match bind(address) {
        Err(error) if settings.admin == Admin::Default && error.kind() == io::ErrorKind::AddrInUse => {
            warn!(
                "{address} is taken, so the page and the metrics are at a free port: set admin to have them at the same again"
            );
            bind(SocketAddr::new(address.ip(), 0))
        }
        bound => bound,
    };
    match bound {
        Ok(socket) => Ok(Some((socket, token))),
        Err(error) if settings.admin == Admin::Default => {
            warn!(%address, error = %in_words(&error), "no page and no metrics: set admin to an address of its own, or to off");
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(format!("admin: {}", taken(address))),
        Err(error) => Err(format!("admin: cannot listen on {address}: {}", in_words(&error))),
    }
}
