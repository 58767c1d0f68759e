//! The leases of repmd as a model: every order in which daemons, nodes, a store and the network between them
//! can act, within a budget of each kind of event.
//!
//! Two daemons serve one host and a third another; they register two names. Nodes start and end, daemons are
//! killed and come back, requests and answers are lost or arrive late and in any order, a daemon that is slow
//! or cut off stops counting as alive, leases run out, and the store fails over to a replica that lacks its
//! last write. What must hold is said in [`Leases::properties`], with each of the promises of
//! `docs/ARCHITECTURE.md` that it stands for. The rules of the contract are in `store.rs`; each can be taken
//! out ([`Rules`]), and then the checker must find a way to break a promise.

mod store;

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

pub use store::Rules;
use store::{Creation, Daemon, Key, Record, Renewal, Run, Store, Token};

/// The host of each daemon.
const HOSTS: [u8; 3] = [0, 0, 1];

/// How often the events of a kind may happen on one way through the model: what keeps it finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Alive names.
    pub names: u8,
    /// Nodes that start.
    pub starts: u8,
    /// Daemons that are killed and come back.
    pub restarts: u8,
    /// Requests and answers that are lost, or that a daemon waits for in vain.
    pub losses: u8,
    /// Running daemons that stop counting as alive, because the store has not heard from them.
    pub silences: u8,
    /// Fail-overs that lose the last write.
    pub fail_overs: u8,
    /// Renewals that are sent.
    pub renewals: u8,
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Leases {
    /// What may happen.
    pub budget: Budget,
    /// The contract.
    pub rules: Rules,
}

/// A node that is connected to its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Life {
    number: u8,
    /// `None`: the store is being asked for it.
    creation: Option<Creation>,
}

/// One daemon, as it runs now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Running {
    run: u8,
    claims: u8,
    lives: BTreeMap<u8, Life>,
}

/// Something on its way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Request {
    Register(Key, Token),
    Renew(Key, Record),
    Release(Key, Token),
}

/// What the store said to a claim.
type Answer = (Key, Token, Result<Creation, Daemon>);

/// A state of all of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    left: Budget,
    daemons: [Running; HOSTS.len()],
    store: Store,
    /// What the replica has: all but the last write.
    replica: Store,
    requests: BTreeSet<Request>,
    answers: BTreeSet<Answer>,
    /// How many claims the store has seen: they are further apart than its clock is fine.
    clock: u8,
    /// The creations that nodes were told.
    told: BTreeSet<(Key, Creation)>,
    /// The first promise that was broken on the way here.
    broken: Option<Broken>,
}

/// A promise that an event can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    TakenFromALivingDaemon,
    RenewedOverAnotherOwner,
    ReleasedAnotherLife,
    RefusedByItself,
    CreationRepeated,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A node registers with a daemon.
    NodeStarts(u8, u8),
    /// Its connection ends.
    NodeEnds(u8, u8),
    /// The daemon waits no longer for the store, and accepts the node.
    AcceptedWithoutTheStore(u8, u8),
    /// A daemon is killed with its nodes' connections, and is back.
    DaemonRestarts(u8),
    /// A daemon renews the lease on a name.
    Renews(u8, u8),
    /// Something reaches the store, which carries it out.
    Arrives(usize),
    /// It does not.
    Lost(usize),
    /// The store's answer reaches the daemon.
    Answered(usize),
    /// It does not.
    AnswerLost(usize),
    /// A run no longer counts as alive.
    Silent(usize),
    /// A lease runs out.
    Expires(usize),
    /// The replica takes the store's place.
    FailsOver,
}

impl State {
    fn run_of(&self, daemon: Daemon) -> Run {
        Run { daemon, number: self.daemons[usize::from(daemon)].run }
    }

    fn is_running(&self, run: Run) -> bool {
        self.run_of(run.daemon) == run
    }

    fn token(&self, daemon: Daemon, life: Life) -> Token {
        Token { run: self.run_of(daemon), number: life.number }
    }

    /// Whether the node of `token` is connected to its daemon.
    fn lives(&self, key: Key, token: Token) -> bool {
        let life = self.daemons[usize::from(token.run.daemon)].lives.get(&key.1);
        self.is_running(token.run) && life.is_some_and(|life| life.number == token.number)
    }

