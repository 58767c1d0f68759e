//! The hosts, daemons and nodes of the simulation, and what can happen to them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use repmd::registry::{Answer, Lookup, Options, Question, Registry};
use repmd_backend_api::{AliveName, Creation, HostId, Instance, InstanceId, Lease};
use repmd_backend_faulty::{Faults, Faulty, Link, Odds};
use repmd_backend_memory::Memory;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dice::Dice;
use crate::node;
use crate::store::{Store, View};

pub(crate) const TTL: Duration = Duration::from_secs(3);
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Daemons by name and host. Two serve one host.
const DAEMONS: [(&str, &str); 4] = [("a:1", "a"), ("a:2", "a"), ("b:1", "b"), ("c:1", "c")];
pub(crate) const NAMES: [&str; 3] = ["app", "db", "web"];

/// The Unix time at which the world starts.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

pub(crate) struct World {
    pub(crate) started: Instant,
    pub(crate) store: Arc<Store>,
    pub(crate) daemons: Vec<Slot>,
    pub(crate) nodes: RefCell<BTreeMap<u16, Rc<node::Life>>>,
    /// Ports on which a node listens, for probes.
    ports: Arc<Mutex<BTreeSet<u16>>>,
    next_port: Cell<u16>,
    /// Of daemons, so far.
    runs: Cell<u64>,
    pub(crate) store_lost: Cell<Instant>,
    /// Every creation that was handed out, by host and name.
    creations: RefCell<BTreeMap<(HostId, AliveName), BTreeSet<Creation>>>,
    story: RefCell<Vec<String>>,
    /// The first promise that broke between two checks.
    pub(crate) broken: RefCell<Option<String>>,
}

/// A daemon's place, whether or not it runs.
pub(crate) struct Slot {
    pub(crate) name: &'static str,
    pub(crate) host: HostId,
    /// How far its clock is off, in seconds.
    skew: i64,
    pub(crate) running: RefCell<Option<Rc<Running>>>,
    /// Of the record format that its next run writes; daemons are upgraded one after the other.
    version: Cell<u8>,
    /// When its last run ended.
    pub(crate) last_end: Cell<Option<Instant>>,
}

/// One run of a daemon.
pub(crate) struct Running {
    pub(crate) registry: Arc<Registry>,
    faults: Faults,
    keeper: JoinHandle<()>,
    keeping: CancellationToken,
    /// Fires when its nodes lose their connections.
    pub(crate) ended: CancellationToken,
    claims: Cell<u64>,
    /// The names that are claimed, and the lives that claim them.
    pub(crate) table: RefCell<BTreeMap<AliveName, u16>>,
    /// Since when nothing has been wrong with its link; `None` while something is.
    pub(crate) sound_since: Cell<Option<Instant>>,
    /// The conflicts that it reported when it was last looked at.
    pub(crate) conflicts: RefCell<BTreeSet<String>>,
}

impl Running {
    /// The number of a claim, above those of all before it.
    pub(crate) fn next_claim(&self) -> u64 {
        self.claims.set(self.claims.get() + 1);
        self.claims.get()
    }
}

impl World {
    /// `has_old_rule`: the store takes a daemon's own past for another owner.
    pub(crate) fn new(seed: u64, has_old_rule: bool) -> Rc<Self> {
        let started = Instant::now();
        let mut dice = Dice::new(!seed);
        let daemons = DAEMONS.map(|(name, host)| Slot {
            name,
            host: HostId::parse(host).unwrap(),
            skew: *dice.pick(&[0, 0, 86_400, -86_400]),
            running: RefCell::default(),
            version: Cell::new(1),
            last_end: Cell::default(),
        });
        let memory = Memory::with_leases(TTL, Arc::new(move || EPOCH + started.elapsed()));
        let world = Rc::new(Self {
            started,
            store: Arc::new(Store::new(memory, has_old_rule)),
            daemons: daemons.into(),
            nodes: RefCell::default(),
            ports: Arc::default(),
            next_port: Cell::new(1),
            runs: Cell::default(),
            store_lost: Cell::new(started),
            creations: RefCell::default(),
            story: RefCell::default(),
            broken: RefCell::default(),
        });
        (0..DAEMONS.len()).for_each(|slot| world.start_daemon(slot, &mut dice));
        world
    }

    pub(crate) fn tell(&self, what: &str) {
        self.story.borrow_mut().push(format!("{:8.3} {what}", self.started.elapsed().as_secs_f64()));
    }

    pub(crate) fn story(&self) -> Vec<String> {
        self.story.borrow().clone()
    }

    pub(crate) fn breaks(&self, promise: String) {
        self.broken.borrow_mut().get_or_insert(promise);
    }

