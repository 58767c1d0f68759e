//! The state in its form, and with real connections; without the programs that it is handed over between.

use std::future::ready;
use std::os::fd::{AsFd, IntoRawFd};
use std::os::unix::net::UnixStream;

use repmd_backend_memory::Memory;
use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::io::{FdFlags, fcntl_setfd};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::registry::{Lookup, Options, Registry};
use crate::server::{Limits, Policy, Topology};
use crate::settings::Values;

/// As the first version of the format wrote it. Later versions must read it for as long as the format is 1.
const FIRST: &str = r#"{"format":1,"version":"0.1.0","identity":{"id":"00000000000000000000000000000007","name":"i",
        "host":"a","port":4369,"addresses":["10.0.0.1"],"aliases":["a.example"]},"frozen_at":{"secs":1,"nanos":2},
        "sockets":{"wire":[3],"dns_udp":[],"dns_tcp":[],"admin":null,"outcome":4},
        "nodes":[{"claim":5,"fd":9,"name":"n","port":5000,"advertised_port":5001,"node_type":77,"protocol":0,
        "versions":[6,5],"extra":[1,2],"creation":77,"registered_at":{"secs":1800000000,"nanos":0},
        "renewed":{"secs":3,"nanos":0}}],"departed":[{"name":"d","port":1,"fd":8}],"next_claim":6,
        "under_way":[{"fd":10,"port":4369,"asked":[0],"unread":0},{"fd":11,"port":4369,"asked":null,"unread":2}],
        "releasing":[],"departures":[["d",{"secs":4,"nanos":0}]],"creations":[["d",70]],"highest_forgotten":60,
        "offline":[["o",1800000000]]}"#;

fn read(json: &str, rests: &[u8]) -> io::Result<State> {
    let length = (json.len() as u64).to_le_bytes();
    State::read(&mut [MAGIC, length.as_slice(), json.as_bytes(), rests].concat().as_slice())
}

/// A state with one node, of claim 5.
pub(in super::super) fn first() -> State {
    read(FIRST, b"").unwrap()
}

pub(in super::super) fn settings(host: &str) -> Settings {
    settings_with(&[("host", host), ("instance-name", "i")])
}

