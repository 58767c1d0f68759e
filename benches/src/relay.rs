//! What the relay costs two who talk through it: against a direct connection, and against a relay that copies
//! the bytes instead of leaving them in the kernel.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use repmd::registry::{Lookup, Options, Registry};
use repmd::relay::{self, Limits, Relay};
use repmd_backend_api::{AliveName, HostId, Instance, InstanceId, Node};
use repmd_backend_memory::Memory;
use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

use crate::subject::pin;
use crate::{Bench, DAEMON_CORE, Failure, LOAD_CORE, median};

const DOOR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 8));

/// How a node writes: fragments of 64 KiB.
const CHUNK: usize = 1 << 16;

/// What the threads of the relays are called.
const RELAY: &str = "relay";
const COPIER: &str = "copier";

/// A short message, such as a tick or a call.
const MESSAGE: usize = 64;

impl Bench {
    pub(crate) fn relay(&mut self) -> Result<(), Failure> {
        let (bytes, messages) = (self.requests * CHUNK * 2, self.requests);
        let none = || [const { Vec::new() }; 3];
        let (mut rates, mut costs, mut times) = (none(), none(), none());
        self.take_turns(true, |node, way, address| {
            let before = relays_cpu()?;
            let (rate, ends) = rate(node, address, bytes)?;
            let relay = relays_cpu()? - before;
            rates[way].push(rate / 1e6);
            costs[way].push(if way == 0 { ends } else { relay }.as_secs_f64() * 1e12 / bytes as f64);
            Ok(())
        })?;
        // On cores of their choice: two ends on one core would not have to wake another.
        self.take_turns(false, |node, way, address| {
            times[way].push(round_trip(node, address, messages)?.as_secs_f64() * 1e6);
            Ok(())
        })?;
        let [direct, spliced, copied] = rates.map(|mut rates| median(&mut rates));
        let met = 0.8 * direct <= spliced;
        self.print_relay("bytes, one way", [direct, spliced, copied], "MB/s", ">= 0.8 x direct", met);
        let costs = costs.map(|mut costs| median(&mut costs));
        self.print_relay("CPU for 1 GB, of both ends when direct, else of the relay", costs, "ms", "", true);
        let [direct, spliced, copied] = times.map(|mut times| median(&mut times));
        let met = spliced - direct < 100.0;
        let what = "round trip of 64 bytes, p50, free cores";
        self.print_relay(what, [direct, spliced, copied], "us", "< 100 us more", met);
        Ok(())
    }

    /// Measures each way to a node in turns: direct (0), spliced (1) and copied (2). Pinned, the relays have one
    /// core, and both ends the other.
    fn take_turns(
        &self,
        is_pinned: bool,
        mut measure: impl FnMut(&TcpListener, usize, SocketAddr) -> io::Result<()> + Send,
    ) -> Result<(), Failure> {
        let mut measured = || -> Result<(), Failure> {
            let node = TcpListener::bind((THERE, 0))?;
            let direct = node.local_addr()?;
            let stop = CancellationToken::new();
            // Threads start on the core of who starts them.
            let pin = |core| if is_pinned { pin(None, core) } else { Ok(()) };
            pin(DAEMON_CORE)?;
            let (spliced, relay) = start_relay(direct.port(), &stop)?;
            let (copied, copier) = start_copier(direct, stop.clone())?;
            pin(LOAD_CORE)?;
            for _ in 0..self.rounds {
                for (way, address) in [direct, spliced, copied].into_iter().enumerate() {
                    measure(&node, way, address)?;
                }
            }
            stop.cancel();
            for thread in [relay, copier] {
                thread.join().expect("no relay panics");
            }
            Ok(())
        };
        // In a thread of its own, so that only it and what it starts are pinned.
        let ended =
            std::thread::scope(|scope| scope.spawn(|| measured().map_err(|error| error.to_string())).join());
        Ok(ended.expect("the load never panics")?)
    }

    fn print_relay(&mut self, what: &str, figures: [f64; 3], unit: &str, bar: &str, met: bool) {
        let [direct, spliced, copied] = figures;
        let cell = |figure: f64| format!("{figure:.1} {unit} ({:.2} x)", figure / direct);
        let (spliced, copied) = (cell(spliced), cell(copied));
        let met = self.verdict(met);
        println!(
            "| relay: {what}; direct, copying | {spliced} | {direct:.1} {unit} | {copied} | {bar} | {met} |"
        );
    }
}

