//! Nodes that come and go, for as long as one likes: no daemon may say that a link is lost or missing unless it is.
//!
//! Each node keeps a diary of whom it is connected with. Once all is over, what the daemons said is held against these.
//!
//! ```text
//! cargo test --test multi_host no_link_is_missed                                        # a minute
//! REPMD_TEST_RELEASE=target/static/x86_64-unknown-linux-gnu/release/repmd \
//!     REPMD_SOAK=3600 cargo test --test multi_host come_and_go -- --ignored --nocapture     # as many seconds as it says
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use repmd_test_support::http::EventStream;
use repmd_test_support::{Daemon, ErlangNode, Root, Scratch};
use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Epmd, Lab, Machine, dns};
use crate::links::{ALONE, Pairs, links, pair};
use crate::{RELEASE, SOON, on_port, ping};

/// Between two deeds on one host.
const PAUSE: std::ops::Range<u64> = 2_000..10_000;

/// How long two nodes must have been apart for whoever calls their link missing to be right: between two looks there are
/// 1.9 s at least.
const APART: Duration = Duration::from_millis(1500);

/// How long ago that may have been. Looks are 5 s apart, but of a build for debugging on a busy machine, which takes as much
/// of a core for fewer of them, half a minute.
const AGO: Duration = Duration::from_secs(60);

/// How long a cut may go untold, for the same reason. How soon it should be told is the matter of another test.
const UNTOLD: Duration = Duration::from_secs(90);

/// How often a link is cut. It shows that daemons do tell what is true.
const CUT_EVERY: Duration = Duration::from_secs(300);
const FIRST_CUT: Duration = Duration::from_secs(20);

/// Writes whom a node is connected with, and since when, into the file that is named before it.
const DIARY: &str = r#"
Asker = self(),
spawn(fun() ->
    {ok, File} = file:open(Path, [append, raw]),
    Write = fun(What, Node) ->
        ok = file:write(File, io_lib:format("~b ~s ~s~n", [os:system_time(microsecond), What, Node]))
    end,
    Keep = fun(Keep) ->
        receive {nodeup, Node, _} -> Write("up", Node); {nodedown, Node, _} -> Write("down", Node) end, Keep(Keep)
    end,
    ok = net_kernel:monitor_nodes(true, [{node_type, all}]),
    [Write("up", Node) || Node <- nodes(connected)],
    Asker ! kept,
    Keep(Keep)
end),
receive kept -> ok end"#;

/// Since 1970, as in the diaries.
type Moment = Duration;

fn now() -> Moment {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// What a daemon said.
#[derive(Debug)]
struct Alarm {
    at: Moment,
    by: &'static str,
    kind: &'static str,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Pair(String, String),
    /// Of a node of one with a node of the other.
    Hosts(String, String),
}

/// A node, from before its start until it is told or made to end.
#[derive(Clone, Debug, Default)]
struct Life {
    node: String,
    is_hidden: bool,
    from: Moment,
    until: Option<Moment>,
    is_up: bool,
    diary: PathBuf,
    /// Whom it was connected with, and when, as it wrote itself.
    links: Vec<(String, Moment, Moment)>,
}

impl Life {
    fn host(&self) -> &str {
        self.node.split('@').nth(1).unwrap()
    }

    fn end(&self) -> Moment {
        self.until.unwrap_or(Moment::MAX)
    }

    fn read_diary(&mut self) {
        let mut up = BTreeMap::<String, Moment>::new();
        // It may have died before it could write.
        let text = std::fs::read_to_string(&self.diary).unwrap_or_default();
        // A line that breaks off is the last one of a node that was killed.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let [at, what, peer] = line.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
            let at = Moment::from_micros(at.parse().unwrap());
            match what {
                // The first one counts: it is told of some twice.
                "up" => drop(up.entry(peer.to_owned()).or_insert(at)),
                _ => self.links.extend(up.remove(peer).map(|from| (peer.to_owned(), from, at))),
            }
        }
        let end = self.end();
        self.links.extend(up.into_iter().map(|(peer, from)| (peer, from, end)));
    }

    /// Since when it is part of a mesh.
    fn joined(&self) -> Option<Moment> {
        let of_a_mesh = self.links.iter().filter(|(peer, ..)| !is_hidden(peer));
        of_a_mesh.map(|(_, from, _)| *from).min()
    }

    fn links_with<'a>(&'a self, peer: &'a Self) -> impl Iterator<Item = (Moment, Moment)> + 'a {
        let links = self.links.iter().filter(|(node, ..)| *node == peer.node);
        links.map(|(_, from, until)| (*from, *until))
    }
}