fn settings_with(flags: &[(&'static str, &str)]) -> Settings {
    let flags: Vec<_> = flags.iter().map(|(flag, value)| (*flag, (*value).to_owned())).collect();
    let values = Values::merge(&flags, &|_| None, None).unwrap();
    Settings::check(&values, 1000, &|_| Ok(false)).unwrap()
}

/// The daemon of [`FIRST`].
pub(in super::super) fn instance() -> Arc<Instance> {
    Arc::new(Instance {
        id: InstanceId(7),
        name: "i".to_owned(),
        host: HostId::parse("a").unwrap(),
        aliases: vec![HostId::parse("a.example").unwrap()],
        addresses: vec![[10, 0, 0, 1].into()],
        port: 4369,
    })
}

/// What a node of this name and claim registers.
pub(in super::super) fn registration(claim: u64, text: &str) -> Arc<Registration> {
    let node = NodeRecord { name: text.to_owned(), ..first().nodes.remove(0) };
    NodeRecord { claim, creation: 100 + u32::try_from(claim).unwrap(), ..node }
        .registration(&instance())
        .unwrap()
}

/// A daemon of a store, with nodes of these claims and names, whose ends of the connections are returned with it.
pub(in super::super) async fn daemon(nodes: &[(u64, &str)]) -> (Arc<Daemon>, Vec<UnixStream>) {
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let memory = Memory::with_leases(Duration::from_secs(15), Arc::new(clock));
    let options = Options {
        lookup: Lookup::Host,
        stale_for: None,
        deadline: Duration::from_millis(500),
        clock: Arc::new(clock),
        probe: Arc::new(|_, _| Box::pin(ready(false))),
    };
    let registry = Arc::new(Registry::new(Arc::new(memory.attach(instance())), instance(), options));
    let (policy, limits) = (Policy::default(), Limits::for_descriptors(1000));
    let daemon =
        Daemon::new(Arc::clone(&registry), policy, Topology::default(), limits, CancellationToken::new());
    let (daemon, mut peers, mut carried, mut held) = (Arc::new(daemon), Vec::new(), Vec::new(), Vec::new());
    for (claim, name) in nodes {
        let (socket, peer) = UnixStream::pair().unwrap();
        peers.push(peer);
        let (claim, registration) = (*claim, registration(*claim, name));
        held.push((claim, Arc::clone(&registration)));
        carried.push(CarriedNode { claim, socket: socket.into(), registration });
    }
    let departed = vec![Departed { name: name("d").unwrap(), port: 1, fd: 8 }];
    let carried = Carried { nodes: carried, departed, next_claim: 20, under_way: Vec::new() };
    let past = registry::CarriedPast {
        departures: vec![(name("d").unwrap(), Duration::from_secs(4))],
        creations: vec![(name("d").unwrap(), creation(70).unwrap())],
        highest_forgotten: Some(creation(60).unwrap()),
        offline: vec![(name("o").unwrap(), 9_000_000_000)],
    };
    let token = LeaseToken { instance: instance().id, number: 2 };
    let releasing = vec![Lease { token, registration: self::registration(2, "let-go") }];
    let renewed = held.iter().map(|(claim, _)| (*claim, Duration::from_secs(3))).collect();
    registry.resume(held, registry::Carried { renewed, releasing, past }).await;
    assert_eq!(daemon.resume(carried), 0);
    (daemon, peers)
}

/// The number of a descriptor that is left open for the next program.
pub(in super::super) fn left_open(socket: impl Into<OwnedFd>) -> RawFd {
    let socket = socket.into();
    fcntl_setfd(&socket, FdFlags::empty()).unwrap();
    socket.into_raw_fd()
}

/// Whether the other end of a connection was. It is not waited for.
pub(in super::super) fn is_shut_down(mut peer: &UnixStream) -> bool {
    peer.set_nonblocking(true).unwrap();
    matches!(peer.read(&mut [0]), Ok(0))
}

fn sockets() -> Sockets {
    Sockets { wire: vec![3], dns_udp: Vec::new(), dns_tcp: Vec::new(), admin: None, outcome: 4 }
}

#[test]
fn the_first_version_of_the_format_is_read_and_says_all_of_it() {
    let state = read(FIRST, b"xy").unwrap();
    assert_eq!(state.check(&settings("a")), Ok(1));
    let instance = instance();
    assert_eq!(state.identity.id().unwrap(), instance.id);
    assert_eq!(state.identity.aliases().unwrap(), instance.aliases);
    let registry = state.registry(&instance).unwrap();
    assert_eq!(registry.renewed, HashMap::from([(5, Duration::from_secs(3))]));
    assert_eq!(registry.past.highest_forgotten.map(Creation::get), Some(60));
    assert_eq!(registry.past.creations, [(name("d").unwrap(), Creation::new(70).unwrap())]);
    let node = state.nodes[0].registration(&instance).unwrap();
    assert_eq!((node.node.port, node.advertised_port, node.creation.get()), (5000, 5001, 77));
    assert_eq!(*node.node.extra, [1, 2]);
}

#[test]
fn members_that_this_version_does_not_know_are_ignored_and_other_formats_refused() {
    let newer = FIRST.replacen("\"next_claim\"", "\"later\":[{}],\"next_claim\"", 1);
    assert!(read(&newer, b"xy").is_ok());
    let other = FIRST.replacen("\"format\":1", "\"format\":2", 1).replace("identity", "who");
    let error = read(&other, b"").unwrap_err().to_string();
    assert!(error.contains("the format 2, of repmd 0.1.0; this one reads 1"), "{error}");
}

#[test]
fn another_host_name_or_port_is_another_daemon() {
    let others = [
        ([("host", "b"), ("instance-name", "i"), ("port", "4369")], "host was a and is b"),
        ([("host", "a"), ("instance-name", "j"), ("port", "4369")], "instance-name was i and is j"),
        ([("host", "a"), ("instance-name", "i"), ("port", "4370")], "port was 4369 and is 4370"),
    ];
    for (flags, what) in others {
        let error = read(FIRST, b"xy").unwrap().check(&settings_with(&flags)).unwrap_err();
        assert_eq!(error, format!("{what}: only a restart changes that"));
    }
}

#[test]
fn a_member_that_is_missing_is_an_error_that_names_it_but_for_those_that_came_later() {
    let whole: serde_json::Value = serde_json::from_str(FIRST).unwrap();
    let members: Vec<_> = whole.as_object().unwrap().keys().cloned().collect();
    for member in members {
        let mut cut = whole.clone();
        cut.as_object_mut().unwrap().remove(&member);
        let result = read(&cut.to_string(), b"xy");
        if member == "highest_forgotten" {
            assert!(result.is_ok(), "there may be none");
        } else {
            assert!(result.unwrap_err().to_string().contains(&member), "{member}");
        }
    }
    // Of `reloads` and of a cookie the first version knows nothing.
    assert!(!first().reloads);
    assert_eq!(first().nodes[0].cookie, None);
}

#[test]
fn what_cannot_be_true_of_the_daemon_itself_is_an_error() {
    let wrongs = [
        ("\"id\":\"0", "\"id\":\"x", "an id that is none"),
        ("a.example", "", "an alias that is none"),
        ("[[\"d\",{", "[[\"\",{", "a name that is none"),
        ("[\"d\",70]", "[\"d\",3]", "the creation 3"),
        ("[\"d\",70]", "[\"\",70]", "a name that is none"),
        ("[\"o\",", "[\"\",", "a name that is none"),
    ];
    for (right, wrong, what) in wrongs {
        let text = FIRST.replacen(right, wrong, 1);
        assert_ne!(text, FIRST, "{right}");
        let error = read(&text, b"xy").unwrap().check(&settings("a")).unwrap_err();
        assert!(error.contains(&format!("the state of the program before has {what}")), "{wrong}: {error}");
    }
    // One that the store is yet to be told of, by the record of a node.
    let record = "{\"claim\":2,\"fd\":-1,\"name\":\"\",\"port\":1,\"advertised_port\":1,\"node_type\":77,\"protocol\":0,
        \"versions\":[6,5],\"extra\":[],\"creation\":77,\"registered_at\":{\"secs\":1,\"nanos\":0},\"renewed\":null}";
    let text = FIRST.replacen("\"releasing\":[]", &format!("\"releasing\":[{record}]"), 1);
    assert!(read(&text, b"xy").unwrap().check(&settings("a")).unwrap_err().contains("a name that is none"));
}

#[tokio::test]
async fn a_state_says_all_that_a_daemon_serves_and_nobody_changes_it() {
    let (daemon, _peers) = daemon(&[(5, "n"), (7, "m")]).await;
    let mut carried = daemon.carried();
    let under_way =
        |progress| UnderWay { socket: UnixStream::pair().unwrap().0.into(), port: 4369, progress };
    carried.under_way = vec![
        under_way(Progress::Told(Arc::new(b"0123456789".to_vec()), 6)),
        under_way(Progress::Asked(b"asked".to_vec())),
        under_way(Progress::Told(Arc::new(b"abc".to_vec()), 1)),
    ];
    let state = State::new(&daemon, &carried, Duration::from_secs(7), true, sockets());
    let mut file = state.into_file().unwrap();
    let all = SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL;
    assert_eq!(fcntl_get_seals(&file).unwrap(), all);
    let state = State::read(&mut file).unwrap();
    assert_eq!(state.version, env!("CARGO_PKG_VERSION"));
    assert!(state.reloads);
    assert!((7..30).contains(&state.paused().as_secs()), "{:?}", state.paused());
    assert_eq!(state.check(&settings("a")), Ok(2));
    assert_eq!(state.identity.id().unwrap(), InstanceId(7));
    assert_eq!(state.identity.aliases().unwrap(), instance().aliases);
    assert_eq!(state.identity.addresses, instance().addresses);
    for (record, node) in state.nodes.iter().zip(&carried.nodes) {
        assert_eq!((record.claim, record.fd), (node.claim, node.socket.as_raw_fd()));
        assert_eq!(record.registration(&instance()).unwrap(), node.registration);
        assert_eq!(record.cookie, None, "of this process alone");
    }
    let registry = state.registry(&instance()).unwrap();
    let mut renewed: Vec<_> = registry.renewed.iter().map(|(claim, ago)| (*claim, ago.as_secs())).collect();
    renewed.sort_unstable();
    assert!(matches!(renewed[..], [(5, 3..30), (7, 3..30)]), "{renewed:?}");
    let [lease] = &registry.releasing[..] else { panic!("{:?}", registry.releasing) };
    assert_eq!((lease.token.number, &lease.registration), (2, &registration(2, "let-go")));
    let past = registry.past;
    assert!(matches!(&past.departures[..], [(left, ago)] if left.as_str() == "d" && 4 <= ago.as_secs()));
    assert_eq!(past.creations, [(name("d").unwrap(), creation(70).unwrap())]);
    assert_eq!(past.highest_forgotten, Creation::new(60));
    assert_eq!(past.offline, [(name("o").unwrap(), 9_000_000_000)]);
    assert_eq!(state.next_claim, 20);
    assert_eq!(state.departed.iter().map(|gone| gone.read().unwrap()).collect::<Vec<_>>(), carried.departed);
    let under_way = state.under_way.iter().map(|record| (record.asked.clone(), record.unread));
    assert_eq!(under_way.collect::<Vec<_>>(), [(None, 4), (Some(b"asked".to_vec()), 0), (None, 2)]);
    assert_eq!(state.rests, b"6789bc");
}

#[test]
fn the_next_program_takes_over_each_connection_once_with_the_rest_of_its_reply() {
    let mut state = read(FIRST, b"xy").unwrap();
    let pairs = [(); 3].map(|()| UnixStream::pair().unwrap());
    let [(node, node_peer), (asked, _asked_peer), (told, _told_peer)] = pairs;
    (state.nodes[0].fd, state.under_way[0].fd, state.under_way[1].fd) =
        (left_open(node), left_open(asked), left_open(told));
    let carried = state.take_over(&instance()).unwrap();
    let [node] = &carried.nodes[..] else { panic!("{carried:?}") };
    assert_eq!((node.claim, node.registration.node.name.as_str()), (5, "n"));
    hang_up(&node.socket);
    assert!(is_shut_down(&node_peer), "it is that node's");
    assert_eq!(carried.departed, [Departed { name: name("d").unwrap(), port: 1, fd: 8 }]);
    assert_eq!(carried.next_claim, 6);
    let [asked, told] = &carried.under_way[..] else { panic!("{carried:?}") };
    assert!(matches!(&asked.progress, Progress::Asked(received) if *received == [0]), "{asked:?}");
    assert!(matches!(&told.progress, Progress::Told(rest, 0) if **rest == b"xy"), "{told:?}");
    assert_eq!((asked.port, told.port), (4369, 4369));
    let error = state.take_over(&instance()).unwrap_err().to_string();
    assert!(error.contains("was not left open"), "{error}");
}

#[test]
fn rests_that_are_shorter_than_the_records_say_are_an_error() {
    for rests in [b"".as_slice(), b"x"] {
        let mut state = read(FIRST, rests).unwrap();
        state.nodes.clear();
        state.under_way.remove(0);
        let error = state.take_over(&instance()).unwrap_err().to_string();
        assert_eq!(error, "the state of the program before has no end");
    }
}

#[tokio::test]
async fn a_state_that_is_kept_finds_the_connections_of_its_nodes_and_ends_the_others() {
    let (daemon, peers) = daemon(&[(5, "n"), (7, "m")]).await;
    let carried = daemon.carried();
    let mut bytes = Vec::new();
    State::to_keep(&daemon, &carried).write(&mut bytes).unwrap();
    let (newcomer, newcomer_peer) = UnixStream::pair().unwrap();
    let newcomer = Arc::new(repmd_sys::watch_peer(newcomer.into()).unwrap());
    let line = CarriedNode { claim: 30, socket: newcomer, registration: registration(30, "late") };
    bytes.extend(registered(&line).unwrap());
    bytes.extend(left(7).unwrap());
    let state = State::read_kept(&mut bytes.as_slice()).unwrap();
    assert!(state.under_way.is_empty() && state.sockets.wire.is_empty());
    assert_eq!(state.sockets.outcome, -1);
    // The service manager has them in its own order, and more of them.
    let (stray, stray_peer) = UnixStream::pair().unwrap();
    let copy = |socket: &AliveSocket| socket.as_fd().try_clone_to_owned().unwrap();
    let sockets = vec![
        stray.into(),
        copy(&line.socket),
        copy(&carried.nodes[1].socket),
        copy(&carried.nodes[0].socket),
    ];
    let taken = state.take_kept(&instance(), sockets);
    let names: Vec<_> =
        taken.nodes.iter().map(|node| (node.claim, node.registration.node.name.as_str())).collect();
    assert_eq!(names, [(5, "n"), (30, "late")]);
    assert_eq!(taken.nodes[1].registration, line.registration);
    assert_eq!(socket_cookie(&taken.nodes[0].socket), socket_cookie(&carried.nodes[0].socket));
    assert_eq!(taken.next_claim, 31 + 65_536, "the run before may have had more");
    assert_eq!(taken.departed.last().map(|gone| gone.name.as_str()), Some("m"));
    assert!(taken.under_way.is_empty());
    assert!(is_shut_down(&stray_peer) && is_shut_down(&peers[1]));
    assert!(!is_shut_down(&peers[0]) && !is_shut_down(&newcomer_peer));
}

#[test]
fn what_left_before_the_daemon_ended_left_longer_ago_by_now() {
    // The clock counts from the start of the machine, and this state stopped one second after that.
    let ago = kept("").departures[0].1;
    assert!(Duration::from_secs(4) < ago && ago <= now() + Duration::from_secs(4), "{ago:?}");
    assert!(kept("").paused() < Duration::from_secs(10), "and from now on it is this run's");
}

#[test]
fn seconds_of_creations_that_are_over_are_forgotten() {
    let over = kept(&node_line(7, "m", 80).replace("9000000000", "1000"));
    assert!(over.offline.iter().all(|(name, _)| name == "o"), "{:?}", over.offline);
    // Where the name has had a later one, it is not over.
    let line = node_line(7, "o", 80).replace("9000000000", "1000");
    assert_eq!(
        kept_of(&FIRST.replace("[\"o\",1800000000]", "[\"o\",9000000000]"), &line).offline,
        [("o".to_owned(), 9_000_000_001)]
    );
}

#[test]
fn the_highest_creation_of_those_forgotten_is_one_that_a_store_has_counted() {
    let many = |number: usize| format!("[\"{number}\",{}]", 100 + number);
    let others: Vec<_> = (0..LEFT_MAX).map(many).collect();
    let offline = Creation::offline(Duration::from_secs(1_800_000_000), 1).get();
    let creations = format!("[\"o\",{offline}],[\"c\",90],{}", others.join(","));
    let text = FIRST.replacen("[\"d\",70]", &creations, 1);
    let state = kept_of(&text, "");
    assert_eq!((state.creations.len(), state.highest_forgotten), (LEFT_MAX, Some(90)));
}

#[test]
fn what_is_cut_short_or_impossible_is_an_error_that_says_so() {
    let whole = [MAGIC, (FIRST.len() as u64).to_le_bytes().as_slice(), FIRST.as_bytes()].concat();
    for length in [0, 7, 12, 16, 100, whole.len() - 1] {
        assert!(State::read(&mut &whole[..length]).is_err(), "{length} bytes");
    }
    for (right, wrong) in [("\"name\":\"n\"", "\"name\":\"\""), ("\"creation\":77", "\"creation\":3")] {
        let state = read(&FIRST.replacen(right, wrong, 1), b"xy").unwrap();
        assert_eq!(state.check(&settings("a")), Ok(0), "{wrong}");
    }
    let beyond = FIRST.replacen("1800000000,\"nanos\"", "18446744073709551615,\"nanos\"", 1);
    assert_eq!(read(&beyond, b"xy").unwrap().check(&settings("a")), Ok(0));
}

/// What is kept of [`FIRST`], and happened after it.
fn kept(lines: &str) -> State {
    kept_of(&FIRST.replacen("\"fd\":9", "\"fd\":9,\"cookie\":90", 1), lines)
}

fn kept_of(state: &str, lines: &str) -> State {
    let length = (state.len() as u64).to_le_bytes();
    let file = [MAGIC, length.as_slice(), state.as_bytes(), lines.as_bytes()].concat();
    State::read_kept(&mut file.as_slice()).unwrap()
}

fn node_line(claim: u64, name: &str, creation: u32) -> String {
    format!(
        r#"{{"registered":{{"claim":{claim},"fd":12,"cookie":{},"name":"{name}","port":5002,"advertised_port":5002,
            "node_type":77,"protocol":0,"versions":[6,5],"extra":[],"creation":{creation},
            "registered_at":{{"secs":9000000000,"nanos":0}},"renewed":null}}}}"#,
        claim * 10
    )
    .replace("\n", "")
        + "\n"
}

