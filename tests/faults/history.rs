//! Everything at once: nodes that come and go, look-ups, lists and DNS questions, hostile peers, kills, pauses, cuts,
//! stores that start empty, and upgrades. What all of them were told is one history, which must be able to be true.
//!
//! ```text
//! cargo test --test faults no_answer_is_wrong                                       # some seconds
//! REPMD_SOAK=600 cargo test --test faults soak -- --ignored --nocapture            # as many as it says
//! REPMD_SOAK_STORE=etcd cargo test --test faults soak -- --ignored --nocapture     # or postgres
//! ```

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use repmd::protocol::{Request, decode_names_reply, decode_port_reply, encode_request};
use repmd_backend_api::{AliveName, Change, Creation, HostId, RegistryBackend, Scope, Search};
use repmd_history::{Answer, Bounds, History, Mirrored, Moment, Outcome, Span, Tenure, Told, Trouble};
use repmd_test_stores::{Backing, Etcd, Postgres, Store};
use repmd_test_support::{Peer, alive2, free_port};
use rustix::process::Signal;

use crate::link::Link;
use crate::stage::{Host, Plan, Stage, open_registry};
use crate::{INTERVAL, SLACK, SOON, TTL};

/// The daemons: their instance names and hosts. Two serve one host.
const DAEMONS: [(&str, &str); 4] = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("c1", "c")];
const HOSTS: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 4] = ["app", "db", "mail", "web"];

/// The daemon that is never killed, so that its memory can be looked at.
const KEPT: usize = 3;

/// What is promised, on a machine that may be busy.
const BOUNDS: Bounds = Bounds {
    settle: Duration::from_millis(2500),
    slack: SLACK,
    has_tables: true,
    ..Bounds::promised(TTL, INTERVAL)
};

struct World {
    started: Instant,
    history: Mutex<History>,
    daemons: Vec<Slot>,
    next_port: AtomicU16,
    draws: AtomicU64,
    /// No node starts or ends.
    is_calm: AtomicBool,
    is_over: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Lines of logs that tell of a panic.
    panics: Mutex<Vec<String>>,
}

struct Slot {
    plan: Plan,
    port: u16,
    dns: SocketAddr,
    link: Link,
    running: RwLock<Option<Host>>,
}

