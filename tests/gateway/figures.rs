//! What a relay costs two nodes on one machine, against their direct connection on loopback. The figures are for a
//! machine with nothing else to do: `cargo test --release --test gateway figures -- --ignored --nocapture`.

use repmd_test_support::{Daemon, ErlangNode, Network, run, wait_until};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{EPMD_PORT, SOON, ping, repmd, root, start};

const ROUNDS: usize = 5;

/// The far host's daemon, beside the near host's.
const FAR_PORT: u16 = 4379;

/// The far host as the near one knows it: at an address of the relay.
const INETRC: &str = r#"{lookup, [file]}. {host, {127,0,0,1}, ["near"]}. {host, {127,0,0,7}, ["far"]}."#;

/// Who is reached directly, and who by the relay.
const WAYS: [&str; 2] = ["direct@near", "relayed@far"];

/// A node that dials, one that it reaches directly, and one that it reaches by a relay.
struct Nodes {
    dialler: ErlangNode,
    _others: [ErlangNode; 2],
    _daemons: [Daemon; 3],
}

impl Nodes {
    /// The nodes run on the processor `nodes` and the relay on `relay`, or wherever the kernel likes. All use
    /// the congestion control `congestion` of TCP, or the machine's.
    fn start(nodes: Option<usize>, relay: Option<usize>, congestion: Option<&str>) -> Self {
        let here = Network::empty();
        if let Some(congestion) = congestion {
            let file = "/proc/sys/net/ipv4/tcp_congestion_control";
            here.inside(|| std::fs::write(file, congestion))
                .expect("a network may choose among those allowed");
        }
        // A relay does not dial its own machine: by this route the far host's address does not look like that.
        let route = ["route", "add", "local", "10.77.0.0/24", "dev", "lo", "src", "127.0.0.1"];
        here.inside(|| run("ip", &route));
        let on = |core: Option<usize>, host: &str, address: &str, port: u16, flags: &[&str]| {
            let mut command = repmd(host, "127.0.0.1", address, flags);
            command.args(["--port", &port.to_string()]);
            here.inside(|| {
                pin(core);
                Daemon::spawn(command, port)
            })
        };
        let mut redis = root().command("redis-server");
        redis.args(["--save", ""]);
        let store = start(&here, redis, 6379);
        let gateway = ["--virtual-host", "127.0.0.7=far", "--relay", "10.77.0.0/24"];
        let daemons = [
            on(None, "far", "10.77.0.1", FAR_PORT, &[]),
            on(relay, "near", "127.0.0.1", EPMD_PORT, &gateway),
            store,
        ];
        let node = |name: &str, port: u16| {
            here.inside(|| {
                pin(nodes);
                ErlangNode::start_knowing(&root(), INETRC, port, &["-sname", name])
            })
        };
        let others = [node("direct@near", EPMD_PORT), node("relayed@far", FAR_PORT)];
        let mut dialler = node("dialler@near", EPMD_PORT);
        for other in WAYS {
            wait_until(other, SOON, || ping(&mut dialler, other) == "pong");
        }
        Self { dialler, _others: others, _daemons: daemons }
    }

    /// Megabytes a second, in messages of 1 MiB.
    fn throughput(&mut self, to: &str, messages: usize) -> f64 {
        let microseconds = self.time(&format!(
            "Self = self(), Receiver = spawn('{to}', fun() -> \
               (fun Loop(0) -> Self ! received; \
                    Loop(Left) -> receive {{bytes, _}} -> Loop(Left - 1) end end)({messages}) end), \
             Bytes = binary:copy(<<7>>, 1048576), Started = erlang:monotonic_time(microsecond), \
             [Receiver ! {{bytes, Bytes}} || _ <- lists:seq(1, {messages})], \
             receive received -> erlang:monotonic_time(microsecond) - Started end"
        ));
        (messages << 20) as f64 / microseconds
    }

    /// Microseconds of a short message there and back, the median.
    fn round_trip(&mut self, to: &str, messages: usize) -> f64 {
        let nanoseconds = self.time(&format!(
            "Self = self(), Echo = spawn('{to}', fun() -> \
               (fun Loop() -> receive stop -> ok; Message -> Self ! Message, Loop() end end)() end), \
             Times = [begin Started = erlang:monotonic_time(nanosecond), Echo ! N, \
               receive N -> erlang:monotonic_time(nanosecond) - Started end end || N <- lists:seq(1, {messages})], \
             Echo ! stop, lists:nth({messages} div 2, lists:sort(Times))"
        ));
        nanoseconds / 1e3
    }

    fn time(&mut self, expressions: &str) -> f64 {
        let time = self.dialler.eval(&format!("begin {expressions} end"));
        time.parse().unwrap_or_else(|_| panic!("no time: {time}"))
    }

    /// What goes each way: megabytes a second, and microseconds.
    fn measure(&mut self, rounds: usize, messages: usize) -> [[Spread; 2]; 2] {
        let mut rates = [const { Vec::new() }; 2];
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..rounds {
            for (way, to) in WAYS.into_iter().enumerate() {
                rates[way].push(self.throughput(to, messages));
                times[way].push(self.round_trip(to, messages));
            }
        }
        [rates, times].map(|ways| ways.map(spread))
    }

    fn print(&mut self, what: &str) {
        let [rates, times] = self.measure(ROUNDS, 2000);
        let [direct, relayed] = rates;
        println!("{what}: direct {direct:.0?}, relayed {relayed:.0?} MB/s, {:.2} x", relayed[1] / direct[1]);
        let [direct, relayed] = times;
        println!("{what}: direct {direct:.0?}, relayed {relayed:.0?} us, {:.0} more", relayed[1] - direct[1]);
    }
}

/// The least, the median and the most.
type Spread = [f64; 3];

fn spread(mut figures: Vec<f64>) -> Spread {
    figures.sort_by(f64::total_cmp);
    [figures[0], figures[figures.len() / 2], figures[figures.len() - 1]]
}

/// Whatever this thread starts has one processor, or all.
fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).expect("there is such a processor");
}

/// The bars are for a machine with nothing else to do; this is what holds on any.
#[test]
fn a_relay_neither_holds_up_nor_stalls_two_nodes() {
    let [rates, times] = Nodes::start(None, None, None).measure(3, 200);
    println!("{rates:.0?} MB/s, {times:.0?} us");
    let [direct, relayed] = rates.map(|[_, median, _]| median);
    assert!(direct / 10.0 < relayed, "{direct} MB/s directly, relayed {relayed}");
    let [direct, relayed] = times.map(|[_, median, _]| median);
    assert!(relayed - direct < 1000.0, "{direct} us directly, relayed {relayed}");
}

#[test]
#[ignore = "figures, for a machine with nothing else to do"]
fn figures_of_two_nodes_and_a_relay() {
    for congestion in [None, Some("reno")] {
        println!("congestion control: {}", congestion.unwrap_or("the machine's"));
        Nodes::start(Some(1), Some(0), congestion).print("the relay has a processor");
        Nodes::start(None, None, congestion).print("all share the processors");
    }
}
