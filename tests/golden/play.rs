//! Plays one recorded exchange against a fresh daemon.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use regex::bytes::RegexBuilder;
use repmd_test_support::{Daemon, Ended, Peer, free_port};

use crate::pattern::{Kept, Pattern, show};
use crate::vector::{Check, Cli, How, Step, Vector};

/// What the machine has, and which program is tested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a Path,
    /// This machine's own IPv4 address that is not loopback.
    pub(crate) host_ip: Option<Ipv4Addr>,
    /// More environment for the daemon. `{port}`, which no other exchange of this run has, is filled in.
    pub(crate) extra_env: &'a [(&'a str, &'a str)],
}

impl Setup<'_> {
    fn is_shared(&self) -> bool {
        self.extra_env.iter().any(|(name, _)| *name == "REPMD_BACKEND")
    }
}

/// What a step found: nothing wrong, or what differs.
type Outcome = Result<(), String>;

/// Plays `vector`; the error says at which step and what differed.
pub(crate) fn play(vector: &Vector, setup: Setup<'_>) -> Outcome {
    let port = free_port();
    let mut run = Run { vector, setup, port, daemon: None, peers: BTreeMap::new(), kept: Kept::new() };
    run.start();
    run.play(&vector.steps, "")
}

#[derive(Debug)]
struct Run<'a> {
    vector: &'a Vector,
    setup: Setup<'a>,
    port: u16,
    daemon: Option<Daemon>,
    peers: BTreeMap<String, Peer>,
    kept: Kept,
}