#[test]
fn lines_after_a_state_say_who_came_and_who_left() {
    let left = "{\"left\":{\"claim\":5,\"at\":{\"secs\":0,\"nanos\":0}}}\n";
    let lines = node_line(7, "m", 80) + left + &node_line(9, "n", 81) + "{\"left\":{\"claim\":44,";
    let state = kept(&lines);
    let nodes: Vec<_> = state.nodes.iter().map(|node| (node.claim, &*node.name, node.cookie)).collect();
    assert_eq!(nodes, [(7, "m", Some(70)), (9, "n", Some(90))]);
    assert_eq!(state.next_claim, 10);
    let departed: Vec<_> = state.departed.iter().map(|gone| (&*gone.name, gone.port, gone.fd)).collect();
    assert_eq!(departed, [("d", 1, 8), ("n", 5000, 9)]);
    assert_eq!(state.creations, [("d".to_owned(), 70), ("n".to_owned(), 77)]);
    let names: Vec<_> = state.departures.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["d", "n"]);
    // The clock's creation of that second is no other life's.
    let offline: HashMap<_, _> = state.offline.iter().cloned().collect();
    assert_eq!(offline["m"], 9_000_000_002);
}

#[test]
fn a_line_that_cannot_be_read_costs_its_node_alone() {
    let good = node_line(7, "m", 80);
    for bad in ["\n", "{}\n", "{\"later\":{}}\n", "\u{0}\u{0}\n", "{\"registered\":{\"claim\":8}}\n"] {
        let state = kept(&format!("{bad}{good}"));
        assert_eq!(state.nodes.iter().map(|node| node.claim).collect::<Vec<_>>(), [5, 7], "{bad:?}");
    }
}

