//! One Erlang node: it boots, holds its connection, and comes back to a daemon that restarted.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use repmd_backend_api::{AliveName, Node};
use repmd_history::Outcome::{Granted, Refused};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::world::{Running, World};

/// How long a node waits before it registers again.
const RETRY: Duration = Duration::from_secs(2);

/// A node's process. Its port is its own, so that it tells lives apart.
pub(crate) struct Life {
    pub(crate) port: u16,
    pub(crate) name: AliveName,
    /// The daemon that it registers with.
    pub(crate) slot: usize,
    pub(crate) born: Instant,
    pub(crate) died: Cell<Option<Instant>>,
    /// Since when it has been registered; `None` while it is not.
    pub(crate) held_since: Cell<Option<Instant>>,
    /// When it was last registered.
    pub(crate) last_held: Cell<Option<Instant>>,
    pub(crate) killed: CancellationToken,
}

impl Life {
    pub(crate) fn new(port: u16, name: AliveName, slot: usize) -> Self {
        let born = Instant::now();
        Self {
            port,
            name,
            slot,
            born,
            died: Cell::default(),
            held_since: Cell::default(),
            last_held: Cell::default(),
            killed: CancellationToken::new(),
        }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({})", self.port, self.name)
    }
}

/// How a registration came out.
enum Outcome {
    Refused,
    /// The node's process was over by the time it ended.
    Over,
    /// The daemon went away.
    Lost,
    /// Another program took the daemon's place before there was an answer: it asks again itself.
    Frozen,
}

/// Lives until it is killed, or refused when it boots.
pub(crate) async fn live(world: Rc<World>, life: Rc<Life>) {
    let mut has_booted = false;
    while life.died.get().is_none() {
        let running = world.daemons[life.slot].running.borrow().clone();
        let outcome = match running {
            Some(running) => register_and_hold(&world, &life, &running, has_booted).await,
            None => Outcome::Lost,
        };
        match outcome {
            Outcome::Over => return,
            Outcome::Frozen => {}
            // A node that boots stops when it cannot register; one that comes back tries for ever.
            Outcome::Refused | Outcome::Lost if !has_booted && life.last_held.get().is_none() => {
                return world.bury(&life);
            }
            Outcome::Refused | Outcome::Lost => {
                has_booted = true;
                tokio::select! {
                    biased;
                    () = life.killed.cancelled() => return,
                    () = sleep(RETRY) => {}
                }
            }
        }
    }
}

async fn register_and_hold(world: &Rc<World>, life: &Rc<Life>, running: &Running, again: bool) -> Outcome {
    let daemon = world.daemons[life.slot].name;
    if running.table.borrow().contains_key(&life.name) {
        return Outcome::Refused;
    }
    running.table.borrow_mut().insert(life.name.clone(), life.port);
    let tenure = world.asks(life);
    let node = Node::ordinary(life.name.clone(), life.port);
    let program = running.program();
    let registered = tokio::select! {
        biased;
        () = program.frozen.cancelled() => None,
        registered = program.registry.register(running.next_claim(), node, life.port) => Some(registered),
    };
    let Some(registered) = registered else {
        running.table.borrow_mut().remove(&life.name);
        world.recorder.ended(tenure);
        running.goes_on(&program).await;
        return Outcome::Frozen;
    };
    let lease = match registered {
        Ok(lease) => lease,
        Err(taken) => {
            world.tell(&format!("{daemon}: {life} is refused: {taken}"));
            running.table.borrow_mut().remove(&life.name);
            world.recorder.came_out(tenure, Refused);
            world.check_refusal(life);
            return Outcome::Refused;
        }
    };
    world.recorder.came_out(tenure, Granted(lease.creation()));
    world.handed_out(&lease);
    let again = if again { " again" } else { "" };
    let how = if lease.creation().is_offline() { "accepted offline" } else { "registered" };
    world.tell(&format!("{daemon}: {life} is {how}{again}, creation {}", lease.creation()));
    world.check_grant(life, &lease);
    life.held_since.set(Some(Instant::now()));
    let outcome = tokio::select! {
        biased;
        () = life.killed.cancelled() => Outcome::Over,
        () = running.ended.cancelled() => Outcome::Lost,
    };
    life.last_held.set(Some(Instant::now()));
    life.held_since.set(None);
    running.table.borrow_mut().remove(&life.name);
    world.recorder.ended(tenure);
    let mut program = running.program();
    // That it ended is seen by the program that serves then.
    while program.frozen.is_cancelled() && !running.ended.is_cancelled() {
        running.goes_on(&program).await;
        program = running.program();
    }
    tokio::select! {
        biased;
        // The next program tells the store.
        () = program.frozen.cancelled() => {}
        () = program.registry.release(&lease) => {}
    }
    outcome
}