    fn breaks(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    fn tell(&mut self, key: Key, creation: Creation) {
        if !self.told.insert((key, creation)) {
            self.breaks(Broken::CreationRepeated);
        }
    }

    /// Carries a request out.
    fn execute(&mut self, request: Request, rules: Rules) {
        let before = self.store.clone();
        match request {
            Request::Register(key, token) => {
                self.clock += 1;
                let answer = self.store.register(key, token, self.clock, rules);
                if let Some(held) = before.records.get(&key)
                    && answer.is_ok()
                    && held.token.run.daemon != token.run.daemon
                    && before.alive.contains(&held.token.run)
                    && self.lives(key, held.token)
                {
                    self.breaks(Broken::TakenFromALivingDaemon);
                }
                if self.is_running(token.run) {
                    self.answers.insert((key, token, answer));
                }
            }
            Request::Renew(key, record) => {
                let answer = self.store.renew(key, record, self.clock, rules);
                if let Some(held) = before.records.get(&key) {
                    let (past, token) = (held.token, record.token);
                    let is_past = past.run == token.run || !before.alive.contains(&past.run);
                    match answer {
                        Renewal::Held if past.run.daemon != token.run.daemon => {
                            self.breaks(Broken::RenewedOverAnotherOwner);
                        }
                        Renewal::Conflict(holder)
                            if holder == token.run.daemon && is_past && self.lives(key, token) =>
                        {
                            self.breaks(Broken::RefusedByItself);
                        }
                        Renewal::Held | Renewal::Conflict(_) => {}
                    }
                }
            }
            Request::Release(key, token) => {
                self.store.release(key, token, rules);
                if let Some(held) = before.records.get(&key)
                    && held.token != token
                    && !self.store.records.contains_key(&key)
                    && self.lives(key, held.token)
                {
                    self.breaks(Broken::ReleasedAnotherLife);
                }
            }
        }
        if self.store != before {
            self.replica = before;
        }
    }

    /// After the last fault: nothing is on its way any more, runs that are over stop counting as alive, and
    /// then each daemon renews what it holds, once.
    fn settled(&self, rules: Rules, order: impl Iterator<Item = Daemon>) -> Self {
        let mut state = self.clone();
        state.requests.clear();
        let running = [0, 1, 2].map(|daemon| state.run_of(daemon));
        state.store.alive.retain(|run| running.contains(run));
        for daemon in order {
            for (name, life) in state.daemons[usize::from(daemon)].lives.clone() {
                let Some(creation) = life.creation else { continue };
                let key = (HOSTS[usize::from(daemon)], name);
                let record = Record { token: state.token(daemon, life), creation };
                let _ = state.store.renew(key, record, state.clock, rules);
            }
        }
        state
    }

    /// Whether others are told of every node that lives, or of its rival on the same host.
    fn tells_of_the_living(&self) -> bool {
        let mut living: BTreeMap<Key, BTreeSet<Token>> = BTreeMap::new();
        for daemon in 0..3 {
            let Running { lives, .. } = &self.daemons[usize::from(daemon)];
            for (name, life) in lives.iter().filter(|(_, life)| life.creation.is_some()) {
                let key = (HOSTS[usize::from(daemon)], *name);
                living.entry(key).or_default().insert(self.token(daemon, *life));
            }
        }
        // The lease of another daemon of the host runs out by itself: nobody may end it early.
        let is_anothers = |record: &Record, tokens: &BTreeSet<Token>| {
            tokens.iter().all(|token| token.run.daemon != record.token.run.daemon)
        };
        living.iter().all(|(key, tokens)| {
            let record = self.store.records.get(key);
            record.is_some_and(|record| tokens.contains(&record.token) || is_anothers(record, tokens))
        })
    }
}

impl Model for Leases {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            left: self.budget,
            daemons: Default::default(),
            store: Store::default(),
            replica: Store::default(),
            requests: BTreeSet::new(),
            answers: BTreeSet::new(),
            clock: 0,
            told: BTreeSet::new(),
            broken: None,
        }]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        let left = &state.left;
        for (daemon, running) in (0..).zip(&state.daemons) {
            for name in 0..left.names {
                match running.lives.get(&name) {
                    None if 0 < left.starts => events.push(Event::NodeStarts(daemon, name)),
                    None => {}
                    Some(life) => {
                        events.push(Event::NodeEnds(daemon, name));
                        match life.creation {
                            None if 0 < left.losses => {
                                events.push(Event::AcceptedWithoutTheStore(daemon, name));
                            }
                            Some(_) if 0 < left.renewals => events.push(Event::Renews(daemon, name)),
                            None | Some(_) => {}
                        }
                    }
                }
            }
            // A daemon that has done nothing leaves nothing behind.
            if 0 < left.restarts && 0 < running.claims {
                events.push(Event::DaemonRestarts(daemon));
            }
        }
        for number in 0..state.requests.len() {
            events.push(Event::Arrives(number));
            if 0 < left.losses {
                events.push(Event::Lost(number));
            }
        }
        for number in 0..state.answers.len() {
            events.push(Event::Answered(number));
            if 0 < left.losses {
                events.push(Event::AnswerLost(number));
            }
        }
        for (number, run) in state.store.alive.iter().enumerate() {
            if 0 < left.silences || !state.is_running(*run) {
                events.push(Event::Silent(number));
            }
        }
        for (number, record) in state.store.records.values().enumerate() {
            // A lease is longer than its holder counts as alive after the same renewal.
            if !state.store.alive.contains(&record.token.run) {
                events.push(Event::Expires(number));
            }
        }
        if 0 < left.fail_overs && state.replica != state.store {
            events.push(Event::FailsOver);
        }
    }

    fn next_state(&self, before: &State, event: Event) -> Option<State> {
        let mut state = before.clone();
        match event {
            Event::NodeStarts(daemon, name) => {
                state.left.starts -= 1;
                let running = &mut state.daemons[usize::from(daemon)];
                running.claims += 1;
                let life = Life { number: running.claims, creation: None };
                running.lives.insert(name, life);
                let token = state.token(daemon, life);
                state.requests.insert(Request::Register((HOSTS[usize::from(daemon)], name), token));
            }
            Event::NodeEnds(daemon, name) => {
                let life = state.daemons[usize::from(daemon)].lives.remove(&name)?;
                let token = state.token(daemon, life);
                state.requests.insert(Request::Release((HOSTS[usize::from(daemon)], name), token));
            }
            Event::AcceptedWithoutTheStore(daemon, name) => {
                state.left.losses -= 1;
                let key = (HOSTS[usize::from(daemon)], name);
                let life = state.daemons[usize::from(daemon)].lives[&name];
                let creation = Creation::Offline(state.token(daemon, life));
                state.daemons[usize::from(daemon)].lives.get_mut(&name)?.creation = Some(creation);
                state.tell(key, creation);
            }
            Event::DaemonRestarts(daemon) => {
                state.left.restarts -= 1;
                let running = &mut state.daemons[usize::from(daemon)];
                *running = Running { run: running.run + 1, ..Running::default() };
                let run = state.run_of(daemon);
                state.answers.retain(|(_, token, _)| token.run.daemon != daemon || token.run == run);
            }
            Event::Renews(daemon, name) => {
                state.left.renewals -= 1;
                let life = state.daemons[usize::from(daemon)].lives[&name];
                let record = Record { token: state.token(daemon, life), creation: life.creation? };
                state.requests.insert(Request::Renew((HOSTS[usize::from(daemon)], name), record));
            }
            Event::Arrives(number) => {
                let request = *state.requests.iter().nth(number)?;
                state.requests.remove(&request);
                state.execute(request, self.rules);
            }
            Event::Lost(number) => {
                state.left.losses -= 1;
                let request = *state.requests.iter().nth(number)?;
                state.requests.remove(&request);
            }
            Event::Answered(number) => {
                let answer = *state.answers.iter().nth(number)?;
                state.answers.remove(&answer);
                let (key, token, result) = answer;
                let running = &mut state.daemons[usize::from(token.run.daemon)];
                let life = running.lives.get_mut(&key.1).filter(|life| life.number == token.number);
                if let Some(life) = life.filter(|life| life.creation.is_none()) {
                    match result {
                        Ok(creation) => {
                            life.creation = Some(creation);
                            state.tell(key, creation);
                        }
                        Err(_) => {
                            running.lives.remove(&key.1);
                        }
                    }
                }
            }
            Event::AnswerLost(number) => {
                state.left.losses -= 1;
                let answer = *state.answers.iter().nth(number)?;
                state.answers.remove(&answer);
            }
            Event::Silent(number) => {
                let run = *state.store.alive.iter().nth(number)?;
                if state.is_running(run) {
                    state.left.silences -= 1;
                }
                state.store.alive.remove(&run);
            }
            Event::Expires(number) => {
                let key = *state.store.records.keys().nth(number)?;
                state.store.records.remove(&key);
            }
            Event::FailsOver => {
                state.left.fail_overs -= 1;
                state.store = state.replica.clone();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a claim takes no name from a living daemon's node", |_, state: &State| {
                state.broken != Some(Broken::TakenFromALivingDaemon)
            }),
            Property::always("a renewal never overwrites another owner", |_, state: &State| {
                state.broken != Some(Broken::RenewedOverAnotherOwner)
            }),
            Property::always("a release ends no other life", |_, state: &State| {
                state.broken != Some(Broken::ReleasedAnotherLife)
            }),
            Property::always("no node is in conflict with its own past", |_, state: &State| {
                state.broken != Some(Broken::RefusedByItself)
            }),
            Property::always("no creation comes back", |_, state: &State| {
                state.broken != Some(Broken::CreationRepeated)
            }),
            Property::always(
                "one renewal after the last fault, the living are told of",
                |leases: &Self, state: &State| {
                    [[0, 1, 2], [1, 0, 2]]
                        .iter()
                        .all(|order| state.settled(leases.rules, order.iter().copied()).tells_of_the_living())
                },
            ),
        ]
    }
}