fn is_hidden(node: &str) -> bool {
    node.starts_with("hidden")
}

/// For how long at most these two were both part of a mesh, and neither knew itself connected with the other, in the
/// time before `at`.
fn apart(one: &Life, other: &Life, at: Moment) -> Duration {
    let (Some(joined), Some(other_joined)) = (one.joined(), other.joined()) else { return Duration::ZERO };
    let mut since = joined.max(other_joined).max(at.saturating_sub(AGO));
    let end = one.end().min(other.end()).min(at);
    let mut links: Vec<_> = one.links_with(other).chain(other.links_with(one)).collect();
    links.sort_unstable();
    links.push((end, end));
    let mut longest = Duration::ZERO;
    for (from, until) in links {
        longest = longest.max(from.min(end).saturating_sub(since));
        since = since.max(until);
    }
    longest
}

/// Whether what a daemon said was so.
fn is_true(alarm: &Alarm, lives: &[Life]) -> bool {
    let lately = |life: &&Life| life.from <= alarm.at && alarm.at.saturating_sub(AGO) <= life.end();
    let lives: Vec<_> = lives.iter().filter(lately).filter(|life| !life.is_hidden).collect();
    let is_meant = |one: &Life, other: &Life| match &alarm.of {
        Of::Pair(node, peer) => one.node == *node && other.node == *peer,
        Of::Hosts(host, peer) => one.host() == host && other.host() == peer && one.node != other.node,
    };
    lives
        .iter()
        .any(|one| lives.iter().any(|other| is_meant(one, other) && APART <= apart(one, other, alarm.at)))
}

/// Everything that goes on.
struct World {
    dns: String,
    diaries: Scratch,
    lives: Mutex<Vec<Life>>,
    alarms: Mutex<Vec<Alarm>>,
    /// Links that were cut, and who told of it.
    untold: Mutex<Vec<String>>,
    /// How often a node was shown, and how often its daemon saw its links then.
    shown: AtomicU64,
    seen: AtomicU64,
    deeds: Mutex<BTreeMap<&'static str, u32>>,
    is_over: AtomicBool,
}

/// Ends everything, also when something panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_over() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn count(&self, deed: &'static str) {
        *lock(&self.deeds).entry(deed).or_default() += 1;
    }

    fn alarm(&self, by: &'static str, kind: &'static str, of: Of) {
        let alarm = Alarm { at: now(), by, kind, of };
        if matches!(&alarm.of, Of::Pair(node, _) if !node.starts_with("stays")) {
            eprintln!("{alarm:?}");
        }
        lock(&self.alarms).push(alarm);
    }

    /// Starts a node, which keeps a diary then.
    fn start(&self, machine: &Machine, name: &str, flags: &[&str]) -> Running {
        let node = format!("{name}@{}", machine.host);
        let life = {
            let mut lives = lock(&self.lives);
            let diary = self.diaries.path().join(lives.len().to_string());
            let is_hidden = is_hidden(&node);
            lives.push(Life { node: node.clone(), is_hidden, from: now(), diary, ..Life::default() });
            lives.len() - 1
        };
        let mut erlang = machine.node(&node, &self.dns, flags);
        let diary = self.diaries.inside().join(life.to_string());
        assert_eq!(erlang.eval(&format!("Path = \"{}\", {DIARY}", diary.display())), "ok");
        lock(&self.lives)[life].is_up = true;
        Running { erlang, life }
    }

    /// The ordinary nodes that are up, apart from those that only meet whom they are told to meet.
    fn to_meet(&self) -> Vec<String> {
        let is_there = |life: &&Life| life.is_up && life.until.is_none() && life.node.starts_with('n');
        lock(&self.lives).iter().filter(is_there).map(|life| life.node.clone()).collect()
    }

    fn end(&self, running: Running, in_order: bool) {
        lock(&self.lives)[running.life].until = Some(now());
        if in_order {
            self.count("stopped in order");
            running.erlang.halt();
        } else {
            self.count("killed");
            running.erlang.kill();
        }
    }
}