impl Run<'_> {
    fn start(&mut self) {
        let mut command = match self.vector.rlimit_nofile {
            None => Command::new(self.setup.program),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"])
                    .arg(self.setup.program);
                shell
            }
        };
        let host_ip = self.setup.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        command.args(["-port", &self.port.to_string()]);
        command.args(self.vector.flags.iter().map(|flag| flag.replace("{HOSTIP}", &host_ip)));
        command.envs(&self.vector.env);
        for (name, value) in self.setup.extra_env {
            command.env(name, self.filled_in(value));
        }
        command.stderr(Stdio::null());
        self.daemon = Some(Daemon::spawn(command, self.port));
    }

    fn play(&mut self, steps: &[serde_json::Value], trail: &str) -> Outcome {
        for (step, number) in steps.iter().zip(1..) {
            let op = step["op"].as_str().unwrap_or("?").to_owned();
            let c = step["c"].as_str().map(|c| format!(" {c}")).unwrap_or_default();
            let step = serde_json::from_value(step.clone());
            step.map_err(|error| format!("not as in README.md: {error}"))
                .and_then(|step| self.step(step, &format!("{trail}{number}.")))
                .map_err(|error| match error.strip_prefix("step ") {
                    // Of a step inside a repeat, which has its number already.
                    Some(_) => error,
                    None => format!("step {trail}{number} ({op}{c}): {error}"),
                })?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step, trail: &str) -> Outcome {
        match step {
            Step::Open { c, to, from, count, may_fail } => {
                let names = match count {
                    None => vec![c],
                    Some(count) => (0..count).map(|index| format!("{c}{index}")).collect(),
                };
                for name in names {
                    match self.connect(to.as_deref(), from.as_deref()) {
                        Ok(peer) => drop(self.peers.insert(name, peer)),
                        Err(error) if !may_fail => return Err(error),
                        Err(_) => {}
                    }
                }
                Ok(())
            }
            Step::Refused { to } => match self.connect(Some(&to), None) {
                Ok(_) => Err(format!("{to} accepts connections")),
                Err(_) => Ok(()),
            },
            Step::Send { c, hex, pieces, gap_ms, split_every, may_fail } => {
                let patterns = pieces.or(hex.map(|hex| vec![hex])).expect("something to send");
                let mut pieces: Vec<_> = patterns.iter().map(|text| self.bytes(text)).collect();
                if let Some(size) = split_every {
                    pieces = pieces.iter().flat_map(|piece| piece.chunks(size)).map(<[u8]>::to_vec).collect();
                }
                for name in self.matching(&c) {
                    let sent = send(self.peer(&name), &pieces, Duration::from_millis(gap_ms));
                    if !may_fail {
                        sent?;
                    }
                }
                Ok(())
            }
            Step::Expect { c, hex, within_ms, one_read } => {
                let pattern = Pattern::parse(&hex);
                let data = take(
                    self.peers.get_mut(&c).expect("c is open"),
                    pattern.len(&self.kept),
                    within_ms,
                    one_read,
                )?;
                pattern.compare(&data, self.port, &mut self.kept)
            }
            Step::ExpectNames { c, names, ordered, within_ms } => {
                let rest = self.take_listing(&c, within_ms)?;
                let mut want: Vec<_> = names
                    .iter()
                    .map(|(name, port)| format!("name {name} at port {port}\n").into_bytes())
                    .collect();
                let mut got: Vec<_> = rest.split_inclusive(|byte| *byte == b'\n').collect();
                if !ordered {
                    want.sort();
                    got.sort_unstable();
                }
                let (want, got) = (want.concat(), got.concat());
                if want == got {
                    Ok(())
                } else {
                    Err(format!("names: want {}, got {}", text(&want), text(&got)))
                }
            }
            Step::ExpectRegex { c, regex, within_ms } => {
                let rest = self.take_listing(&c, within_ms)?;
                full_match(&regex, &rest)
            }
            Step::ExpectClosed { c, within_ms, not_before_ms, how } => {
                let begin = Instant::now();
                let (data, ended) = take_all(self.peer(&c), within_ms)?;
                let took = begin.elapsed();
                if !data.is_empty() {
                    return Err(format!("{} bytes before the close: {}", data.len(), show(&data)));
                }
                let how_it_was = if ended == Ended::Fin { How::Fin } else { How::Rst };
                if how.is_some_and(|how| how != how_it_was) {
                    return Err(format!("closed with {how_it_was:?}, not {how:?}"));
                }
                if took < Duration::from_millis(not_before_ms) {
                    return Err(format!("closed after {took:?}, before {not_before_ms} ms"));
                }
                Ok(())
            }
            Step::ExpectOpen { c, for_ms } => {
                let peer = self.peer(&c);
                peer.fill(Instant::now() + Duration::from_millis(for_ms));
                match (peer.received(), peer.ended()) {
                    ([], None) => Ok(()),
                    ([], Some(how)) => Err(format!("closed ({how:?}) within {for_ms} ms")),
                    (bytes, _) => Err(format!("unexpected bytes {}", show(bytes))),
                }
            }
            Step::Close { c } => {
                self.matching(&c).iter().for_each(|name| drop(self.peers.remove(name)));
                Ok(())
            }
            Step::Reset { c } => {
                self.matching(&c).iter().filter_map(|name| self.peers.remove(name)).for_each(Peer::reset);
                Ok(())
            }
            Step::ShutdownWrite { c } => {
                self.peer(&c).shutdown_write().map_err(|error| format!("cannot half-close: {error}"))
            }
            Step::Sleep { ms } => {
                sleep(Duration::from_millis(ms));
                Ok(())
            }
            Step::Await { name_hex, listed, within_ms } => {
                let line = [b"name ", &*self.bytes(&name_hex), b" at port "].concat();
                let deadline = Instant::now() + Duration::from_millis(within_ms);
                while self.lists(&line)? != listed {
                    if deadline < Instant::now() {
                        return Err(format!("{} is {}listed", text(&line), if listed { "not " } else { "" }));
                    }
                    sleep(Duration::from_millis(20));
                }
                Ok(())
            }
            Step::Check(check) => self.check(&check),
            Step::Cli(cli) => self.cli(&cli),
            Step::DaemonExits { code, within_ms } => {
                let deadline = Instant::now() + Duration::from_millis(within_ms);
                let daemon = self.daemon.as_mut().expect("the daemon was started");
                let status = loop {
                    match daemon.ended() {
                        Some(status) => break status,
                        None if deadline < Instant::now() => return Err("the daemon still runs".to_owned()),
                        None => sleep(Duration::from_millis(5)),
                    }
                };
                match status.code() {
                    Some(got) if got == code => Ok(()),
                    _ => Err(format!("the daemon ended with {status}, not {code}")),
                }
            }
            Step::DaemonRuns { ms } => {
                sleep(Duration::from_millis(ms));
                match self.daemon.as_mut().expect("the daemon was started").ended() {
                    None => Ok(()),
                    Some(status) => Err(format!("the daemon ended: {status}")),
                }
            }
            Step::RestartDaemon {} => {
                self.daemon = None;
                self.start();
                Ok(())
            }
            Step::Repeat { times, steps } => {
                let steps = steps.to_string();
                for round in 0..times {
                    let hex: String =
                        format!("{round:04}").bytes().map(|digit| format!("{digit:02x}")).collect();
                    let steps: Vec<_> = serde_json::from_str(&steps.replace("%i", &hex)).expect("still JSON");
                    self.play(&steps, trail)?;
                }
                Ok(())
            }
        }
    }

    fn connect(&self, to: Option<&str>, from: Option<&str>) -> Result<Peer, String> {
        let address = |text: &str| -> IpAddr {
            match self.setup.host_ip {
                Some(ip) if text == "{HOSTIP}" => ip.into(),
                _ => text.parse().expect("an address"),
            }
        };
        let to = SocketAddr::new(to.map_or(Ipv4Addr::LOCALHOST.into(), address), self.port);
        Peer::connect_from(from.map(address), to).map_err(|error| format!("cannot connect to {to}: {error}"))
    }

    fn peer(&mut self, c: &str) -> &mut Peer {
        self.peers.get_mut(c).unwrap_or_else(|| panic!("{c} is not open"))
    }

    fn matching(&self, c: &str) -> Vec<String> {
        match c.strip_suffix('*') {
            Some(prefix) => self.peers.keys().filter(|name| name.starts_with(prefix)).cloned().collect(),
            None => vec![c.to_owned()],
        }
    }

    fn bytes(&self, pattern: &str) -> Vec<u8> {
        Pattern::parse(pattern).bytes(self.port, &self.kept)
    }

    /// Everything until the close, without the port in front.
    fn take_listing(&mut self, c: &str, within_ms: u64) -> Result<Vec<u8>, String> {
        let port = u32::from(self.port).to_be_bytes();
        let (data, _) = take_all(self.peer(c), within_ms)?;
        match data.strip_prefix(&port) {
            Some(rest) => Ok(rest.to_vec()),
            None => Err(format!("the reply does not start with the port: {}", show(&data))),
        }
    }

    fn lists(&self, line: &[u8]) -> Result<bool, String> {
        let mut probe = self.connect(None, None)?;
        probe.send(b"\x00\x01n").map_err(|error| format!("cannot send: {error}"))?;
        let (data, _) = take_all(&mut probe, 5000)?;
        Ok(data.windows(line.len()).any(|window| window == line))
    }

    fn check(&self, check: &Check) -> Outcome {
        let number = |name: &String| self.kept[name].0;
        let value = number(&check.value);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs();
        // A shared registry counts on from the clock. What is left of "one more" is that it is higher, and that
        // those who see one of three numbers see another one.
        let counts_on = |name: &String| match check.plus {
            1.. if self.setup.is_shared() => number(name) < value,
            plus => value == number(name) + plus,
        };
        let next_of_three = |of: u64, plus: u64| match plus {
            1.. if self.setup.is_shared() => (1..=3).contains(&value) && value != of % 3 + 1,
            plus => value == (of + plus) % 3 + 1,
        };
        let holds = [
            check.equals.as_ref().is_none_or(counts_on),
            check.differs_from.as_ref().is_none_or(|name| value != number(name)),
            check.above.as_ref().is_none_or(|name| number(name) < value),
            check.next_of_three.as_ref().is_none_or(|name| next_of_three(number(name) - 1, 1)),
            check.three_of.as_ref().is_none_or(|name| next_of_three(number(name), check.plus)),
            check.min.is_none_or(|min| min <= value),
            check.max.is_none_or(|max| value <= max),
            check.near_clock_s.is_none_or(|seconds| value.abs_diff(clock) <= seconds),
        ];
        if holds == [true; 8] {
            Ok(())
        } else {
            Err(format!("{value} does not hold: {check:?}, {:?}", self.kept))
        }
    }

    fn cli(&self, cli: &Cli) -> Outcome {
        let mut command = Command::new(self.setup.program);
        command.args(["-port", &self.port.to_string()]).args(&cli.args).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("ERL_EPMD_") || name.starts_with("REPMD_") {
                command.env_remove(name);
            }
        }
        let done = command.envs(&self.vector.env).output().expect("the program starts");
        sleep(Duration::from_millis(cli.settle_ms));
        if done.status.code() != Some(cli.exit) {
            return Err(format!("{}, not {}; stderr {}", done.status, cli.exit, text(&done.stderr)));
        }
        for (stream, want, got) in
            [("stdout", &cli.stdout, &done.stdout), ("stderr", &cli.stderr, &done.stderr)]
        {
            if let Some(want) = want.as_ref().map(|want| self.filled_in(want))
                && want.as_bytes() != *got
            {
                return Err(format!("{stream}: want {want:?}, got {}", text(got)));
            }
        }
        for (regex, got) in [(&cli.stdout_regex, &done.stdout), (&cli.stderr_regex, &done.stderr)] {
            if let Some(regex) = regex {
                full_match(&self.filled_in(regex), got)?;
            }
        }
        Ok(())
    }

    fn filled_in(&self, text: &str) -> String {
        text.replace("{port}", &self.port.to_string())
    }
}