    /// One thing happens.
    pub(crate) async fn step(self: &Rc<Self>, dice: &mut Dice) {
        let slot = dice.below(self.daemons.len() as u64) as usize;
        let running = self.daemons[slot].running.borrow().clone();
        match (dice.below(100), running) {
            (0..25, _) => self.start_node(slot, dice),
            (25..35, _) => self.kill_node(dice),
            (35..38, Some(running)) => self.crash(slot, &running),
            (38..40, Some(running)) => self.stop(slot, &running).await,
            (35..60, None) => self.start_daemon(slot, dice),
            (40..44, Some(running)) => {
                self.spoil(slot, &running, "is cut off", |faults| faults.set_link(Link::Cut));
            }
            (44..47, Some(running)) => {
                self.spoil(slot, &running, "is stalled", |faults| faults.set_link(Link::Stalled));
            }
            (47..50, Some(running)) => {
                let delay_max = Duration::from_millis(700);
                let odds = Odds { refused: 0.2, lost: 0.2, delayed: 0.5, delay_max };
                self.spoil(slot, &running, "is lossy", |faults| faults.set_odds(odds));
            }
            (50..60, Some(running)) => self.heal(slot, &running),
            (60..62, _) => {
                self.tell("the store loses everything");
                self.store.lose_everything();
                self.store_lost.set(Instant::now());
            }
            (62..64, Some(running)) => self.restart_machine(slot, &running, dice),
            (64..68, _) => self.restart_node(dice),
            (68..70, _) => {
                let host = dice.pick(&self.daemons).host.clone();
                let name = AliveName::parse(dice.pick(&NAMES).as_bytes()).unwrap();
                self.tell(&format!("somebody else writes over {name}@{host}"));
                self.store.write_over((host, name)).await;
            }
            (70..73, _) => {
                self.tell("what others wrote is deleted");
                self.store.clear();
            }
            (73, _) => {
                self.tell(&format!("{} is to be upgraded", self.daemons[slot].name));
                self.daemons[slot].version.set(2);
            }
            (_, Some(running)) => self.look_up(slot, &running, dice).await,
            (_, None) => {}
        }
    }

