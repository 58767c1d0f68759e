//! The hosts, daemons and nodes of the simulation, and what can happen to them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use repmd::registry::{Answer, Lookup, Options, Question, Registry};
use repmd_backend_api::{
    AliveName, Change, Creation, Found, HostId, Instance, InstanceId, Lease, RegistryBackend, Scope,
};
use repmd_backend_faulty::{Faults, Faulty, Link, Odds};
use repmd_backend_memory::Memory;
use repmd_history::{Mirrored, Outcome, Span, Tenure, Told};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::dice::Dice;
use crate::record::{Mirror, Recorded, Recorder};
use crate::store::{Rules, Store, View};
use crate::{checks, node};

pub(crate) const TTL: Duration = Duration::from_secs(3);
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Daemons by name and host. Two serve one host.
const DAEMONS: [(&str, &str); 4] = [("a:1", "a"), ("a:2", "a"), ("b:1", "b"), ("c:1", "c")];
pub(crate) const NAMES: [&str; 3] = ["app", "db", "web"];

/// The Unix time at which the world starts.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

pub(crate) struct World {
    pub(crate) recorder: Recorder,
    mirror: RefCell<Mirror>,
    /// The last change of the mirror when it was last compared.
    compared: Cell<Duration>,
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
    instance: Arc<Instance>,
    backend: Arc<dyn RegistryBackend>,
    version: Arc<AtomicU8>,
    options: Options,
    faults: Faults,
    program: RefCell<Rc<Program>>,
    /// Counts the programs.
    programs: watch::Sender<usize>,
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

/// The program that a daemon runs: another one may take its place.
pub(crate) struct Program {
    pub(crate) registry: Arc<Registry>,
    keeper: JoinHandle<()>,
    keeping: CancellationToken,
    /// Fires when nothing more is done by this one.
    pub(crate) frozen: CancellationToken,
    pub(crate) since: Instant,
}

impl Program {
    fn start(registry: Registry) -> Rc<Self> {
        let (registry, keeping) = (Arc::new(registry), CancellationToken::new());
        let keeper = {
            let (registry, keeping) = (Arc::clone(&registry), keeping.clone());
            tokio::task::spawn_local(async move { registry.keep(&keeping).await })
        };
        Rc::new(Self { registry, keeper, keeping, frozen: CancellationToken::new(), since: Instant::now() })
    }
}

impl Running {
    pub(crate) fn program(&self) -> Rc<Program> {
        Rc::clone(&self.program.borrow())
    }

    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.program.borrow().registry)
    }

    /// Waits until another program than `frozen` serves, or the daemon ends.
    pub(crate) async fn goes_on(&self, frozen: &Rc<Program>) {
        let mut programs = self.programs.subscribe();
        while Rc::ptr_eq(frozen, &self.program()) && !self.ended.is_cancelled() {
            tokio::select! {
                biased;
                () = self.ended.cancelled() => {}
                _ = programs.changed() => {}
            }
        }
    }

    /// The number of a claim, above those of all before it.
    pub(crate) fn next_claim(&self) -> u64 {
        self.claims.set(self.claims.get() + 1);
        self.claims.get()
    }
}