impl World {
    fn new(stage: &Stage<impl Backing>) -> Self {
        let url = stage.store.url();
        let daemons = DAEMONS.map(|(name, host)| {
            // On the usual address the number stands for its test.
            let (link, dns) = (Link::to(&url), SocketAddr::from(([127, 0, 0, 4], free_port())));
            let plan = Plan::new(&link.url(), host).set("instance-name", name).set("dns", &dns.to_string());
            let running = plan.start();
            Slot { plan, port: running.port(), dns, link, running: RwLock::new(Some(running)) }
        });
        Self {
            started: Instant::now(),
            history: Mutex::new(History::new(BOUNDS)),
            daemons: daemons.into(),
            next_port: AtomicU16::new(1),
            draws: AtomicU64::new(1),
            is_calm: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            counts: Mutex::default(),
            panics: Mutex::default(),
        }
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap()
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    /// A splitmix64 generator that all threads draw from.
    fn below(&self, end: u64) -> u64 {
        let drawn = self.draws.fetch_add(1, Ordering::Relaxed);
        let mut mixed = drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    fn pick(&self, items: &[&'static str]) -> &'static str {
        items[self.below(items.len() as u64) as usize]
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// A pause of up to so many milliseconds, which ends when all does.
    fn pause(&self, most: u64) {
        let until = Instant::now() + Duration::from_millis(self.below(most));
        while self.goes_on() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Connects, and sends a request. `None`: the daemon does not run.
    fn send(&self, daemon: usize, request: &[u8]) -> Option<Peer> {
        let to = SocketAddr::from(([127, 0, 0, 1], self.daemons[daemon].port));
        let mut peer = Peer::connect_from(None, to).ok()?;
        peer.send(request).ok()?;
        Some(peer)
    }

    /// What a daemon answers until it ends the connection. `None`: nothing.
    fn ask(&self, daemon: usize, request: &Request<'_>) -> Option<Vec<u8>> {
        let mut peer = self.send(daemon, &encode_request(request))?;
        let deadline = Instant::now() + SOON;
        while peer.fill(deadline) {}
        assert!(peer.ended().is_some(), "daemon {daemon} does not answer {request:?}");
        Some(peer.take(peer.received().len())).filter(|reply| !reply.is_empty())
    }

    fn look_up(&self, asker: usize, node: &str) {
        let called = self.now();
        let Some(reply) = self.ask(asker, &Request::PortPlease2(node)) else { return };
        let found = decode_port_reply(&reply).unwrap().map(|found| found.port);
        self.told(asker, called, Told::Port(node.to_owned(), found));
        self.count("look-ups");
    }

    fn list(&self, asker: usize) {
        let called = self.now();
        let Some(reply) = self.ask(asker, &Request::Names) else { return };
        let Ok(names) = decode_names_reply(&reply) else { return };
        let host = DAEMONS[asker].1;
        let named = names.nodes().map(|(name, port)| (format!("{name}@{host}"), port)).collect();
        self.told(asker, called, Told::Names(named));
        self.count("lists");
    }

    /// Where the nodes of a name listen, by DNS.
    fn resolve(&self, asker: usize, alive: &str) {
        let called = self.now();
        let mut message = Message::query();
        let asked = Name::from_ascii(format!("{alive}.nodes.repmd.")).unwrap();
        message.add_query(Query::query(asked, RecordType::SRV));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut buffer = [0; 4096];
        let is_sent = socket.send_to(&message.to_vec().unwrap(), self.daemons[asker].dns).is_ok();
        let Some(Ok(length)) = is_sent.then(|| socket.recv(&mut buffer)) else { return };
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        let srv = answer.answers.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some((srv.target.to_ascii(), srv.port)),
            _ => None,
        });
        // What it leaves out it may have reasons for: a host that nobody knows yet.
        let named = |(target, port): (String, u16)| {
            let host = target.split('.').next().unwrap().to_owned();
            (format!("{alive}@{host}"), Some(port))
        };
        self.told(asker, called, Told::Ports(srv.map(named).collect()));
        self.count("DNS answers");
    }

    fn told(&self, asker: usize, called: Moment, told: Told) {
        let asked = Span { called, returned: self.now() };
        self.history().answers.push(Answer { asker, asked, told });
    }

    fn ask_something(&self) {
        let asker = self.below(DAEMONS.len() as u64) as usize;
        match self.below(8) {
            0 => self.list(asker),
            1 | 2 => self.resolve(asker, self.pick(&NAMES)),
            _ => self.look_up(asker, &format!("{}@{}", self.pick(&NAMES), self.pick(&HOSTS))),
        }
    }

    /// One node after the other, with one daemon.
    fn live_and_die(&self, daemon: usize) {
        while self.goes_on() {
            if self.is_calm.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            let until = Instant::now() + Duration::from_millis(self.below(4000));
            self.live(daemon, self.pick(&NAMES), port, until);
            let now = self.now();
            self.history().died.insert(port, now);
            self.pause(300);
        }
    }

    /// A node, until then, or for as long as nothing may change. It comes back to a daemon that started anew.
    fn live(&self, daemon: usize, alive: &str, port: u16, until: Instant) {
        let lives = || self.goes_on() && (self.is_calm.load(Ordering::Relaxed) || Instant::now() < until);
        let mut has_booted = false;
        while lives() {
            let tenure = {
                let asked = Span { called: self.now(), returned: Moment::MAX };
                let node = format!("{alive}@{}", DAEMONS[daemon].1);
                let mut history = self.history();
                let outcome = Outcome::Unanswered;
                history.tenures.push(Tenure { node, daemon, port, asked, outcome, ended: None });
                history.tenures.len() - 1
            };
            let peer = self.send(daemon, &alive2(alive, port));
            let mut peer = peer.map(|mut peer| (peer.read(6, SOON), peer));
            let outcome = match peer.as_ref().map(|(reply, _)| &reply[..]) {
                Some([118, 0, creation @ ..]) => {
                    let creation = u32::from_be_bytes(creation.try_into().unwrap());
                    Outcome::Granted(Creation::new(creation).unwrap())
                }
                Some([118, 1, ..]) => Outcome::Refused,
                _ => Outcome::Unanswered,
            };
            let mut last_seen = self.now();
            {
                let tenure = &mut self.history().tenures[tenure];
                (tenure.outcome, tenure.asked.returned) = (outcome, last_seen);
            }
            let is_granted = matches!(outcome, Outcome::Granted(_));
            if let (true, Some((_, peer))) = (is_granted, &mut peer) {
                has_booted = true;
                self.count("registrations");
                while lives() && peer.ended().is_none() {
                    let looked = self.now();
                    peer.fill(Instant::now() + Duration::from_millis(20));
                    if peer.ended().is_none() {
                        last_seen = looked;
                    }
                }
                if peer.ended().is_none() {
                    last_seen = self.now();
                }
            }
            drop(peer);
            let ended = Span { called: last_seen, returned: self.now() };
            self.history().tenures[tenure].ended = Some(ended);
            if outcome == Outcome::Refused {
                self.count("refusals");
            }
            if !has_booted {
                return;
            }
            if lives() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }

    /// Sends what no node sends.
    fn be_hostile(&self) {
        let mut open = Vec::new();
        while self.goes_on() {
            let daemon = self.below(DAEMONS.len() as u64) as usize;
            let noise: Vec<_> = (0..self.below(300)).map(|_| self.below(256) as u8).collect();
            let whole = alive2("hostile", 1);
            let request = match self.below(4) {
                0 => noise.clone(),
                1 => whole[..self.below(whole.len() as u64) as usize].to_vec(),
                2 => encode_request(&Request::Names),
                _ => [&[0xff, 0xff][..], &noise].concat(),
            };
            if let Some(peer) = self.send(daemon, &request) {
                self.count("hostile peers");
                match self.below(3) {
                    0 => peer.reset(),
                    1 => drop(peer),
                    _ => open.push(peer),
                }
            }
            if 50 < open.len() {
                open.clear();
            }
            if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
                let _ = socket.send_to(&noise, self.daemons[daemon].dns);
            }
            self.pause(20);
        }
    }

    /// Something is wrong while `act` goes on.
    fn trouble(&self, daemon: Option<usize>, is_late: bool, act: impl FnOnce()) {
        let from = self.now();
        let number = {
            let mut history = self.history();
            history.troubles.push(Trouble { daemon, from, until: None, is_late });
            history.troubles.len() - 1
        };
        act();
        let until = self.now();
        self.history().troubles[number].until = Some(until);
    }

    fn fail_somehow(&self, stage: &mut Stage<impl Backing>) {
        let daemon = self.below(DAEMONS.len() as u64) as usize;
        let slot = &self.daemons[daemon];
        match self.below(12) {
            0 | 1 if daemon != KEPT => self.trouble(Some(daemon), false, || {
                self.count("kills");
                self.end(daemon, Host::kill);
                self.pause(2500);
                *slot.running.write().unwrap() = Some(slot.plan.start());
            }),
            2 if daemon != KEPT => self.trouble(Some(daemon), false, || {
                self.count("restarts in order");
                self.end(daemon, Host::stop);
                *slot.running.write().unwrap() = Some(slot.plan.start());
            }),
            3 | 4 => self.trouble(Some(daemon), true, || {
                self.count("cuts");
                slot.link.cut();
                self.pause(4000);
                slot.link.heal();
            }),
            5 => self.trouble(Some(daemon), true, || {
                self.count("daemons paused");
                self.signal(daemon, Signal::STOP);
                self.pause(1500);
                self.signal(daemon, Signal::CONT);
            }),
            6 => self.trouble(None, true, || {
                self.count("stores paused");
                stage.store.pause();
                self.pause(3000);
                stage.store.resume();
            }),
            7 => self.trouble(None, false, || {
                self.count("stores started empty");
                let lost = self.now();
                stage.store.kill();
                self.pause(2000);
                stage.store.revive_empty();
                self.history().losses.push(lost);
            }),
            _ => self.upgrade(daemon),
        }
    }

    fn signal(&self, daemon: usize, signal: Signal) {
        self.daemons[daemon].running.read().unwrap().as_ref().unwrap().signal(signal);
    }

    fn upgrade(&self, daemon: usize) {
        let pid = self.daemons[daemon].running.read().unwrap().as_ref().unwrap().pid();
        let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
        command.args(["upgrade", "--pid", &pid.as_raw_nonzero().to_string()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        self.count("upgrades");
    }

    fn end(&self, daemon: usize, how: impl FnOnce(Host)) {
        let running = self.daemons[daemon].running.write().unwrap().take().unwrap();
        self.look_for_panics(&running);
        how(running);
    }

    fn look_for_panics(&self, running: &Host) {
        let log = running.log();
        let panics = log.lines().filter(|line| line.contains("panicked")).map(str::to_owned);
        self.panics.lock().unwrap().extend(panics);
    }

    /// The resident memory of the daemon that is never killed, in KiB.
    fn memory(&self) -> u64 {
        self.daemons[KEPT].running.read().unwrap().as_ref().unwrap().memory()
    }

    /// A mirror of the store, made from its changes alone, and compared with a list after each second without any.
    fn mirror(&self, url: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open_registry(url, "watcher");
            let store = &*store;
            let mut changes = store.watch();
            let mut mirror = None;
            let quiet = Duration::from_secs(1);
            while self.goes_on() {
                let change = tokio::time::timeout(quiet, changes.next()).await;
                match change {
                    Ok(Some(Change::Registered(name, host) | Change::Released(name, host))) => {
                        let Some(known) = &mut mirror else { continue };
                        match find(store, &name, &host).await {
                            Some(Some(port)) => drop(BTreeMap::insert(known, format!("{name}@{host}"), port)),
                            Some(None) => drop(known.remove(&format!("{name}@{host}"))),
                            None => mirror = None,
                        }
                    }
                    Ok(Some(Change::Expired(name, host))) => {
                        mirror.iter_mut().for_each(|known| _ = known.remove(&format!("{name}@{host}")));
                    }
                    Ok(Some(Change::Missed)) => mirror = None,
                    Ok(None) => changes = store.watch(),
                    Err(_quiet) => {
                        let Some(list) = list(store).await else { continue };
                        let known = mirror.get_or_insert_with(|| list.clone());
                        // A change may be under way.
                        let again = tokio::time::timeout(quiet / 4, changes.next()).await;
                        if again.is_ok() {
                            mirror = None;
                            continue;
                        }
                        // That a lease ran out is told late or not at all.
                        let at = self.now();
                        if self.history().is_calm_before(at, TTL + TTL) {
                            self.count("mirrors compared");
                            self.history().mirrored.push(Mirrored { at, mirror: known.clone(), list });
                        } else {
                            *known = list;
                        }
                    }
                }
            }
        });
    }
}

async fn find(store: &dyn RegistryBackend, name: &AliveName, host: &HostId) -> Option<Option<u16>> {
    let search = Search { name, scope: &Scope::Host(host.clone()), near: host, most: 9 };
    let found = tokio::time::timeout(SOON, store.find(&search)).await.ok()?.ok()?;
    Some(found.items.first().map(|found| found.registration.node.port))
}

async fn list(store: &dyn RegistryBackend) -> Option<BTreeMap<String, u16>> {
    let seen = tokio::time::timeout(SOON, store.list(&Scope::Cluster)).await.ok()?.ok()?;
    let named = seen.items.iter().map(|found| &found.registration);
    Some(named.map(|node| (node.node_name().to_string(), node.node.port)).collect())
}

/// Plays for so long, then mends everything, and returns the world and the memory of a daemon over time.
fn play(mut stage: Stage<impl Backing>, length: Duration) -> (World, Vec<u64>) {
    let world = World::new(&stage);
    let (url, mut memory) = (stage.store.url(), Vec::new());
    std::thread::scope(|scope| {
        let world = &world;
        for node in 0..2 * DAEMONS.len() {
            scope.spawn(move || world.live_and_die(node / 2));
        }
        let ask = || {
            while world.goes_on() {
                world.ask_something();
                world.pause(10);
            }
        };
        (0..2).for_each(|_| drop(scope.spawn(ask)));
        scope.spawn(|| world.be_hostile());
        scope.spawn(|| world.mirror(&url));
        struct Ends<'a>(&'a World);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.is_over.store(true, Ordering::Relaxed);
            }
        }
        let _ends = Ends(world);
        let (end, mut next_look) = (Instant::now() + length, Instant::now());
        let mut next_calm = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if next_look <= Instant::now() {
                memory.push(world.memory());
                next_look += Duration::from_secs(10);
            }
            if next_calm <= Instant::now() {
                calm_down(world);
                world.is_calm.store(false, Ordering::Relaxed);
                next_calm = Instant::now() + Duration::from_secs(30);
            }
            world.pause(1500);
            world.fail_somehow(&mut stage);
        }
        let calm = calm_down(world);
        world.history().calm_since = Some(calm);
        for asker in 0..DAEMONS.len() {
            for (name, host) in NAMES.iter().flat_map(|name| HOSTS.map(|host| (name, host))) {
                world.look_up(asker, &format!("{name}@{host}"));
            }
        }
        memory.push(world.memory());
        for slot in &world.daemons {
            world.look_for_panics(slot.running.read().unwrap().as_ref().unwrap());
        }
    });
    (world, memory)
}