    fn start_daemon(&self, at: usize, dice: &mut Dice) {
        let slot = &self.daemons[at];
        // Six bits of it tell the creations apart that two runs hand out without the store, for one name of one host
        // within one second. By chance they would be the same once in 64 times.
        self.runs.set(self.runs.get() + 1);
        let id = InstanceId(
            u128::from(dice.draw()) << 64 | u128::from((dice.draw() << 6) | (self.runs.get() % 64)),
        );
        let instance = Instance {
            id,
            name: slot.name.to_owned(),
            host: slot.host.clone(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            port: 4369,
        };
        let version = slot.version.get();
        let view = View { store: Arc::clone(&self.store), version };
        let backend = Faulty::new(Arc::new(view), dice.draw());
        let faults = backend.faults();
        let (started, skew, ports) = (self.started, slot.skew, Arc::clone(&self.ports));
        let options = Options {
            lookup: Lookup::Cluster,
            stale_for: None,
            deadline: Duration::from_millis(500),
            clock: Arc::new(move || {
                let now = EPOCH + started.elapsed();
                Duration::from_secs(now.as_secs().saturating_add_signed(skew))
            }),
            probe: Arc::new(move |port, _| {
                let listens = ports.lock().unwrap().contains(&port);
                Box::pin(async move { listens })
            }),
        };
        let registry = Arc::new(Registry::new(Arc::new(backend), Arc::new(instance), options));
        let keeping = CancellationToken::new();
        let keeper = {
            let (registry, keeping) = (Arc::clone(&registry), keeping.clone());
            tokio::task::spawn_local(async move { registry.keep(&keeping).await })
        };
        self.tell(&format!("{} starts, version {version}", slot.name));
        *slot.running.borrow_mut() = Some(Rc::new(Running {
            registry,
            faults,
            keeper,
            keeping,
            ended: CancellationToken::new(),
            claims: Cell::default(),
            table: RefCell::default(),
            sound_since: Cell::new(Some(Instant::now())),
            conflicts: RefCell::default(),
        }));
    }

    /// Nothing is told to the store.
    fn crash(&self, at: usize, running: &Running) {
        self.tell(&format!("{} crashes", self.daemons[at].name));
        self.daemons[at].running.take();
        self.daemons[at].last_end.set(Some(Instant::now()));
        running.registry.hand_over();
        running.keeper.abort();
        running.ended.cancel();
    }

    async fn stop(&self, at: usize, running: &Running) {
        self.tell(&format!("{} stops", self.daemons[at].name));
        self.daemons[at].running.take();
        self.daemons[at].last_end.set(Some(Instant::now()));
        running.registry.hand_over();
        running.ended.cancel();
        running.keeping.cancel();
        running.registry.retire().await;
    }

    fn spoil(&self, at: usize, running: &Running, how: &str, act: impl Fn(&Faults)) {
        self.tell(&format!("{} {how}", self.daemons[at].name));
        act(&running.faults);
        running.sound_since.set(None);
    }

    fn heal(&self, at: usize, running: &Running) {
        self.tell(&format!("{} is healed", self.daemons[at].name));
        running.faults.set_link(Link::Up);
        running.faults.set_odds(Odds::default());
        if running.sound_since.get().is_none() {
            running.sound_since.set(Some(Instant::now()));
        }
    }

    /// A daemon and its nodes end together, and the daemon is back at once.
    fn restart_machine(self: &Rc<Self>, at: usize, running: &Running, dice: &mut Dice) {
        self.tell(&format!("{} and its nodes are killed together", self.daemons[at].name));
        let lives: Vec<_> = self.nodes.borrow().values().cloned().collect();
        for life in lives.iter().filter(|life| life.slot == at && life.died.get().is_none()) {
            self.bury(life);
        }
        self.crash(at, running);
        self.start_daemon(at, dice);
    }

    /// A node ends, and one of its name starts with the same daemon, on another port.
    fn restart_node(self: &Rc<Self>, dice: &mut Dice) {
        let nodes = self.nodes.borrow();
        let held = |life: &&Rc<node::Life>| life.died.get().is_none() && life.held_since.get().is_some();
        let held: Vec<_> = nodes.values().filter(held).cloned().collect();
        drop(nodes);
        if !held.is_empty() {
            let life = dice.pick(&held);
            self.tell(&format!("{life} restarts"));
            self.bury(life);
            self.start_node_named(life.slot, life.name.clone());
        }
    }

    fn start_node(self: &Rc<Self>, slot: usize, dice: &mut Dice) {
        self.start_node_named(slot, AliveName::parse(dice.pick(&NAMES).as_bytes()).unwrap());
    }

    fn start_node_named(self: &Rc<Self>, slot: usize, name: AliveName) {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        let life = Rc::new(node::Life::new(port, name, slot));
        self.nodes.borrow_mut().insert(port, Rc::clone(&life));
        self.ports.lock().unwrap().insert(port);
        tokio::task::spawn_local(node::live(Rc::clone(self), life));
    }

    fn kill_node(&self, dice: &mut Dice) {
        let nodes = self.nodes.borrow();
        let mature = |life: &&Rc<node::Life>| life.died.get().is_none() && INTERVAL < life.born.elapsed();
        let alive: Vec<_> = nodes.values().filter(mature).collect();
        if !alive.is_empty() {
            let life = dice.pick(&alive);
            self.tell(&format!("{life} is killed"));
            self.bury(life);
        }
    }

    /// A node's process is over.
    pub(crate) fn bury(&self, life: &node::Life) {
        life.died.set(Some(Instant::now()));
        self.ports.lock().unwrap().remove(&life.port);
        life.killed.cancel();
    }

    /// Takes note of a creation that a daemon handed out.
    pub(crate) fn handed_out(&self, lease: &Lease) {
        let registration = &lease.registration;
        let key = (registration.instance.host.clone(), registration.node.name.clone());
        if !self.creations.borrow_mut().entry(key).or_default().insert(lease.creation()) {
            self.breaks(format!("{} got creation {} again", registration.node_name(), lease.creation()));
        }
    }

    async fn look_up(&self, at: usize, running: &Running, dice: &mut Dice) {
        let name = AliveName::parse(dice.pick(&NAMES).as_bytes()).unwrap();
        let of = dice.pick(&self.daemons).host.clone();
        let question = if dice.chance(0.3) { Question::Bare(name) } else { Question::On(of, name) };
        let asker = self.daemons[at].name;
        self.check_list(at, running).await;
        match running.registry.look_up(&question, None).await.answer {
            Answer::Node(found) => {
                let port = found.node.port;
                let of_before = found.instance.name == asker;
                let of_before = if of_before { " of before" } else { "" };
                self.tell(&format!("{asker}: {} on port {port} is found{of_before}", found.node_name()));
                self.check_answer(running, asker, port);
            }
            Answer::Daemon(_) => unreachable!("nobody asked for a daemon"),
            Answer::Absent => {
                self.tell(&format!("{asker}: {question:?} is not found"));
                self.check_absence(at, running, &question).await;
            }
        }
    }
}