struct Running {
    erlang: ErlangNode,
    life: usize,
}

/// A place for a node.
struct Place {
    name: &'static str,
    /// Some listen at the same port in each life, as they do behind firewalls.
    flags: Vec<&'static str>,
    running: Option<Running>,
}

impl Place {
    fn start(&mut self, world: &World, machine: &Machine, rng: &mut Rng) {
        let others = world.to_meet();
        let mut running = world.start(machine, self.name, &self.flags);
        world.count(if is_hidden(self.name) { "started, hidden" } else { "started" });
        // Some know one node, by which they get to know all, and some look for all at once.
        let known = if is_hidden(self.name) { 2 } else { rng.choice([1, others.len()]).unwrap() };
        let known = rng.choose_multiple(others.iter(), known);
        let known: Vec<_> = known.into_iter().map(|node| format!("'{node}'")).collect();
        running.erlang.eval(&format!("[net_kernel:connect_node(Node) || Node <- [{}]]", known.join(",")));
        self.running = Some(running);
    }
}

/// Lets the nodes of a host come and go.
fn live(world: &World, machine: &Machine, seed: u64) {
    let _ends = Ends(&world.is_over);
    let mut rng = Rng::with_seed(seed);
    let place = |name, flags: &[&'static str]| Place { name, flags: flags.to_vec(), running: None };
    let mut places =
        [place("n1", &on_port("9100")), place("n2", &[]), place("n3", &[]), place("hidden", &["-hidden"])];
    places.iter_mut().for_each(|place| place.start(world, machine, &mut rng));
    while !world.is_over() {
        world.pause(Duration::from_millis(rng.u64(PAUSE)));
        // As whatever looks for nodes does from time to time.
        if let Some(running) = places[..3].iter_mut().filter_map(|place| place.running.as_mut()).next() {
            let others: Vec<_> = world.to_meet().iter().map(|node| format!("'{node}'")).collect();
            let others = others.join(",");
            let meet = format!("[net_kernel:connect_node(Node) || Node <- [{others}] -- [node() | nodes()]]");
            running.erlang.eval(&meet);
        }
        if rng.u8(..12) == 0 {
            world.count("all nodes of a host killed, and started again");
            for place in &mut places {
                place.running.take().into_iter().for_each(|running| world.end(running, false));
            }
            places.iter_mut().for_each(|place| place.start(world, machine, &mut rng));
            continue;
        }
        let place = rng.choose_multiple(places.iter_mut(), 1).remove(0);
        if let Some(running) = place.running.take() {
            world.end(running, rng.bool());
            if rng.bool() {
                continue;
            }
            world.count("back at once");
        }
        place.start(world, machine, &mut rng);
    }
}

/// Follows what a daemon tells.
fn follow(world: &World, machine: &Machine) {
    let _ends = Ends(&world.is_over);
    let mut events = EventStream::open(4370, "/api/v1/events", &[]);
    while let Some(event) = events.next_event() {
        let kind = match &*event.kind {
            "link_lost" => "link_lost",
            "mesh_partial" => "mesh_partial",
            "missed" => panic!("{} has told more than this can follow", machine.host),
            _ => continue,
        };
        let data: Value = serde_json::from_str(&event.data).unwrap();
        let name = |key: &str| data[key].as_str().unwrap().to_owned();
        world.alarm(machine.host, kind, Of::Pair(name("node"), name("peer")));
    }
}

/// Asks a daemon again and again what is missing.
fn ask(world: &World, machine: &Machine) {
    let _ends = Ends(&world.is_over);
    while !world.is_over() {
        world.pause(Duration::from_secs(1));
        let list = links(machine);
        let nodes = list["nodes"].as_array().unwrap();
        world.shown.fetch_add(nodes.len() as u64, Ordering::Relaxed);
        let seen = nodes.iter().filter(|node| node["unseen"].is_null()).count();
        world.seen.fetch_add(seen as u64, Ordering::Relaxed);
        for missing in list["missing"].as_array().unwrap() {
            let name = |key: &str| missing[key].as_str().unwrap().to_owned();
            if missing["is_confirmed"] == true {
                world.alarm(machine.host, "/api/v1/links", Of::Pair(name("node"), name("peer")));
            }
        }
        for line in machine.shown("/metrics").lines() {
            let Some(of) = line.strip_prefix("repmd_links_missing{host=\"") else { continue };
            let (host, count) = of.split_once("\"} ").unwrap();
            if count.parse::<f64>().unwrap() > 0.0 {
                world.alarm(
                    machine.host,
                    "repmd_links_missing",
                    Of::Hosts(machine.host.to_owned(), host.to_owned()),
                );
            }
        }
    }
}

/// Three nodes that stay, and two of which lose each other from time to time.
fn cut(world: &World, machines: &[Machine; 3], time: Duration) {
    let mut stay = machines.each_ref().map(|machine| world.start(machine, "stays", &ALONE).erlang);
    for (one, other) in [(0, "b"), (1, "c"), (2, "a")] {
        assert_eq!(ping(&mut stay[one], &format!("stays@{other}")), "pong");
    }
    let over = Instant::now() + time;
    let (mut cuts, mut slowest) = (0, Duration::ZERO);
    world.pause(FIRST_CUT.min(time));
    while Instant::now() < over && !world.is_over() {
        let (at, cut) = (now(), pair("stays@a", "stays@b"));
        assert_eq!(stay[0].eval("erlang:disconnect_node('stays@b')"), "true");
        let tell = |alarm: &&Alarm| {
            let is_it = matches!(&alarm.of, Of::Pair(node, peer) if pair(node, peer) == cut);
            at < alarm.at && is_it
        };
        let told = || -> BTreeSet<_> {
            lock(&world.alarms).iter().filter(tell).map(|alarm| (alarm.by, alarm.kind)).collect()
        };
        // Three ways, by three daemons.
        while told().len() < 9 && now() < at + UNTOLD {
            world.pause(Duration::from_millis(100));
        }
        slowest = slowest.max(now() - at);
        if told().len() < 9 {
            lock(&world.untold).push(format!("{cut:?} at {at:?}: only {:?}", told()));
        }
        assert_eq!(ping(&mut stay[0], "stays@b"), "pong");
        cuts += 1;
        world.pause(over.saturating_duration_since(Instant::now()).min(CUT_EVERY));
    }
    println!("{cuts} links were cut, and missed by all daemons after {slowest:?} at most");
}

/// Lets nodes come and go for so long, and tells what the daemons said that was wrong.
fn play(time: Duration, seed: u64) {
    let (_lab, machines) = Lab::new::<3>();
    let mut daemons = machines.each_ref().map(|machine| machine.serve(Epmd::Repmd, &[]));
    let world = World {
        dns: dns(&machines.each_ref()),
        diaries: Root::of(RELEASE).scratch(),
        lives: Mutex::default(),
        alarms: Mutex::default(),
        untold: Mutex::default(),
        shown: AtomicU64::new(0),
        seen: AtomicU64::new(0),
        deeds: Mutex::default(),
        is_over: AtomicBool::new(false),
    };
    let ended = std::thread::scope(|scope| {
        // Whatever panics: daemons that are gone end the threads that follow them.
        let daemons: &mut [Daemon; 3] = &mut daemons;
        let mut drivers = Vec::new();
        let world = &world;
        for (number, machine) in machines.iter().enumerate() {
            scope.spawn(|| machine.network.inside(|| follow(world, machine)));
            scope.spawn(|| machine.network.inside(|| ask(world, machine)));
            drivers.push(scope.spawn(move || live(world, machine, seed + number as u64)));
        }
        let _ends = Ends(&world.is_over);
        cut(world, &machines, time);
        // What they make of the last deeds.
        world.pause(AGO / 6);
        world.is_over.store(true, Ordering::Relaxed);
        let ended: Vec<_> = drivers.into_iter().map(ScopedJoinHandle::join).collect();
        println!("memory of the daemons in KiB: {:?}", daemons.each_ref().map(Daemon::memory));
        for daemon in daemons {
            daemon.signal(Signal::TERM);
            daemon.wait(SOON);
        }
        ended
    });
    judge(&world);
    ended.into_iter().for_each(|driver| driver.unwrap());
}

fn judge(world: &World) {
    let mut lives = std::mem::take(&mut *lock(&world.lives));
    lives.iter_mut().for_each(Life::read_diary);
    let links: usize = lives.iter().map(|life| life.links.len()).sum();
    println!("{:#?}", lock(&world.deeds));
    println!("{links} times a node found another");
    let alarms = lock(&world.alarms);
    let (right, wrong): (Vec<_>, Vec<_>) = alarms.iter().partition(|alarm| is_true(alarm, &lives));
    // Of those that nobody cut: the nodes themselves did.
    let others: Pairs = right
        .iter()
        .filter_map(|alarm| match &alarm.of {
            Of::Pair(node, peer) if !node.starts_with("stays") => Some(pair(node, peer)),
            _ => None,
        })
        .collect();
    println!("{} alarms were true, also of links that nodes gave up by themselves: {others:?}", right.len());
    for alarm in &wrong {
        println!("WRONG: {alarm:?}");
        let Of::Pair(node, peer) = &alarm.of else { continue };
        let lately = |life: &&Life| {
            (life.node == *node || life.node == *peer)
                && life.from <= alarm.at
                && alarm.at.saturating_sub(AGO) <= life.end()
        };
        for Life { node: of, from, until, links, .. } in lives.iter().filter(lately) {
            let links: Vec<_> = links.iter().filter(|(other, ..)| other == node || other == peer).collect();
            println!("  {of} from {from:?} until {until:?}: {links:?}");
        }
    }
    assert_eq!(wrong.len(), 0, "of {} alarms", alarms.len());
    assert_eq!(*lock(&world.untold), [""; 0], "links were cut, and not missed");
    // Those who see nothing raise no alarm.
    let [shown, seen] = [&world.shown, &world.seen].map(|count| count.load(Ordering::Relaxed));
    println!("a node's links were seen {} % of the time", seen * 100 / shown);
    assert!(shown < 2 * seen, "{seen} of {shown}");
}

#[test]
fn no_link_is_missed_of_nodes_that_come_and_go() {
    play(Duration::from_secs(60), 1);
}

#[test]
#[ignore = "as long as REPMD_SOAK says in seconds: for a release"]
fn soak() {
    let seconds = std::env::var("REPMD_SOAK").map_or(3600, |text| text.parse().expect("it is a number"));
    let seed = fastrand::u64(..1 << 32);
    println!("seed {seed}, {seconds} s");
    play(Duration::from_secs(seconds), seed);
}

#[test]
fn an_alarm_is_true_of_nodes_that_were_apart_and_of_no_others() {
    let second = Duration::from_secs;
    let life = |node: &str, from, until: Option<u64>, links: &[(&str, u64, u64)]| Life {
        node: node.to_owned(),
        is_hidden: is_hidden(node),
        from: second(from),
        until: until.map(second),
        links: links
            .iter()
            .map(|(peer, from, until)| (peer.to_string(), second(*from), second(*until)))
            .collect(),
        ..Life::default()
    };
    let lives = [
        life(
            "n1@a",
            100,
            None,
            &[("n2@b", 110, 200), ("n2@b", 204, 300), ("n3@c", 110, 400), ("hidden@a", 100, 500)],
        ),
        life("n2@b", 100, Some(300), &[("n1@a", 110, 200), ("n1@a", 203, 300), ("n3@c", 110, 300)]),
        life("n3@c", 109, None, &[("n1@a", 110, 400), ("n2@b", 110, 300)]),
        life("hidden@a", 99, None, &[("n1@a", 100, 150)]),
    ];
    let is_true = |at, node: &str, peer: &str| {
        let of = Of::Pair(node.to_owned(), peer.to_owned());
        is_true(&Alarm { at: second(at), by: "a", kind: "mesh_partial", of }, &lives)
    };
    // They were apart, for as long as the first one of them saw it.
    assert_eq!(
        [199, 201, 202, 250, 261, 262].map(|at| is_true(at, "n1@a", "n2@b")),
        [false, false, true, true, true, false]
    );
    // Before they were in their mesh, and after one of them has gone.
    assert_eq!([105, 109, 301, 310].map(|at| is_true(at, "n1@a", "n2@b")), [false; 4]);
    assert!(
        !is_true(200, "n1@a", "n3@c") && !is_true(200, "hidden@a", "n2@b") && !is_true(200, "n1@a", "n9@a")
    );
}