/// No node starts or ends, and nothing is wrong, until all must agree. Returns since when.
fn calm_down(world: &World) -> Moment {
    world.is_calm.store(true, Ordering::Relaxed);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let history = world.history();
        let calm = history.last_change();
        let is_over = calm + TTL + INTERVAL + BOUNDS.settle < world.now();
        // Whoever follows the changes has been through all of them.
        let is_mirrored = history.mirrored.last().is_some_and(|mirrored| calm < mirrored.at);
        if is_over && (is_mirrored || calm + SOON < world.now()) {
            return calm;
        }
    }
}

fn judge(world: &World) {
    let history = world.history();
    let (broken, panics) = (history.check(), world.panics.lock().unwrap());
    let lines: Vec<_> = broken.iter().map(ToString::to_string).collect();
    let troubles = &history.troubles;
    assert!(lines.is_empty(), "{} wrong answers:\n{}\n{troubles:#?}", lines.len(), lines.join("\n"));
    assert!(panics.is_empty(), "{panics:#?}");
    for what in ["look-ups", "lists", "DNS answers", "registrations", "hostile peers", "mirrors compared"] {
        assert!(world.counts.lock().unwrap().contains_key(what), "no {what}");
    }
}

#[test]
fn no_answer_is_wrong_through_kills_pauses_cuts_and_upgrades() {
    judge(&play(Stage::redis(), Duration::from_secs(6)).0);
}

