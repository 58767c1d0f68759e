//! What a run goes on from.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::info;

use crate::registry::Registry;
use crate::server::{Carried, Daemon};
use crate::settings::Settings;
use crate::upgrade::{self, Identity, Outcome, State, Went};

/// What was there before this run.
pub(super) enum Before {
    /// Another program, in this process.
    Program(Box<State>),
    /// Perhaps another run: what the service manager has kept of it.
    Run {
        states: Vec<OwnedFd>,
        /// The connections of its nodes.
        nodes: Vec<OwnedFd>,
    },
}

impl Before {
    /// What this run goes on from, if there is anything that it can go on from.
    pub(super) fn past(self, settings: &Settings) -> Option<Past> {
        match self {
            Self::Program(state) => Some(Past { state, kept: None }),
            Self::Run { states, nodes } => {
                let (state, nodes) = upgrade::before(states, nodes, settings)?;
                Some(Past { state: Box::new(state), kept: Some(nodes) })
            }
        }
    }
}

/// What a run goes on from.
pub(super) struct Past {
    state: Box<State>,
    /// The connections that the service manager has kept since the run before. `None`: it is the program before, in this
    /// process.
    kept: Option<Vec<OwnedFd>>,
}

impl Past {
    pub(super) fn identity(&self) -> &Identity {
        &self.state.identity
    }

    /// What the program before left in this process, if it was one.
    pub(super) fn program(&self) -> Option<&State> {
        self.kept.is_none().then_some(&*self.state)
    }

    /// Gives `registry` its leases again, and finds the connections of the nodes.
    ///
    /// # Errors
    /// When the state cannot be true, or a connection is not there.
    pub(super) async fn take_over(self, registry: &Arc<Registry>) -> io::Result<Resumed> {
        let Self { state, kept } = self;
        let is_kept = kept.is_some();
        let instance = registry.instance();
        let of_the_registry = state.registry(&instance)?;
        let carried = match kept {
            None => state.take_over(&instance)?,
            Some(sockets) => state.take_kept(&instance, sockets),
        };
        let nodes = carried.nodes.iter().map(|node| (node.claim, Arc::clone(&node.registration)));
        registry.resume(nodes.collect(), of_the_registry).await;
        let registry = Arc::clone(registry);
        tokio::spawn(async move { registry.release_the_rest().await });
        Ok(Resumed { state, carried, is_kept })
    }
}

/// The past, once the registry knows of it.
pub(super) struct Resumed {
    state: Box<State>,
    carried: Carried<OwnedFd>,
    is_kept: bool,
}

impl Resumed {
    /// Whether the service manager has the nodes already.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Goes on with the nodes, and says so, by `outcome` to whoever asked for the new program.
    pub(super) fn go_on(self, daemon: &Arc<Daemon>, outcome: Option<&Outcome>) {
        let Self { state, carried, is_kept } = self;
        let (nodes, under_way) = (carried.nodes.len(), carried.under_way.len());
        let lost = daemon.resume(carried);
        if is_kept {
            return info!(nodes, lost, "went on from the run before, by what the service manager has kept");
        }
        let (version, paused) = (&state.version, state.paused());
        info!(nodes, lost, under_way, version, ?paused, "went on from the program before");
        let went = Went::Replaced {
            versions: [version.clone(), env!("CARGO_PKG_VERSION").to_owned()],
            nodes: [nodes, lost],
            paused_ms: u64::try_from(paused.as_millis()).unwrap_or(u64::MAX),
        };
        outcome.inspect(|outcome| outcome.tell(&went));
    }
}