#[test]
fn what_was_kept_can_be_written_and_read_again_and_stays_as_large() {
    let lines: String = (0..1000)
        .map(|life| {
            node_line(100 + life, "m", 80)
                + &format!("{{\"left\":{{\"claim\":{},\"at\":{{\"secs\":0,\"nanos\":0}}}}}}\n", 100 + life)
        })
        .collect();
    let write = |state: &State| {
        let mut bytes = Vec::new();
        state.write(&mut bytes).unwrap();
        bytes
    };
    let once = write(&kept(&lines));
    assert!(once.len() < 2000, "{} bytes", once.len());
    let again = State::read_kept(&mut once.as_slice()).unwrap();
    assert_eq!((again.nodes.len(), again.next_claim), (1, 1100));
    assert_eq!(again.creations, [("d".to_owned(), 70), ("m".to_owned(), 80)]);
    // Each life has a second of its own, and none of them comes again.
    assert!(again.offline.contains(&("m".to_owned(), 9_000_001_001)), "{:?}", again.offline);
}

#[test]
fn names_that_left_are_kept_within_bounds_and_the_highest_creation_of_the_others() {
    let mut names: Vec<_> = (0..=LEFT_MAX).map(|number| (number.to_string(), number)).collect();
    names.push(("0".to_owned(), 7));
    let forgotten = keep_last(&mut names, |(name, _)| name);
    assert_eq!(forgotten, [("1".to_owned(), 1)]);
    assert_eq!((names.len(), &names[0].1, names.last().map(|(_, last)| *last)), (LEFT_MAX, &2, Some(7)));
}
