//! Compares EPMD daemons with each other and with the floor that the kernel sets.
//!
//! ```text
//! cargo build --release && cargo run --release -p repmd-bench            # everything, 5 rounds
//! cargo run --release -p repmd-bench -- --quick --only lookup,names      # a look
//! ```
//!
//! Each figure is the median of the rounds, and in each round the daemons take turns. The figure to trust is
//! the daemon's own processor time per request: the daemon runs on core 0 and the load on core 1, but on a
//! shared machine the clock on the wall also counts what the neighbours do.

mod dns;
mod floor;
mod load;
mod registry;
mod relay;
mod subject;
mod table;
mod upgrade;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use repmd::protocol::{Response, write_names_line};
use repmd_backend_api::Creation;

use floor::Work;
use subject::{Program, Subject, as_epmd, pin};

/// Core of the daemon, and core of the load.
const DAEMON_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// The stock daemon serves nobody past 1,019 connections.
const STOCK_NAMES_MAX: usize = 900;

/// Width of the names in most measurements, in characters.
const WIDTH: usize = 12;

#[derive(Parser)]
#[command(about = "Compares EPMD daemons with the kernel's floor")]
struct Arguments {
    /// The stock daemon; left out where it is not installed
    #[arg(long, default_value = "/usr/bin/epmd")]
    stock: PathBuf,
    /// The daemon to judge
    #[arg(long, default_value = "target/release/repmd")]
    repmd: PathBuf,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// One short round, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Only these measurements
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Exit with 1 when a bar is missed
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    server: Option<Server>,
}

#[derive(Subcommand)]
enum Server {
    /// Serve as the floor (what the comparison starts for itself)
    Floor {
        port: u16,
        /// `lookup`, `names` or `hold`
        work: String,
        #[arg(default_value_t = 0)]
        names: usize,
    },
}

type Failure = Box<dyn Error>;
type Measurement = fn(&mut Bench) -> Result<(), Failure>;

fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse();
    if let Some(Server::Floor { port, work, names }) = arguments.server {
        floor::serve(port, canned(&work, names))?;
        return Ok(ExitCode::SUCCESS);
    }
    raise_open_files();
    let folder = tempfile::tempdir()?;
    let repmd = Program::Epmd(as_epmd(&arguments.repmd, folder.path())?);
    let stock = arguments.stock.exists().then(|| Program::Epmd(arguments.stock.clone()));
    let mut bench = Bench {
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        requests: if arguments.quick { 2_000 } else { 20_000 },
        names: if arguments.quick { vec![10, 900] } else { vec![10, 900, 18_000] },
        crowd: if arguments.quick { 2_000 } else { 18_000 },
        repmd,
        stock,
        next_port: 21_000 + u16::try_from(std::process::id() % 5_000)?,
        missed: 0,
    };
    println!("| what | repmd | floor | stock | bar | |\n|---|---|---|---|---|---|");
    let measurements: [(&str, Measurement); 17] = [
        ("lookup", Bench::look_ups),
        ("names", Bench::lists),
        ("churn", Bench::churn),
        ("throughput", Bench::throughput),
        ("memory", Bench::memory),
        ("slow", Bench::slow_readers),
        ("halfopen", Bench::half_open),
        ("storm", Bench::storm),
        ("start", Bench::start),
        ("upgrade", Bench::upgrades),
        ("admin", Bench::look_ups_watched),
        ("elsewhere", Bench::look_ups_elsewhere),
        ("cold", Bench::cold_look_ups),
        ("shared", Bench::registering),
        ("return", Bench::storm_with_a_store),
        ("relay", Bench::relay),
        ("dns", Bench::dns),
    ];
    for (name, measure) in measurements {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            measure(&mut bench).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    if arguments.only.is_empty() || arguments.only.iter().any(|only| only == "table") {
        println!("\n| names in the registry | register | find | release |\n|---|---|---|---|");
        table::measure(if arguments.quick { &[10, 1_000] } else { &[10, 1_000, 100_000, 1_000_000] });
    }
    Ok(if arguments.check && 0 < bench.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the floor answers: replies of the same length as the daemons'.
fn canned(work: &str, names: usize) -> Work {
    let mut reply = Vec::new();
    match work {
        "names" => {
            Response::Listing { port: 4369 }.encode(&mut reply);
            (0..names).for_each(|number| write_names_line(&mut reply, &load::name(number, WIDTH), 25672));
            Work::Reply(reply)
        }
        "hold" => {
            Response::Alive2Granted { highest_version: 6, creation: Creation::FIRST }.encode(&mut reply);
            Work::Hold(reply)
        }
        _ => {
            let node = load::node(&load::name(0, WIDTH));
            Response::PortFound { node: &node, port: 25672, extra: b"" }.encode(&mut reply);
            Work::Reply(reply)
        }
    }
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // The measurements with many nodes say it when this was not enough.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

struct Bench {
    rounds: usize,
    /// Requests of one measurement in one round.
    requests: usize,
    /// Sizes of the registry.
    names: Vec<usize>,
    /// Nodes for memory and storm.
    crowd: usize,
    repmd: Program,
    stock: Option<Program>,
    next_port: u16,
    missed: usize,
}

/// The medians of one row.
struct Row {
    repmd: f64,
    floor: Option<f64>,
    stock: Option<f64>,
}

impl Bench {
    /// Lets the daemons take turns at one measurement, and takes the medians.
    fn compare(
        &mut self,
        floor: &[&str],
        with_stock: bool,
        core: Option<usize>,
        measure: impl Fn(&Subject) -> Result<f64, Failure> + Send + Sync,
    ) -> Result<Row, Failure> {
        let floor = Program::Floor(floor.iter().map(|word| (*word).to_owned()).collect());
        let (mut floors, mut stocks, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let stock = self.stock.clone().filter(|_| with_stock);
            let turns = [
                (Some(floor.clone()), &mut floors),
                (stock, &mut stocks),
                (Some(self.repmd.clone()), &mut ours),
            ];
            for (program, figures) in turns {
                let Some(program) = program else { continue };
                let subject = Subject::start(&program, self.next_port, core)?;
                self.next_port += 1;
                // The load runs in a thread of its own, so that only it is pinned.
                let figure = std::thread::scope(|scope| {
                    let run = || {
                        if core.is_some() {
                            pin(None, LOAD_CORE).expect("the machine has two cores");
                        }
                        measure(&subject).map_err(|error| error.to_string())
                    };
                    scope.spawn(run).join().expect("the load never panics")
                });
                figures.push(figure.map_err(|error| format!("{program:?}: {error}"))?);
            }
        }
        Ok(Row {
            repmd: median(&mut ours),
            floor: Some(median(&mut floors)),
            stock: Some(stocks).filter(|s| !s.is_empty()).map(|mut s| median(&mut s)),
        })
    }

    fn print(&mut self, what: &str, row: &Row, unit: &str, bar: &str, met: bool) {
        let cell = |figure: Option<f64>| match (figure, row.floor) {
            (Some(figure), Some(floor)) if 0.0 < floor => {
                format!("{figure:.1} {unit} ({:.2} x)", figure / floor)
            }
            (Some(figure), _) => format!("{figure:.1} {unit}"),
            (None, _) => "-".to_owned(),
        };
        let floor = row.floor.map_or("-".to_owned(), |floor| format!("{floor:.1} {unit}"));
        let (ours, stock) = (cell(Some(row.repmd)), cell(row.stock));
        println!("| {what} | {ours} | {floor} | {stock} | {bar} | {} |", self.verdict(met));
    }

    /// Takes note of a bar that is missed.
    fn verdict(&mut self, met: bool) -> &'static str {
        self.missed += usize::from(!met);
        if met { "met" } else { "MISSED" }
    }

    fn look_ups(&mut self) -> Result<(), Failure> {
        for names in self.names.clone() {
            let requests = self.requests;
            let row = self.compare(&["lookup"], names <= STOCK_NAMES_MAX, Some(DAEMON_CORE), |subject| {
                let _held = register_unless_floor(subject, names, WIDTH);
                per_request(subject, requests, || load::look_up(subject.port, names, WIDTH, requests))
            })?;
            let met = row.repmd <= 1.15 * row.floor.unwrap_or(f64::MAX);
            self.print(&format!("look-up, {names} names, CPU"), &row, "us", "<= 1.15 x floor", met);
        }
        Ok(())
    }

    fn lists(&mut self) -> Result<(), Failure> {
        for names in self.names.clone() {
            let requests = self.requests * 10 / names.max(10) + 50;
            let count = names.to_string();
            let row =
                self.compare(&["names", &count], names <= STOCK_NAMES_MAX, Some(DAEMON_CORE), |subject| {
                    let _held = register_unless_floor(subject, names, WIDTH);
                    per_request(subject, requests, || load::list(subject.port, names, requests))
                })?;
            let met = names != 900 || row.repmd <= 1.5 * row.floor.unwrap_or(f64::MAX);
            let bar = if names == 900 { "<= 1.5 x floor" } else { "" };
            self.print(&format!("NAMES, {names} names, CPU"), &row, "us", bar, met);
        }
        Ok(())
    }

    fn churn(&mut self) -> Result<(), Failure> {
        for names in self.names.clone() {
            let requests = self.requests;
            let row = self.compare(&["hold"], names <= STOCK_NAMES_MAX, Some(DAEMON_CORE), |subject| {
                let _held = load::register_all(subject.port, names, WIDTH);
                per_request(subject, requests, || load::churn(subject.port, requests))
            })?;
            let met = row.repmd <= 1.3 * row.floor.unwrap_or(f64::MAX);
            self.print(&format!("register and close, {names} names, CPU"), &row, "us", "<= 1.3 x floor", met);
        }
        Ok(())
    }

    fn throughput(&mut self) -> Result<(), Failure> {
        for (names, bar) in [(10, 1.0), (900, 2.0)] {
            let requests = self.requests;
            let row = self.compare(&["lookup"], true, None, |subject| {
                let _held = register_unless_floor(subject, names, WIDTH);
                let took = load::look_up(subject.port, names, WIDTH, requests)?;
                Ok(requests as f64 / took.as_secs_f64())
            })?;
            let met = row.stock.is_none_or(|stock| bar * stock <= row.repmd);
            self.print(
                &format!("look-ups, {names} names, free cores"),
                &row,
                "/s",
                &format!(">= {bar} x stock"),
                met,
            );
        }
        Ok(())
    }

    fn memory(&mut self) -> Result<(), Failure> {
        let subject = Subject::start(&self.repmd, self.next_port, None)?;
        self.next_port += 1;
        let before = subject.resident()?;
        let (held, refused) = load::register_all(subject.port, self.crowd, WIDTH);
        let each = (subject.resident()? - before) as f64 / held.len() as f64;
        let (cpu, pause) = (subject.cpu()?, Duration::from_secs(3));
        std::thread::sleep(pause);
        let idle = 100.0 * (subject.cpu()? - cpu).as_secs_f64() / pause.as_secs_f64();
        let alone = |repmd| Row { repmd, floor: None, stock: None };
        let what = format!("memory of each of {} nodes ({refused} refused)", held.len());
        self.print(&what, &alone(each), "bytes", "<= 1536", each <= 1536.0 && refused == 0);
        self.print("idle with them", &alone(idle), "% CPU", "0 %", idle < 0.1);
        Ok(())
    }

    fn slow_readers(&mut self) -> Result<(), Failure> {
        let requests = self.requests;
        let row = self.under(requests, 900, 250, |port| load::slow_readers(port, 50))?;
        self.print(
            "look-up beside 50 readers of NAMES that never read, CPU",
            &row,
            "us",
            "unchanged (<= 1.1 x)",
            row.repmd <= 1.1 * row.floor.unwrap_or(f64::MAX),
        );
        Ok(())
    }

    fn half_open(&mut self) -> Result<(), Failure> {
        for (addresses, from) in [(1, "one address"), (5_000, "many")] {
            let requests = self.requests;
            let row = self.under(requests, 10, WIDTH, |port| load::half_open(port, 5_000, addresses))?;
            let met = row.repmd <= 1.1 * row.floor.unwrap_or(f64::MAX);
            self.print(
                &format!("look-up beside 5,000 half-open connections from {from}, CPU"),
                &row,
                "us",
                "<= 1.1 x without",
                met,
            );
        }
        Ok(())
    }

    /// Beside a daemon that nobody watches, one that is asked for its metrics each second.
    fn look_ups_watched(&mut self) -> Result<(), Failure> {
        let Program::Epmd(epmd) = self.repmd.clone() else { unreachable!("the daemon to judge is no floor") };
        let (names, requests) = (900, self.requests);
        let (mut alone, mut watched) = (Vec::new(), Vec::new());
        for round in 0..2 * self.rounds {
            let admin = self.next_port + 1;
            let (program, figures) = match round % 2 {
                0 => (self.repmd.clone(), &mut alone),
                _ => (Program::Shown { epmd: epmd.clone(), admin }, &mut watched),
            };
            let subject = Subject::start(&program, self.next_port, Some(DAEMON_CORE))?;
            self.next_port += 2;
            let _held = load::register_all(subject.port, names, WIDTH);
            let is_over = AtomicBool::new(round % 2 == 0);
            let figure = std::thread::scope(|scope| {
                let run = || {
                    pin(None, LOAD_CORE).expect("the machine has two cores");
                    let look_up = || load::look_up(subject.port, names, WIDTH, requests);
                    let figure = per_request(&subject, requests, look_up).map_err(|error| error.to_string());
                    is_over.store(true, Ordering::Relaxed);
                    figure
                };
                let load = scope.spawn(run);
                while !is_over.load(Ordering::Relaxed) {
                    load::read_metrics(admin)?;
                    std::thread::sleep(Duration::from_secs(1));
                }
                Ok::<_, Failure>(load.join().expect("the load never panics")?)
            })?;
            figures.push(figure);
        }
        let row = Row { repmd: median(&mut watched), floor: Some(median(&mut alone)), stock: None };
        let met = row.repmd <= 1.02 * row.floor.unwrap_or_default();
        let what = "look-up, metrics read each second, CPU";
        self.print(what, &row, "us", "<= 1.02 x unwatched", met);
        Ok(())
    }

    /// Look-ups of one daemon without and with a burden, which stands in the floor's column.
    fn under<T>(
        &mut self,
        requests: usize,
        names: usize,
        width: usize,
        burden: impl Fn(u16) -> std::io::Result<Vec<T>>,
    ) -> Result<Row, Failure> {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let subject = Subject::start(&self.repmd, self.next_port, Some(DAEMON_CORE))?;
            self.next_port += 1;
            let _held = load::register_all(subject.port, names, width);
            let look_up = || {
                std::thread::scope(|scope| {
                    let run = || {
                        pin(None, LOAD_CORE).expect("the machine has two cores");
                        per_request(&subject, requests, || {
                            load::look_up(subject.port, names, width, requests)
                        })
                        .map_err(|error| error.to_string())
                    };
                    scope.spawn(run).join().expect("the load never panics")
                })
            };
            without.push(look_up()?);
            let _burden = burden(subject.port)?;
            with.push(look_up()?);
        }
        Ok(Row { repmd: median(&mut with), floor: Some(median(&mut without)), stock: None })
    }

    fn storm(&mut self) -> Result<(), Failure> {
        let (mut times, mut refusals) = (Vec::new(), 0);
        for _ in 0..self.rounds {
            let port = self.next_port;
            self.next_port += 1;
            let first = Subject::start(&self.repmd, port, None)?;
            let (held, _) = load::register_all(port, self.crowd, WIDTH);
            drop(first);
            drop(held);
            let _second = Subject::start(&self.repmd, port, None)?;
            let started = Instant::now();
            let (_held, refused) = load::register_all(port, self.crowd, WIDTH);
            times.push(started.elapsed().as_secs_f64());
            refusals += refused;
        }
        let row = Row { repmd: median(&mut times), floor: None, stock: None };
        let what = format!("{} nodes back after kill -9 ({refusals} refused)", self.crowd);
        self.print(&what, &row, "s", "none refused, < 3 s", row.repmd < 3.0 && refusals == 0);
        Ok(())
    }

    fn start(&mut self) -> Result<(), Failure> {
        let mut times = Vec::new();
        for _ in 0..10 {
            times.push(Subject::start(&self.repmd, self.next_port, None)?.start_time.as_secs_f64() * 1e3);
            self.next_port += 1;
        }
        let row = Row { repmd: median(&mut times), floor: None, stock: None };
        self.print("start to listening", &row, "ms", "<= 50 ms", row.repmd <= 50.0);
        Ok(())
    }
}

/// The floor answers without names.
fn register_unless_floor(subject: &Subject, names: usize, width: usize) -> Vec<std::net::TcpStream> {
    if subject.is_floor { Vec::new() } else { load::register_all(subject.port, names, width).0 }
}

/// The daemon's processor time per request, in microseconds.
fn per_request(
    subject: &Subject,
    requests: usize,
    load: impl FnOnce() -> std::io::Result<Duration>,
) -> Result<f64, Failure> {
    per_request_by(|| subject.cpu(), requests, load)
}

/// The same by another clock of the processor.
fn per_request_by(
    cpu: impl Fn() -> std::io::Result<Duration>,
    requests: usize,
    load: impl FnOnce() -> std::io::Result<Duration>,
) -> Result<f64, Failure> {
    let before = cpu()?;
    load()?;
    Ok((cpu()? - before).as_secs_f64() * 1e6 / requests as f64)
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
