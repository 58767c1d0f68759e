//! What an answer by DNS costs, and what a flood of questions costs look-ups.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use crate::load;
use crate::subject::{Program, Subject, pin};
use crate::{Bench, DAEMON_CORE, Failure, LOAD_CORE, Row, WIDTH, median, per_request, per_request_by};

/// Questions under way at once.
const WINDOW: usize = 32;

/// Names of the look-ups that are compared.
const NAMES: usize = 10;

/// The flood, in questions a second.
const FLOOD: f64 = 20_000.0;

impl Bench {
    pub(crate) fn dns(&mut self) -> Result<(), Failure> {
        let Program::Epmd(epmd) = self.repmd.clone() else { unreachable!("the daemon to judge is no floor") };
        let requests = 10 * self.requests;
        let (mut answers, mut look_ups) = (vec![], vec![]);
        let (mut unflooded, mut flooded, mut slowest) = (vec![], vec![], vec![]);
        for _ in 0..self.rounds {
            let port = self.next_port;
            self.next_port += 2;
            let program = Program::Named { epmd: epmd.clone(), dns: port + 1 };
            let subject = Subject::start(&program, port, Some(DAEMON_CORE))?;
            let _held = load::register_all(port, NAMES, WIDTH);
            let questions = Questions::new(port + 1)?;
            let look_ups_count = self.requests;
            let (answer, look_up, alone) = std::thread::scope(|scope| {
                let run = || {
                    pin(None, LOAD_CORE).expect("the machine has two cores");
                    let answer = per_request(&subject, requests, || questions.ask(requests))
                        .map_err(|error| error.to_string())?;
                    let look_up = of_the_wire(&subject, look_ups_count, || {
                        load::look_up(port, NAMES, WIDTH, look_ups_count)
                    })
                    .map_err(|error| error.to_string())?;
                    let (alone, _) = one_by_one(&subject, look_ups_count);
                    Ok::<_, String>((answer, look_up, alone?))
                };
                scope.spawn(run).join().expect("the load never panics")
            })?;
            answers.push(answer);
            look_ups.push(look_up);
            unflooded.push(alone);

            let is_over = AtomicBool::new(false);
            let (under, p99) = std::thread::scope(|scope| {
                scope.spawn(|| {
                    pin(None, LOAD_CORE).expect("the machine has two cores");
                    questions.flood(&is_over).expect("loopback takes questions");
                });
                let run = || one_by_one(&subject, look_ups_count);
                let (under, p99) = scope.spawn(run).join().expect("the load never panics");
                is_over.store(true, Ordering::Relaxed);
                Ok::<_, String>((under?, p99))
            })?;
            flooded.push(under);
            slowest.push(p99);
        }
        let (answer, look_up) = (median(&mut answers), median(&mut look_ups));
        let row = Row { repmd: answer, floor: Some(look_up), stock: None };
        self.print("answer by DNS, CPU", &row, "us", "<= 1.5 x look-up", answer <= 1.5 * look_up);
        let rate = 1e6 / answer;
        let row = Row { repmd: rate, floor: None, stock: None };
        self.print("answers by DNS on one core", &row, "/s", ">= 50,000/s", 50_000.0 <= rate);
        let (flooded, unflooded) = (median(&mut flooded), median(&mut unflooded));
        let row = Row { repmd: flooded, floor: Some(unflooded), stock: None };
        let what = "look-up, 20,000 questions/s by DNS, CPU of the wire";
        self.print(what, &row, "us", "<= 1.1 x without", flooded <= 1.1 * unflooded);
        let slowest = median(&mut slowest);
        let row = Row { repmd: slowest, floor: None, stock: None };
        self.print("the same, p99", &row, "ms", "< 5 ms", slowest < 5.0);
        Ok(())
    }
}

/// Processor time of the daemon's first thread, which serves the wire, for one request.
fn of_the_wire(
    subject: &Subject,
    requests: usize,
    load: impl FnOnce() -> io::Result<Duration>,
) -> Result<f64, Failure> {
    per_request_by(|| subject.cpu_of_the_wire(), requests, load)
}

/// Processor time of the wire for one of so many look-ups, one after the other; and the time in milliseconds below which
/// 99 of 100 are answered.
fn one_by_one(subject: &Subject, count: usize) -> (Result<f64, String>, f64) {
    pin(None, LOAD_CORE).expect("the machine has two cores");
    let mut times = Vec::with_capacity(count);
    let cost = of_the_wire(subject, count, || {
        let begin = Instant::now();
        for number in 0..count {
            let one = Instant::now();
            load::look_up_one(subject.port, number, &load::name(number % NAMES, WIDTH))?;
            times.push(one.elapsed().as_secs_f64() * 1e3);
        }
        Ok(begin.elapsed())
    });
    times.sort_by(f64::total_cmp);
    let p99 = times.get(count * 99 / 100).copied().unwrap_or(f64::INFINITY);
    (cost.map_err(|error| error.to_string()), p99)
}

/// Asks for the addresses of nodes.
struct Questions {
    socket: UdpSocket,
    packets: Vec<Vec<u8>>,
}

impl Questions {
    fn new(dns: u16) -> Result<Self, Failure> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(("127.0.0.1", dns))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let packet = |number| {
            let mut message = Message::query();
            let name = Name::from_ascii(format!("{}.nodes.repmd.", load::name(number, WIDTH)))?;
            message.add_query(Query::query(name, RecordType::A));
            Ok(message.to_vec()?)
        };
        Ok(Self { socket, packets: (0..NAMES).map(packet).collect::<Result<_, Failure>>()? })
    }

    /// Asks so many, some at once, and checks a part of the answers.
    fn ask(&self, count: usize) -> io::Result<Duration> {
        let begin = Instant::now();
        let mut reply = [0; 2048];
        let (mut sent, mut received) = (0, 0);
        while received < count {
            while sent < count && sent < received + WINDOW {
                self.socket.send(&self.packets[sent % NAMES])?;
                sent += 1;
            }
            match self.socket.recv(&mut reply) {
                Ok(length) if received % 1000 == 0 => {
                    let message = Message::from_vec(&reply[..length]).map_err(io::Error::other)?;
                    let is_right =
                        message.metadata.response_code == ResponseCode::NoError && message.answers.len() == 1;
                    if !is_right {
                        return Err(io::Error::other(format!("{message}")));
                    }
                    received += 1;
                }
                Ok(_) => received += 1,
                // Lost on the way.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => received = sent,
                Err(error) => return Err(error),
            }
        }
        Ok(begin.elapsed())
    }

    /// Asks at the rate of [`FLOOD`], and leaves the answers unread.
    fn flood(&self, is_over: &AtomicBool) -> io::Result<()> {
        let begin = Instant::now();
        let mut asked = 0;
        while !is_over.load(Ordering::Relaxed) {
            let due = (begin.elapsed().as_secs_f64() * FLOOD) as usize;
            while asked < due {
                asked += 1;
                match self.socket.send(&self.packets[asked % NAMES]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}