impl World {
    pub(crate) fn new(seed: u64, rules: Rules) -> Rc<Self> {
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
            recorder: Recorder::new(started),
            mirror: RefCell::default(),
            compared: Cell::default(),
            started,
            store: Arc::new(Store::new(memory, rules)),
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
        tokio::task::spawn_local(Rc::clone(&world).follow_changes());
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
                let now = self.recorder.now();
                self.recorder.history().losses.push(now);
                // Whoever watches a store that starts anew is told that it may have missed something.
                *self.mirror.borrow_mut() = Mirror { nodes: BTreeMap::new(), changed: now };
            }
            (62..64, Some(running)) => self.restart_machine(slot, &running, dice),
            (64..68, _) => self.restart_node(dice),
            (68..70, _) => {
                let host = dice.pick(&self.daemons).host.clone();
                let name = AliveName::parse(dice.pick(&NAMES).as_bytes()).unwrap();
                self.tell(&format!("somebody else writes over {name}@{host}"));
                if let Some(lease) = self.store.write_over((host, name)).await {
                    let holder = &lease.registration.instance.name;
                    let daemon = self.daemons.iter().position(|slot| slot.name == holder);
                    self.recorder.written_over(daemon.unwrap(), &lease);
                }
            }
            (70..73, _) => {
                self.tell("what others wrote is deleted");
                self.store.clear();
            }
            (73, _) => {
                self.tell(&format!("{} is to be upgraded", self.daemons[slot].name));
                self.daemons[slot].version.set(2);
            }
            (74..77, Some(running)) => self.replace_program(slot, &running, dice).await,
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
        let written = Arc::new(AtomicU8::new(version));
        let instance = Arc::new(instance);
        let view = View::new(&self.store, Arc::clone(&written), Arc::clone(&instance));
        let faulty = Faulty::new(Arc::new(view), dice.draw());
        let faults = faulty.faults();
        let backend: Arc<dyn RegistryBackend> = Arc::new(Recorded {
            inner: Arc::new(faulty),
            recorder: self.recorder.clone(),
            daemon: at,
            instance: Arc::clone(&instance),
            nodes: NAMES.map(|name| format!("{name}@{}", slot.host)).into(),
        });
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
        let registry = Registry::new(Arc::clone(&backend), Arc::clone(&instance), options.clone());
        self.recorder.trouble_ends(at);
        self.tell(&format!("{} starts, version {version}", slot.name));
        *slot.running.borrow_mut() = Some(Rc::new(Running {
            instance,
            backend,
            version: written,
            options,
            faults,
            program: RefCell::new(Program::start(registry)),
            programs: watch::Sender::default(),
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
        self.recorder.trouble(at);
        let program = running.program();
        program.registry.hand_over();
        program.keeper.abort();
        running.ended.cancel();
    }

    async fn stop(&self, at: usize, running: &Running) {
        self.tell(&format!("{} stops", self.daemons[at].name));
        self.daemons[at].running.take();
        self.daemons[at].last_end.set(Some(Instant::now()));
        self.recorder.trouble(at);
        let program = running.program();
        program.registry.hand_over();
        running.ended.cancel();
        program.keeping.cancel();
        program.registry.retire().await;
    }

    /// Another program takes the daemon's place, as `repmd upgrade` does it.
    async fn replace_program(&self, at: usize, running: &Rc<Running>, dice: &mut Dice) {
        let slot = &self.daemons[at];
        let program = running.program();
        program.frozen.cancel();
        program.keeper.abort();
        let (carried, held) = (program.registry.carried(), program.registry.held());
        let left = carried.releasing.len();
        tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
        let nodes = held.into_iter().map(|held| (held.lease.token.number, held.lease.registration));
        running.version.store(slot.version.get(), Ordering::Relaxed);
        let (backend, instance) = (Arc::clone(&running.backend), Arc::clone(&running.instance));
        let registry = Registry::new(backend, instance, running.options.clone());
        registry.resume(nodes.collect(), carried).await;
        let next = Program::start(registry);
        let registry = Arc::clone(&next.registry);
        tokio::task::spawn_local(async move { registry.release_the_rest().await });
        *running.program.borrow_mut() = next;
        running.programs.send_modify(|count| *count += 1);
        // It knows of no conflict yet.
        running.conflicts.borrow_mut().clear();
        self.tell(&format!("{} goes on with another program, {left} releases under way", slot.name));
    }

    /// Writes a mirror of the store from its changes alone.
    async fn follow_changes(self: Rc<Self>) {
        let mut changes = self.store.watch();
        while let Some(change) = changes.next().await {
            match change {
                Change::Registered(name, host) => {
                    let found = self.stored(&name, &host).await.into_iter().next();
                    let mut mirror = self.mirror.borrow_mut();
                    mirror.changed = self.recorder.now();
                    let node = format!("{name}@{host}");
                    match found {
                        Some(found) => mirror.nodes.insert(node, found.registration.node.port),
                        None => mirror.nodes.remove(&node),
                    };
                }
                Change::Released(name, host) | Change::Expired(name, host) => {
                    let mut mirror = self.mirror.borrow_mut();
                    mirror.changed = self.recorder.now();
                    mirror.nodes.remove(&format!("{name}@{host}"));
                }
                Change::Missed => unreachable!("it is never far behind"),
            }
        }
    }

    /// After a quiet second the mirror is the list.
    pub(crate) async fn compare_mirror(&self) {
        let now = self.recorder.now();
        let is_quiet = self.mirror.borrow().changed + Duration::from_secs(1) <= now;
        if !is_quiet || self.compared.replace(self.mirror.borrow().changed) == self.mirror.borrow().changed {
            return;
        }
        // What has run out is noticed, and told, by whoever asks next.
        self.store.seen.list(&Scope::Cluster).await.unwrap();
        tokio::task::yield_now().await;
        let list = self.store.seen.list(&Scope::Cluster).await.unwrap().items.into_iter();
        let named = |found: Found| (found.registration.node_name().to_string(), found.registration.node.port);
        let (mirror, list) = (self.mirror.borrow().nodes.clone(), list.map(named).collect());
        self.recorder.history().mirrored.push(Mirrored { at: now, mirror, list });
    }

    /// The last fault is over, and no node starts or ends any more. All daemons are asked for all names: once what they
    /// hold must be back, and once what is dead must be gone.
    pub(crate) async fn calm_down(self: &Rc<Self>, dice: &mut Dice) {
        self.tell("all is mended");
        self.store.clear();
        for (at, slot) in self.daemons.iter().enumerate() {
            slot.version.set(2);
            let running = slot.running.borrow().clone();
            match running {
                Some(running) => {
                    self.replace_program(at, &running, dice).await;
                    self.heal(at, &running);
                }
                None => self.start_daemon(at, dice),
            }
        }
        for pause in [INTERVAL + checks::SLACK, TTL * 2, TTL * 2] {
            // Names that were in the way may have become free meanwhile.
            let calm = self.recorder.now();
            tokio::time::sleep(pause).await;
            self.recorder.history().calm_since = Some(calm);
            self.ask_all().await;
        }
    }

    async fn ask_all(&self) {
        let daemons: Vec<_> = self.daemons.iter().map(|slot| slot.running.borrow().clone()).collect();
        for (at, running) in daemons.iter().enumerate() {
            let registry = running.as_ref().unwrap().registry();
            for host in ["a", "b", "c"].map(|host| HostId::parse(host).unwrap()) {
                for name in NAMES.map(|name| AliveName::parse(name.as_bytes()).unwrap()) {
                    let question = Question::On(host.clone(), name.clone());
                    let called = self.recorder.now();
                    let answer = registry.look_up(&question, None).await.answer;
                    self.note_answer(at, called, &question, &answer);
                }
            }
        }
    }

    /// Writes an answer down, unless something that not everybody can read stood in its place.
    fn note_answer(&self, at: usize, called: Duration, question: &Question, answer: &Answer) {
        let told = match (question, answer) {
            (_, Answer::Node(found)) => {
                (found.instance.host.clone(), found.node.name.clone(), Some(found.node.port))
            }
            (Question::On(host, name), Answer::Absent) => (host.clone(), name.clone(), None),
            (Question::Bare(_) | Question::Daemon(_), _) | (_, Answer::Daemon(_)) => return,
        };
        let (host, name, port) = told;
        if !self.was_hidden(&host, &name) {
            self.recorder.answered(at, called, Told::Port(format!("{name}@{host}"), port));
        }
    }

    /// Whether something that not everybody can read has been there of late.
    pub(crate) fn was_hidden(&self, host: &HostId, name: &AliveName) -> bool {
        let met = self.store.last_unreadable(&(host.clone(), name.clone()));
        met.is_some_and(|met| met.elapsed() < TTL + TTL)
    }

    /// A node asks to be registered: its place in the history.
    pub(crate) fn asks(&self, life: &node::Life) -> usize {
        let node = format!("{}@{}", life.name, self.daemons[life.slot].host);
        let asked = Span { called: self.recorder.now(), returned: Duration::MAX };
        let (daemon, port, outcome) = (life.slot, life.port, Outcome::Unanswered);
        let was_hidden = self.was_hidden(&self.daemons[life.slot].host, &life.name);
        let mut history = self.recorder.history();
        if was_hidden {
            history.hidden.push((node.clone(), asked.called));
        }
        history.tenures.push(Tenure { node, daemon, port, asked, outcome, ended: None });
        history.tenures.len() - 1
    }

    fn spoil(&self, at: usize, running: &Running, how: &str, act: impl Fn(&Faults)) {
        self.tell(&format!("{} {how}", self.daemons[at].name));
        act(&running.faults);
        self.recorder.trouble(at);
        running.sound_since.set(None);
    }

    fn heal(&self, at: usize, running: &Running) {
        self.tell(&format!("{} is healed", self.daemons[at].name));
        running.faults.set_link(Link::Up);
        running.faults.set_odds(Odds::default());
        self.recorder.trouble_ends(at);
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
        let now = self.recorder.now();
        self.recorder.history().died.insert(life.port, now);
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
        self.look_for_holders(at, running, dice).await;
        let called = self.recorder.now();
        let answer = running.registry().look_up(&question, None).await.answer;
        self.note_answer(at, called, &question, &answer);
        match answer {
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

    /// What an answer by DNS is made of: all holders of a name.
    async fn look_for_holders(&self, at: usize, running: &Running, dice: &mut Dice) {
        let name = AliveName::parse(dice.pick(&NAMES).as_bytes()).unwrap();
        let called = self.recorder.now();
        let Ok(holders) = running.registry().holders(&name, [127, 0, 0, 1].into()).await else { return };
        let of = |host: &HostId| {
            let found = holders.iter().find(|found| found.registration.instance.host == *host);
            found.map(|found| found.registration.node.port)
        };
        let hosts = ["a", "b", "c"].map(|host| HostId::parse(host).unwrap());
        let seen = hosts.iter().filter(|host| !self.was_hidden(host, &name));
        let ports = seen.map(|host| (format!("{name}@{host}"), of(host))).collect();
        self.recorder.answered(at, called, Told::Ports(ports));
    }
}