#[test]
fn no_answer_is_wrong_through_kills_pauses_cuts_and_upgrades_with_postgres() {
    judge(&play(Stage::postgres(), Duration::from_secs(6)).0);
}

#[test]
fn no_answer_is_wrong_through_kills_pauses_cuts_and_upgrades_with_etcd() {
    judge(&play(Stage::etcd(), Duration::from_secs(6)).0);
}

#[test]
#[ignore = "as long as REPMD_SOAK says in seconds: for a release"]
fn soak() {
    match std::env::var("REPMD_SOAK_STORE").as_deref() {
        Ok("postgres") => soak_on(Stage::alone(Postgres::start)),
        Ok("etcd") => soak_on(Stage::alone(Etcd::alone)),
        Ok("redis") | Err(_) => soak_on(Stage::alone(Store::redis)),
        Ok(other) => panic!("REPMD_SOAK_STORE: expected redis, postgres or etcd, not {other}"),
    }
}

fn soak_on(stage: Stage<impl Backing>) {
    let seconds = std::env::var("REPMD_SOAK").map_or(600, |text| text.parse().expect("it is a number"));
    let (world, memory) = play(stage, Duration::from_secs(seconds));
    println!("{seconds} s: {:#?}", world.counts.lock().unwrap());
    println!("memory of a daemon in KiB, every 10 s: {memory:?}");
    let checked = Instant::now();
    judge(&world);
    println!("checked in {:?}: 0 wrong answers, 0 panics", checked.elapsed());
    // It has seen all of its load after the first third.
    let most = |part: &[u64]| part.iter().max().copied().unwrap_or_default();
    let (first, rest) = memory.split_at(memory.len() / 3);
    assert!(most(rest) <= most(first) * 5 / 4, "memory grows: {memory:?}");
}
