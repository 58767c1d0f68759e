//! Strangers who ask for names that there are not, as fast as they can.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use repmd::protocol::{Request, encode_request};
use repmd_backend_api::{HostId, Instance, RegistryBackend};
use repmd_backend_redis::{Redis, Settings};
use repmd_test_stores::Store;
use repmd_test_support::{Peer, free_port, http};

use crate::stage::Stage;

/// Daemons of other hosts.
const DAEMONS: u16 = 300;

/// Questions at once from each of the strangers, who do not wait for answers.
const AT_ONCE: u32 = 500;

/// Where they ask from.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

/// How long it goes on.
const FLOOD: Duration = Duration::from_secs(5);

/// More than the daemon answers, as soon as each question is a question to the store.
struct Strangers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u32>>,
}

impl Strangers {
    fn ask(port: u16, name: fn(u32) -> String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |stranger: u32| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut asked = 0;
                while !stop.load(Ordering::Relaxed) {
                    let ask = |number| {
                        let mut peer =
                            Peer::connect_from(Some(STRANGER), ([127, 0, 0, 1], port).into()).ok()?;
                        let name = name(stranger * 1_000_000_000 + asked + number);
                        peer.send(&encode_request(&Request::PortPlease2(&name))).ok()?;
                        Some(peer)
                    };
                    let waiting: Vec<_> = (0..AT_ONCE).filter_map(ask).collect();
                    asked += AT_ONCE;
                    std::thread::sleep(Duration::from_millis(100));
                    drop(waiting);
                }
                asked
            })
        };
        let threads = [1, 2].map(start).into();
        Self { stop, threads }
    }

    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

/// Lets as many daemons count as alive.
fn announce_daemons(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = Settings::from_url(url, "default", Duration::from_secs(600)).unwrap();
        for number in 0..DAEMONS {
            let daemon = Arc::new(Instance {
                aliases: vec![HostId::parse(&format!("d{number}.example.org")).unwrap()],
                addresses: vec![[10, 1, (number / 250) as u8, (number % 250) as u8].into()],
                ..Instance::new(format!("d{number}:4369"), HostId::parse(&format!("d{number}")).unwrap())
            });
            Redis::open(settings.clone(), daemon).publish(&[]).await.unwrap();
        }
    });
}

/// How often a daemon has called its store by this verb.
fn calls(admin: u16, verb: &str) -> u32 {
    let metrics = http::get(admin, "/metrics", &[]).body;
    let start = format!("repmd_registry_call_seconds_count{{verb=\"{verb}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
    line.parse::<f64>().unwrap() as u32
}

/// Floods a daemon while it and another one are asked for nodes of a third. Returns how often the one that is flooded
/// called its store by this verb.
fn nobody_else_is_disturbed_by(name: fn(u32) -> String, verb: &str) -> u32 {
    let stage = Stage::alone(Store::redis);
    announce_daemons(&stage.store.url());
    let admin = free_port();
    let asked = stage.plan("a").set("admin", &format!("127.0.0.1:{admin}")).start();
    let (holder, other) = (stage.host("b"), stage.host("c"));
    let _nodes = holder.register_some("svc", 1000, 600);
    for daemon in [&asked, &other] {
        daemon.wait_until_it_finds("svc0@b", Some(1000));
    }
    let started = Instant::now();
    let strangers = Strangers::ask(asked.port(), name);
    let (mut number, mut worst, mut missed) = (0, Duration::ZERO, Vec::new());
    while started.elapsed() < FLOOD {
        // Each once, so that nobody remembers it.
        number = number % 599 + 1;
        let (name, port) = (format!("svc{number}@b"), Some(1000 + number));
        for (who, daemon) in [("the one that is flooded", &asked), ("another", &other)] {
            let asked = Instant::now();
            if daemon.find(&name) != port {
                missed.push((name.clone(), who));
            }
            worst = worst.max(asked.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let questions = strangers.end();
    let took = started.elapsed();
    println!("{questions} questions in {took:?}, the slowest of others took {worst:?}");
    assert!(missed.is_empty(), "not found: {missed:?}\n{}", asked.log());
    for daemon in [&asked, &holder, &other] {
        assert_eq!(daemon.logged(&["is away"]), 0, "{}", daemon.log());
    }
    // Half a second for the store, and what flood, daemons and store take from each other on one machine.
    assert!(worst < Duration::from_secs(3), "{worst:?}");
    assert!(10_000 < questions, "no flood: {questions}");
    calls(admin, verb)
}

#[test]
fn a_flood_of_look_ups_of_hosts_that_there_are_not_asks_the_store_for_its_daemons_once_a_second() {
    let calls = nobody_else_is_disturbed_by(|number| format!("@u{number}"), "daemons");
    let seconds = FLOOD.as_secs() as u32;
    assert!(calls <= seconds + 3, "{calls} calls in {FLOOD:?}");
}

#[test]
fn a_flood_of_look_ups_of_names_that_there_are_not_disturbs_no_other_look_up_anywhere() {
    let calls = nobody_else_is_disturbed_by(|number| format!("nobody{number}"), "find");
    assert!(10_000 < calls, "{calls} calls: these are questions to the store");
}

#[test]
fn a_name_that_several_hosts_have_is_asked_of_the_store_once_a_second() {
    let stage = Stage::redis();
    let admin = free_port();
    let (a, b) = (stage.host("a"), stage.host("b"));
    let _nodes = [a.register("n", 1000), b.register("n", 2000)];
    let other = stage.plan("c").set("admin", &format!("127.0.0.1:{admin}")).start();
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(other.find("n"), None);
        std::thread::sleep(Duration::from_millis(10));
    }
    let (calls, took) = (calls(admin, "find"), started.elapsed());
    assert!(calls <= took.as_secs() as u32 + 1, "{calls} calls in {took:?}");
    assert_eq!(other.find("n@b"), Some(2000));
}
