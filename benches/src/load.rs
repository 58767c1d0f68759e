//! What clients do to a daemon: blocking threads, one connection a request.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use repmd::protocol::{Request, decode_alive2_reply, decode_names_reply, decode_port_reply, encode_request};
use repmd_backend_api::{AliveName, Node};
use socket2::{Domain, Socket, Type};

/// Clients at once.
pub(crate) const CLIENTS: usize = 16;

/// Connects from one of many loopback addresses, so that ports do not run out.
pub(crate) fn connect(port: u16, number: usize) -> io::Result<TcpStream> {
    let source = Ipv4Addr::new(127, 0, (1 + number / 250 % 200) as u8, (1 + number % 250) as u8);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&SocketAddr::from((IpAddr::from(Ipv4Addr::LOCALHOST), port)).into())?;
    Ok(socket.into())
}

fn ask(port: u16, number: usize, request: &[u8], reply: &mut Vec<u8>) -> io::Result<()> {
    let mut stream = connect(port, number)?;
    stream.write_all(request)?;
    reply.clear();
    stream.read_to_end(reply)?;
    Ok(())
}

/// The name of node `number`, padded to `width` characters.
pub(crate) fn name(number: usize, width: usize) -> String {
    format!("node{number:0width$}", width = width.saturating_sub(4))
}

/// What an ordinary node says of itself.
pub(crate) fn node(name: &str) -> Node {
    Node::ordinary(AliveName::parse(name.as_bytes()).expect("the names of this load are names"), 25672)
}

/// Registers one node; the connection is the registration. `None`: refused.
pub(crate) fn register(port: u16, number: usize, name: &str) -> io::Result<Option<TcpStream>> {
    let mut stream = connect(port, number)?;
    stream.write_all(&encode_request(&Request::Alive2(node(name))))?;
    let mut reply = [0; 6];
    stream.read_exact(&mut reply)?;
    let creation = decode_alive2_reply(&reply).map_err(io::Error::other)?;
    Ok(creation.map(|_| stream))
}

/// Registers nodes 0 to `count` by many clients at once, each trying until it is registered, as nodes do
/// after a restart. Returns the connections and how many tries were refused.
pub(crate) fn register_all(port: u16, count: usize, width: usize) -> (Vec<TcpStream>, usize) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            std::thread::spawn(move || {
                let (mut held, mut refused) = (Vec::new(), 0);
                for number in (client..count).step_by(CLIENTS) {
                    loop {
                        match register(port, number, &name(number, width)) {
                            Ok(Some(stream)) => break held.push(stream),
                            Ok(None) => refused += 1,
                            Err(_) => std::thread::sleep(Duration::from_millis(1)),
                        }
                    }
                }
                (held, refused)
            })
        })
        .collect();
    let (mut held, mut refused) = (Vec::new(), 0);
    for client in clients {
        let (streams, refusals) = client.join().expect("a client of the load never panics");
        held.extend(streams);
        refused += refusals;
    }
    (held, refused)
}

/// Has all clients together do something `count` times; returns how long it took in all.
fn repeat(count: usize, act: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<Duration> {
    let started = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let act = &act;
                scope.spawn(move || (client..count).step_by(CLIENTS).try_for_each(act))
            })
            .collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client of the load never panics"))
    })?;
    Ok(started.elapsed())
}

/// Looks registered names up, all over the table.
pub(crate) fn look_up(port: u16, names: usize, width: usize, count: usize) -> io::Result<Duration> {
    let requests: Vec<_> = (0..names.min(1000))
        .map(|number| encode_request(&Request::PortPlease2(&name(number * names / names.min(1000), width))))
        .collect();
    repeat(count, |number| {
        let mut reply = Vec::with_capacity(300);
        ask(port, number, &requests[number * 7919 % requests.len()], &mut reply)?;
        match decode_port_reply(&reply) {
            Ok(Some(_)) => Ok(()),
            other => Err(io::Error::other(format!("look-up answered {other:?}"))),
        }
    })
}

/// Looks one name up.
pub(crate) fn look_up_one(port: u16, number: usize, name: &str) -> io::Result<()> {
    let mut reply = Vec::with_capacity(300);
    ask(port, number, &encode_request(&Request::PortPlease2(name)), &mut reply)?;
    match decode_port_reply(&reply) {
        Ok(Some(_)) => Ok(()),
        other => Err(io::Error::other(format!("look-up of {name} answered {other:?}"))),
    }
}

/// Lists all names.
pub(crate) fn list(port: u16, names: usize, count: usize) -> io::Result<Duration> {
    let request = encode_request(&Request::Names);
    repeat(count, |number| {
        let mut reply = Vec::with_capacity(64 * names);
        ask(port, number, &request, &mut reply)?;
        let listed = decode_names_reply(&reply).map_err(io::Error::other)?.nodes().count();
        if listed == names { Ok(()) } else { Err(io::Error::other(format!("NAMES listed {listed}"))) }
    })
}

/// Registers and closes, each client its own name again and again.
pub(crate) fn churn(port: u16, count: usize) -> io::Result<Duration> {
    repeat(count, |number| {
        // A name of its own each time: whether the daemon has read the last end is not what this measures.
        match register(port, number, &format!("churn{number}"))? {
            Some(_) => Ok(()),
            None => Err(io::Error::other("refused")),
        }
    })
}

/// Reads the metrics of a daemon, once.
pub(crate) fn read_metrics(admin: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", admin))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    if reply.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(io::Error::other(reply)) }
}

/// Opens connections that send one byte and no more, from one address or from many.
pub(crate) fn half_open(port: u16, count: usize, addresses: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|number| {
            let mut stream = connect(port, number % addresses)?;
            stream.write_all(&[0])?;
            Ok(stream)
        })
        .collect()
}

/// Asks for all names with a small window, and reads nothing.
pub(crate) fn slow_readers(port: u16, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_recv_buffer_size(1024)?;
            socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
            let mut stream = TcpStream::from(socket);
            stream.write_all(&encode_request(&Request::Names))?;
            Ok(stream)
        })
        .collect()
}
