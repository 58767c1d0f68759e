//! What a registry that daemons share costs them: beside a daemon with a registry of its own.

use std::time::Instant;

use repmd_test_stores::Store;

use crate::subject::{Program, Subject, pin};
use crate::{Bench, DAEMON_CORE, Failure, LOAD_CORE, Row, WIDTH, load, median, per_request};

/// Few, so that the answers stay warm: each is asked for again once a second.
const NAMES: usize = 10;

/// Names elsewhere have another width, and so are others.
const ELSEWHERE: usize = WIDTH + 1;

/// Nodes that come back at once.
const STORM: usize = 10_000;

/// Each figure's floor is the same without a store, or without another daemon.
impl Bench {
    fn shared(&self, store: &Store, host: &str) -> Program {
        let Program::Epmd(path) = &self.repmd else { unreachable!("the daemon to judge is no floor") };
        Program::Shared { epmd: path.clone(), url: store.url(), host: host.to_owned() }
    }

    fn start_at_next_port(&mut self, program: &Program, core: Option<usize>) -> Result<Subject, Failure> {
        self.next_port += 1;
        Ok(Subject::start(program, self.next_port - 1, core)?)
    }

    pub(crate) fn look_ups_elsewhere(&mut self) -> Result<(), Failure> {
        let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
        let requests = self.requests;
        for _ in 0..self.rounds {
            let store = Store::redis();
            let asked = self.start_at_next_port(&self.shared(&store, "here"), Some(DAEMON_CORE))?;
            let other = self.start_at_next_port(&self.shared(&store, "elsewhere"), Some(LOAD_CORE))?;
            let _nodes = [
                load::register_all(asked.port, NAMES, WIDTH),
                load::register_all(other.port, NAMES, ELSEWHERE),
            ];
            for (width, figures) in [(WIDTH, &mut here), (ELSEWHERE, &mut elsewhere)] {
                let look_up = || {
                    pin(None, LOAD_CORE).expect("the machine has two cores");
                    per_request(&asked, requests, || load::look_up(asked.port, NAMES, width, requests))
                        .map_err(|error| error.to_string())
                };
                let figure = std::thread::scope(|scope| scope.spawn(look_up).join());
                figures.push(figure.expect("the load never panics")?);
            }
        }
        let row = Row { repmd: median(&mut elsewhere), floor: Some(median(&mut here)), stock: None };
        let met = row.repmd <= 1.15 * row.floor.unwrap_or_default();
        self.print("look-up of a name elsewhere, warm, CPU", &row, "us", "<= 1.15 x of one here", met);
        Ok(())
    }

    /// Each name for the first time, one after the other.
    pub(crate) fn cold_look_ups(&mut self) -> Result<(), Failure> {
        let names = self.requests / 10;
        let store = Store::redis();
        let asked = self.start_at_next_port(&self.shared(&store, "here"), None)?;
        let other = self.start_at_next_port(&self.shared(&store, "elsewhere"), None)?;
        let _nodes =
            [load::register_all(asked.port, names, WIDTH), load::register_all(other.port, names, ELSEWHERE)];
        let slow = |width| -> Result<f64, Failure> {
            let mut times = Vec::with_capacity(names);
            for number in 0..names {
                let started = Instant::now();
                load::look_up_one(asked.port, number, &load::name(number, width))?;
                times.push(started.elapsed().as_secs_f64() * 1e3);
            }
            times.sort_unstable_by(f64::total_cmp);
            Ok(times[times.len() * 99 / 100])
        };
        let row = Row { floor: Some(slow(WIDTH)?), repmd: slow(ELSEWHERE)?, stock: None };
        self.print("the same, cold, p99", &row, "ms", "< 5 ms", row.repmd < 5.0);
        Ok(())
    }

    /// One node after the other. That it is one round trip shows in what the store has counted.
    pub(crate) fn registering(&mut self) -> Result<(), Failure> {
        let names = self.requests / 10;
        let store = Store::redis();
        let (alone, shared) = (self.repmd.clone(), self.shared(&store, "here"));
        let (floor, _) = self.register_one_by_one(&alone, names, &store)?;
        let (repmd, calls) = self.register_one_by_one(&shared, names, &store)?;
        let row = Row { repmd, floor: Some(floor), stock: None };
        let each = calls as f64 / names as f64;
        let what = format!("registering with a store, {each:.2} calls of it each");
        // The daemon's own renewals are among them.
        self.print(&what, &row, "us", "one round trip more", each < 1.1);
        Ok(())
    }

    /// The median time in microseconds, and how often the store was called.
    fn register_one_by_one(
        &mut self,
        program: &Program,
        names: usize,
        store: &Store,
    ) -> Result<(f64, u64), Failure> {
        let subject = self.start_at_next_port(program, None)?;
        let before = scripts_run(store);
        let (mut times, mut nodes) = (Vec::with_capacity(names), Vec::with_capacity(names));
        for number in 0..names {
            let started = Instant::now();
            nodes.push(load::register(subject.port, number, &load::name(number, WIDTH))?);
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        Ok((median(&mut times), scripts_run(store) - before))
    }

    pub(crate) fn storm_with_a_store(&mut self) -> Result<(), Failure> {
        let (mut times, mut refusals) = (Vec::new(), 0);
        for _ in 0..self.rounds {
            let store = Store::redis();
            let program = self.shared(&store, "here");
            let first = self.start_at_next_port(&program, None)?;
            let (held, _) = load::register_all(first.port, STORM, WIDTH);
            let port = first.port;
            drop(first);
            drop(held);
            let _second = Subject::start(&program, port, None)?;
            let started = Instant::now();
            let (_held, refused) = load::register_all(port, STORM, WIDTH);
            times.push(started.elapsed().as_secs_f64());
            refusals += refused;
        }
        let row = Row { repmd: median(&mut times), floor: None, stock: None };
        let what = format!("{STORM} nodes back after kill -9, with a store ({refusals} refused)");
        self.print(&what, &row, "s", "none refused, < 5 s", row.repmd < 5.0 && refusals == 0);
        Ok(())
    }
}

/// How many scripts the store has run so far.
fn scripts_run(store: &Store) -> u64 {
    let statistics: String = store.query("", &["INFO", "commandstats"]);
    let calls = statistics.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.and_then(|calls| calls.split(',').next()?.parse().ok()).unwrap_or_default()
}