/// Sends pieces, each in a segment of its own.
fn send(peer: &mut Peer, pieces: &[Vec<u8>], gap: Duration) -> Outcome {
    for (piece, index) in pieces.iter().zip(0..) {
        if 0 < index {
            sleep(gap);
        }
        peer.send(piece).map_err(|error| format!("cannot send: {error}"))?;
    }
    Ok(())
}

fn take(peer: &mut Peer, count: usize, within_ms: u64, one_read: bool) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + Duration::from_millis(within_ms);
    while peer.received().len() < count && peer.fill(deadline) {
        if one_read && peer.received().len() < count {
            return Err(format!("the reply came in pieces; the first was {}", show(peer.received())));
        }
    }
    if peer.received().len() < count {
        let end = peer.ended().map_or(format!("nothing for {within_ms} ms"), |how| format!("{how:?}"));
        let got = peer.received();
        return Err(format!("want {count} bytes, got {} ({}), then {end}", got.len(), show(got)));
    }
    Ok(peer.take(count))
}

fn take_all(peer: &mut Peer, within_ms: u64) -> Result<(Vec<u8>, Ended), String> {
    let deadline = Instant::now() + Duration::from_millis(within_ms);
    while peer.fill(deadline) {}
    match peer.ended() {
        Some(how) => Ok((peer.take(peer.received().len()), how)),
        None => Err(format!("not closed within {within_ms} ms (got {})", show(peer.received()))),
    }
}

fn full_match(regex: &str, data: &[u8]) -> Outcome {
    let pattern = format!(r"\A(?:{regex})\z");
    let built = RegexBuilder::new(&pattern).dot_matches_new_line(true).unicode(false).octal(true).build();
    let matched = built.expect("the recording's expressions are valid").is_match(data);
    if matched { Ok(()) } else { Err(format!("want a match of {regex:?}, got {}", text(data))) }
}

/// Output for people, cut where it gets long.
fn text(data: &[u8]) -> String {
    format!("\"{}\"", data[..data.len().min(600)].escape_ascii())
}