/// The relay of a daemon, and where it leads to the node at `port`.
fn start_relay(
    port: u16,
    stop: &CancellationToken,
) -> Result<(SocketAddr, std::thread::JoinHandle<()>), Failure> {
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let store = Memory::with_leases(Duration::from_secs(3600), Arc::new(clock));
    let registry = |host: &str, address| -> Result<Arc<Registry>, Failure> {
        let instance = Arc::new(Instance {
            id: InstanceId::random(),
            name: host.to_owned(),
            host: HostId::parse(host)?,
            aliases: Vec::new(),
            addresses: vec![address],
            port: 4369,
        });
        let backend = Arc::new(store.attach(Arc::clone(&instance)));
        let options = Options {
            lookup: Lookup::Cluster,
            stale_for: None,
            deadline: Duration::from_millis(500),
            clock: Arc::new(clock),
            probe: Arc::new(|_, _| Box::pin(async { false })),
        };
        Ok(Arc::new(Registry::new(backend, instance, options)))
    };
    let (here, there) = (registry("here", DOOR)?, registry("there", THERE)?);
    let limits = Limits {
        networks: vec!["127.0.0.8/32".parse()?],
        target_ports: 1..=u16::MAX,
        ports: None,
        connections_max: 8,
        connections_per_peer_max: 8,
        idle_time: Duration::from_secs(300),
        listeners_max: 8,
    };
    let options = relay::Options { limits, may_connect: Arc::new(|_, _| true), may_dial: Arc::new(|_| true) };
    let (relay, thread) = Relay::start(here, options, stop.clone())?;
    let node = Node::ordinary(AliveName::parse(b"node")?, port);
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lease = event_loop.block_on(there.register(1, node, port))?;
    let port = relay.port_of(DOOR, &HostId::parse("there")?, &lease.registration);
    Ok((SocketAddr::new(DOOR, port.ok_or("not relayed")?), thread))
}

/// What the relay would be without splicing.
fn start_copier(
    node: SocketAddr,
    stop: CancellationToken,
) -> Result<(SocketAddr, std::thread::JoinHandle<()>), Failure> {
    let listener = TcpListener::bind((DOOR, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let event_loop = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name(COPIER.to_owned()).spawn(move || {
        event_loop.block_on(async {
            tokio::select! {
                () = stop.cancelled() => {}
                Err(error) = copy_all(listener, node) => panic!("{error}"),
            }
        });
    })?;
    Ok((address, thread))
}

async fn copy_all(listener: TcpListener, node: SocketAddr) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (mut dialler, _) = listener.accept().await?;
        let mut node = tokio::net::TcpStream::connect(node).await?;
        dialler.set_nodelay(true)?;
        node.set_nodelay(true)?;
        tokio::spawn(async move {
            // The measurement sees it when bytes are missing.
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut dialler, &mut node, CHUNK, CHUNK).await;
        });
    }
}

/// A connection to `address`, and the node's end of it.
fn connect(node: &TcpListener, address: SocketAddr) -> io::Result<(TcpStream, TcpStream)> {
    let dialler = TcpStream::connect(address)?;
    let (accepted, _) = node.accept()?;
    dialler.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    Ok((dialler, accepted))
}

/// Processor time of this thread so far.
fn own_cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Processor time of both relays so far.
fn relays_cpu() -> io::Result<Duration> {
    let mut nanoseconds = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if [RELAY, COPIER].contains(&std::fs::read_to_string(task.join("comm"))?.trim()) {
            let text = std::fs::read_to_string(task.join("schedstat"))?;
            nanoseconds +=
                text.split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Bytes a second, and what they cost both ends.
fn rate(node: &TcpListener, address: SocketAddr, bytes: usize) -> io::Result<(f64, Duration)> {
    let (mut dialler, mut accepted) = connect(node, address)?;
    let (started, cpu) = (Instant::now(), own_cpu());
    let sender = std::thread::spawn(move || {
        let chunk = [7; CHUNK];
        (0..bytes / CHUNK).try_for_each(|_| dialler.write_all(&chunk))?;
        Ok::<_, io::Error>(own_cpu())
    });
    let mut chunk = vec![0; CHUNK];
    let mut received = 0;
    loop {
        match accepted.read(&mut chunk)? {
            0 => break,
            read => received += read,
        }
    }
    let (took, cpu) = (started.elapsed(), own_cpu() - cpu);
    let cpu = cpu + sender.join().expect("the load never panics")?;
    assert_eq!(received, bytes / CHUNK * CHUNK, "bytes are missing");
    Ok((received as f64 / took.as_secs_f64(), cpu))
}

/// The median time of a short message there and back.
fn round_trip(node: &TcpListener, address: SocketAddr, messages: usize) -> io::Result<Duration> {
    let (mut dialler, mut accepted) = connect(node, address)?;
    let echo = std::thread::spawn(move || -> io::Result<()> {
        let mut message = [0; MESSAGE];
        for _ in 0..messages {
            accepted.read_exact(&mut message)?;
            accepted.write_all(&message)?;
        }
        Ok(())
    });
    let mut times = Vec::with_capacity(messages);
    let mut message = [0; MESSAGE];
    for _ in 0..messages {
        let sent = Instant::now();
        dialler.write_all(&message)?;
        dialler.read_exact(&mut message)?;
        times.push(sent.elapsed());
    }
    echo.join().expect("the load never panics")?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
