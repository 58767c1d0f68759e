//! Another program in the place of this one: who asks for it, and what it goes on with.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tracing::warn;

use crate::listen::Sockets;
use crate::server::{Daemon, Replace};
use crate::upgrade::{Called, OtherSockets, Outcome, State, Upgrader};

/// What it takes to put another program in the place of this one.
pub(super) struct Replacement {
    called: io::Result<Called>,
    sockets: OtherSockets,
    /// `None`: there can be no file in memory, and so no other program.
    outcome: Option<Outcome>,
    asked_to_upgrade: Signal,
    asked_to_reload: Option<Signal>,
}

impl Replacement {
    /// Hears from now on those who ask for one. `program`: the one before, in this process.
    ///
    /// # Errors
    /// When there can be no handler of a signal, or no descriptor is left.
    pub(super) fn prepare(
        called: io::Result<Called>,
        outcome: Option<Outcome>,
        dns: &Sockets,
        admin: Option<&TcpListener>,
        program: Option<&State>,
    ) -> io::Result<Self> {
        let asked_to_upgrade = Upgrader::signal()?;
        let asked_to_reload = Upgrader::reload_signal(program)?;
        let admin = admin.map(TcpListener::try_clone).transpose()?;
        let sockets = OtherSockets { dns: dns.try_clone()?, admin };
        Ok(Self { called, sockets, outcome, asked_to_upgrade, asked_to_reload })
    }

    /// Where whoever asked for a program looks how it went.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Replaces the program whenever somebody asks, until the daemon stops.
    pub(super) fn keep(self, daemon: &Arc<Daemon>, replacements: mpsc::Sender<Replace>) {
        let Self { called, sockets, outcome, asked_to_upgrade, asked_to_reload } = self;
        let called = called.inspect_err(
            |error| warn!(%error, "this program's file is not known: no other one can take its place"),
        );
        let (Ok(called), Some(outcome)) = (called, outcome) else { return };
        let (daemon, stop) = (Arc::clone(daemon), daemon.stop().clone());
        let reloads = asked_to_reload.is_some();
        let upgrader = Upgrader { called, sockets, outcome, reloads, daemon, replacements };
        // With it go the sockets that it keeps for another program.
        tokio::spawn(async move {
            stop.run_until_cancelled(upgrader.keep(asked_to_upgrade, asked_to_reload)).await
        });
    }
}
