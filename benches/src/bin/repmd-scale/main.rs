//! Many daemons on one store: what that costs, and what each of them hears of the others.
//!
//! ```text
//! cargo run --release -p repmd-bench --bin repmd-scale                     # 1,000 daemons x 172 names, on one Redis
//! cargo run --release -p repmd-bench --bin repmd-scale -- --daemons 100
//! ```
//!
//! The store is a real one, started for this alone. The daemons are the daemon's own view of a registry, the one
//! that keeps leases, follows changes and remembers answers, many to a process; only their nodes and their wire are
//! left out. Processor time is the store's own, as the kernel counts it.

mod crowd;
mod process;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use repmd_backend_api::{RegistryBackend, Scope};
use repmd_test_stores::Store;

use process::Process;

/// How long a daemon keeps a lease, as by default.
const LEASE_TTL: Duration = Duration::from_secs(15);

/// Registrations that are timed at all daemons.
const PROBES: usize = 40;

/// How long a change may take to be known everywhere before it counts as lost.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// How often the store is listed whole, which is work for it, too.
const LOOK: Duration = Duration::from_millis(500);

/// How long a loss may take to heal before it is given up.
const HEALING_MAX: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "Measures many simulated daemons on one real store")]
struct Arguments {
    /// Daemons, a host each
    #[arg(long, default_value_t = 1000)]
    daemons: usize,
    /// Names of each
    #[arg(long, default_value_t = 172)]
    names: usize,
    /// Processes that the daemons are in
    #[arg(long, default_value_t = 4)]
    processes: usize,
    /// Seconds for which the store is watched while nothing happens
    #[arg(long, default_value_t = 30)]
    steady: u64,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Be one of the processes (what the program starts for itself)
    Crowd { url: String, first: usize, daemons: usize, names: usize },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    match arguments.part {
        Some(Part::Crowd { url, first, daemons, names }) => {
            runtime.block_on(crowd::run(&url, first..first + daemons, names));
        }
        None => runtime.block_on(measure(&arguments)),
    }
    ExitCode::SUCCESS
}

async fn measure(arguments: &Arguments) {
    let Arguments { daemons, names, processes, steady, .. } = *arguments;
    let mut store = Store::redis();
    println!("{daemons} daemons x {names} names on one Redis");
    let each = daemons.div_ceil(processes);
    let mut crowds: Vec<_> = (0..daemons)
        .step_by(each)
        .map(|first| Process::start(&store.url(), first, each.min(daemons - first), names))
        .collect();

    let every = daemons * names;
    // All at once, as after a night without the store: nobody waits for it.
    store.pause();
    all(&mut crowds, "register");
    store.resume();
    let mut observer = Observer::new(&store);
    let healed = observer.wait_for(every).await;
    println!("the store comes, and all is published: {healed}; {}", told(&mut crowds));

    // Rounds are out of step by now, as those of daemons are that started at different times.
    tokio::time::sleep(LEASE_TTL / 3).await;
    all(&mut crowds, "troubles");
    let (started, cpu) = (Instant::now(), store.cpu());
    tokio::time::sleep(Duration::from_secs(steady)).await;
    let used = percent(store.cpu() - cpu, started.elapsed());
    println!("steady: store {used:.1} % of a core; {}", told(&mut crowds));

    let mut delays = Vec::new();
    for number in 0..PROBES {
        let crowd = number % crowds.len();
        crowds[crowd].say(&format!("probe {number} {}", crowd::now().as_nanos()));
        crowds[crowd].answer();
        let deadline = Instant::now() + PROBE_PATIENCE;
        let mut heard = 0;
        while heard < daemons && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(600)).await;
            let found: Vec<Duration> = all(&mut crowds, &format!("heard {number}"))
                .iter()
                .flat_map(|line| durations(line))
                .collect();
            heard = found.len();
            if heard == daemons || deadline <= Instant::now() {
                delays.extend(found);
            }
        }
        let lost = daemons - heard;
        if 0 < lost {
            println!("probe {number}: {lost} daemons did not hear of it within {PROBE_PATIENCE:?}");
        }
    }
    delays.sort_unstable();
    if let (Some(half), Some(most)) = (delays.get(delays.len() / 2), delays.get(delays.len() * 99 / 100)) {
        println!("a registration is known at a daemon: p50 {half:.0?}, p99 {most:.0?}");
    }

    all(&mut crowds, "troubles");
    store.tell_all(&["FLUSHALL"]);
    let healed = observer.wait_for(every + PROBES).await;
    println!("the store lost everything, and all is back: {healed}; {}", told(&mut crowds));
    all(&mut crowds, "end");
}

/// Somebody who looks at the store from outside.
struct Observer<'a> {
    store: &'a Store,
    handle: Arc<dyn RegistryBackend>,
}

impl<'a> Observer<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, handle: crowd::open(&store.url(), &Arc::new(crowd::instance(usize::from(u16::MAX)))) }
    }

    /// Waits until the store lists so many names, and says how that went.
    async fn wait_for(&mut self, names: usize) -> String {
        let (started, cpu) = (Instant::now(), self.store.cpu());
        let mut listed = 0;
        while listed < names && started.elapsed() < HEALING_MAX {
            tokio::time::sleep(LOOK).await;
            listed = self.handle.list(&Scope::Cluster).await.map_or(listed, |seen| seen.items.len());
        }
        let took = started.elapsed();
        let used = percent(self.store.cpu() - cpu, took);
        format!("{listed} of {names} names after {took:.1?}, store {used:.0} % of a core")
    }
}

/// Sends a line to all processes, and returns their answers.
fn all(crowds: &mut [Process], line: &str) -> Vec<String> {
    crowds.iter_mut().for_each(|crowd| crowd.say(line));
    crowds.iter_mut().map(Process::answer).collect()
}

/// What troubles the daemons had since they were last asked, in words.
fn told(crowds: &mut [Process]) -> String {
    let (mut away, mut refused) = (0, 0);
    for answer in all(crowds, "troubles") {
        let mut numbers = answer.split(' ').map(|number| number.parse::<usize>().expect("it is a number"));
        away += numbers.next().unwrap_or_default();
        refused += numbers.next().unwrap_or_default();
    }
    format!("{away} daemons called the store away, {refused} nodes were refused")
}

/// Nanoseconds, as a process of the crowd writes them.
fn durations(line: &str) -> impl Iterator<Item = Duration> {
    line.split_whitespace().map(|number| Duration::from_nanos(number.parse().expect("it is a number")))
}

fn percent(used: Duration, of: Duration) -> f64 {
    100.0 * used.as_secs_f64() / of.as_secs_f64()
}
