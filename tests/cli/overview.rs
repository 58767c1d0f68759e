//! The commands that ask a daemon's admin API.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use repmd::cli::doctor::{KINDS, Severity};
use repmd_test_support::{Daemon, Peer, free_port, wait_until};
use serde_json::Value;

use crate::{Done, SOON, done, register, repmd};

/// A daemon with an admin API, and the flag that leads to it.
fn serve(flags: &[&str]) -> (Daemon, String) {
    serve_as(None, flags)
}

/// The same of a user.
fn serve_as(user: Option<u32>, flags: &[&str]) -> (Daemon, String) {
    let (port, admin) = (free_port().to_string(), format!("127.0.0.1:{}", free_port()));
    let mut command = repmd(["serve", "--port", &port, "--host", "here", "--advertise", "10.0.0.1"]);
    command.args(["--admin", &admin]).args(flags).stderr(Stdio::null());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let daemon = Daemon::spawn(command, port.parse().unwrap());
    wait_until("its API answers", SOON, || std::net::TcpStream::connect(&admin).is_ok());
    (daemon, admin)
}

#[test]
fn nodes_are_a_table_or_json() {
    let (daemon, admin) = serve(&[]);
    let _nodes = [register(daemon.port(), "rabbit"), register(daemon.port(), "a b")];
    let table = done(&mut repmd(["nodes", "--admin", &admin]));
    assert_eq!((table.exit, &*table.stderr), (0, ""));
    let lines: Vec<Vec<&str>> = table.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NODE", "PORT", "ADDRESS", "TYPE", "ALIVE", "DAEMON", "LEASE", "STATE"]);
    assert_eq!(lines[1][..6], ["a", "b@here", "4321", "10.0.0.1", "normal", lines[1][5]], "{}", table.stdout);
    assert_eq!((lines[2][0], &lines[2][6..]), ("rabbit@here", &["-", "published"][..]));
    for (host, count) in [("here", 2), ("elsewhere", 0)] {
        let json = done(&mut repmd(["nodes", "--admin", &admin, "--json", "--host", host]));
        let list: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!((json.exit, list["nodes"].as_array().unwrap().len()), (0, count), "{host}");
    }
    let none = done(&mut repmd(["nodes", "--admin", &admin, "--host", "elsewhere"]));
    assert_eq!(none, Done::new(0, "no nodes\n", ""));
}

#[test]
fn links_of_nodes_that_have_none_are_said_to_be_none() {
    let (daemon, admin) = serve(&[]);
    let _node = register(daemon.port(), "rabbit");
    let text = done(&mut repmd(["links", "--admin", &admin]));
    assert!(text.exit == 0 && text.stdout.starts_with("no links\n"), "{text:?}");
    let json = done(&mut repmd(["links", "--admin", &admin, "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["links"], Value::Array(vec![]));
}

#[test]
fn a_lookup_says_where_its_answer_is_from() {
    let (daemon, admin) = serve(&["--instance-name", "one"]);
    let _node = register(daemon.port(), "n");
    let port = daemon.port().to_string();
    let flags = ["--port", &port, "--admin", &admin];
    let text = "n: port 4321, normal node, versions 5 to 6\n  from this daemon, held by one\n";
    assert_eq!(done(repmd(["lookup", "n"]).args(flags)), Done::new(0, text, ""));
    let json: Value =
        serde_json::from_str(&done(repmd(["lookup", "n@here", "--json"]).args(flags)).stdout).unwrap();
    assert_eq!(
        (&json["from"], &json["node"], &json["port"]),
        (&"here".into(), &"n@here".into(), &4321.into())
    );
    let missing = done(repmd(["lookup", "m", "--json"]).args(flags));
    assert_eq!(missing.exit, 1);
    assert_eq!(serde_json::from_str::<Value>(&missing.stdout).unwrap()["is_found"], false);
    // By the wire alone, whoever answers.
    let wire = Done::new(0, "n: port 4321, normal node, versions 5 to 6\n", "");
    assert_eq!(done(repmd(["lookup", "n", "--at", "127.0.0.1"]).args(flags)), wire);
}

/// The lines of a command that goes on; killed on drop.
struct Following(Child, BufReader<ChildStdout>);

impl Following {
    fn start(arguments: &[&str]) -> Self {
        let mut child = repmd(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.1.read_line(&mut line).unwrap(), 0, "{:?} ended", self.0);
        line
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Registers names until the follower, which may still be on its way, tells of one.
///
/// It may come between a registration and its release, so that the release is the first that it tells.
fn until_told(daemon: &Daemon, follow: &mut Following) -> String {
    std::thread::scope(|scope| {
        let told =
            scope.spawn(|| std::iter::repeat_with(|| follow.line()).find(|line| line.contains("registered")));
        for number in 0.. {
            drop(register(daemon.port(), &format!("n{number}")));
            if told.is_finished() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        told.join().unwrap().unwrap()
    })
}

#[test]
fn events_are_told_as_they_happen_also_by_the_next_daemon() {
    let (daemon, admin) = serve(&[]);
    let mut text = Following::start(&["events", "--admin", &admin]);
    let line = until_told(&daemon, &mut text);
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    assert!(words[0] == "registered" && words[2..] == ["port", "4321"], "{line}");
    let mut json = Following::start(&["events", "--json", "--admin", &admin]);
    let event: Value = serde_json::from_str(&until_told(&daemon, &mut json)).unwrap();
    assert_eq!((&event["event"], &event["port"]), (&"registered".into(), &4321.into()));

    let port = daemon.port();
    drop(daemon);
    let mut command = repmd(["serve", "--port", &port.to_string(), "--host", "here", "--admin", &admin]);
    let next = Daemon::spawn(
        {
            command.stderr(Stdio::null());
            command
        },
        port,
    );
    let _node = register(next.port(), "next");
    while !json.line().contains("next@here") {}
}

#[test]
fn a_watched_table_is_shown_again_when_it_changes() {
    let (daemon, admin) = serve(&[]);
    let mut watch = Following::start(&["nodes", "--watch", "--admin", &admin]);
    assert_eq!(watch.line(), "no nodes\n");
    let _node = register(daemon.port(), "n");
    assert!(watch.line().starts_with("NODE"));
    assert!(watch.line().starts_with("n@here"));
}

/// Two registered nodes of which one can dial the other, as this process.
struct Linked {
    _nodes: Vec<Peer>,
    listener: TcpListener,
}

impl Linked {
    fn register(daemon: &Daemon) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = |name: &str, port: u16| Peer::registered_at(daemon.port(), name, port);
        Self { _nodes: vec![at("hare", free_port()), at("rabbit", port)], listener }
    }

    fn link(&self) -> [TcpStream; 2] {
        let dialled = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        [dialled, self.listener.accept().unwrap().0]
    }
}

#[test]
fn links_are_watched_and_a_line_tells_each_that_comes_and_goes() {
    let (daemon, admin) = serve(&[]);
    let nodes = Linked::register(&daemon);
    let first = nodes.link();
    wait_until("the link is seen", SOON, || {
        done(&mut repmd(["links", "--admin", &admin])).stdout.contains("hare@here  rabbit@here")
    });
    let mut text = Following::start(&["links", "--watch", "--admin", &admin]);
    assert!(text.line().starts_with("FROM "));
    assert!(text.line().starts_with("hare@here  rabbit@here "));
    let mut json = Following::start(&["links", "--watch", "--json", "--admin", &admin]);
    let mut change = || {
        let line: Value = serde_json::from_str(&json.line()).unwrap();
        assert_eq!((&line["node"], &line["peer"]), (&"hare@here".into(), &"rabbit@here".into()));
        line["change"].as_str().unwrap().to_owned()
    };
    assert_eq!(change(), "up");
    let words = |line: &str| line.split(' ').skip(1).collect::<Vec<_>>().join(" ");
    drop(first);
    assert_eq!((change(), &*words(&text.line())), ("gone".to_owned(), "gone hare@here - rabbit@here\n"));
    let _second = nodes.link();
    assert_eq!((change(), &*words(&text.line())), ("up".to_owned(), "up hare@here - rabbit@here\n"));
    // Ctrl-C is the default end of a program.
    let pid = rustix::process::Pid::from_child(&text.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = text.0.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(2));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut text.1, &mut rest).unwrap();
    assert_eq!(rest, "");
}

/// Who started the tests is such a user, or root, who can start others as one.
#[test]
fn an_ordinary_user_without_capabilities_sees_links_and_tells_the_nodes_of_users_apart() {
    let user = |number| rustix::process::geteuid().is_root().then_some(number);
    let (daemon, admin) = serve_as(user(65_001), &[]);
    assert_eq!(daemon.proc_status("CapEff"), "0000000000000000");
    let nodes = Linked::register(&daemon);
    // One of another user, who may have dialled as well if users were not told apart: nobody sees its process.
    let mut other = repmd(["register", "owl", "4321", "--port", &daemon.port().to_string()]);
    if let Some(user) = user(65_002) {
        other.uid(user).gid(user);
    }
    let mut other = other.stdout(Stdio::null()).spawn().unwrap();
    let _link = nodes.link();
    let links = || -> Value {
        serde_json::from_str(&done(&mut repmd(["links", "--json", "--admin", &admin])).stdout).unwrap()
    };
    // A link that is just being made may show one end before the other.
    wait_until("the link is seen from both ends", SOON, || {
        let list = links();
        list["nodes_total"] == 3 && list["links"][0]["seen_by"] == serde_json::json!(["from", "to"])
    });
    let list = links();
    let link = &list["links"][0];
    assert_eq!(list["links_total"], 1);
    assert_eq!((&list["source"], &list["trouble"]), (&"netlink".into(), &Value::Null));
    assert_eq!((&link["from"], &link["to"]), (&"hare@here".into(), &"rabbit@here".into()), "{link}");
    assert!(
        link["rtt_us"].is_u64()
            && list["nodes"].as_array().unwrap().iter().all(|node| node["unseen"].is_null())
    );
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn whatever_goes_on_without_an_end_ends_with_its_reader() {
    let (_daemon, admin) = serve(&[]);
    for command in
        [&["links", "--watch"][..], &["links", "--watch", "--json"], &["nodes", "--watch"], &["events"]]
    {
        let mut child = repmd(command).args(["--admin", &admin]).stdout(Stdio::piped()).spawn().unwrap();
        // It has nothing to say, and says nothing.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(child.try_wait().unwrap(), None, "{command:?}");
        drop(child.stdout.take());
        wait_until("it ends", SOON, || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{command:?}");
    }
}

#[test]
fn an_api_that_cannot_be_asked_is_named_with_what_would_help() {
    let token = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let (good, bad) = (token("0123456789abcdef"), token("fedcba9876543210"));
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    let (_daemon, admin) = serve(&["--admin-token-file", &path(&good)]);
    let nowhere = format!("127.0.0.1:{}", free_port());
    let alien = TcpListener::bind("127.0.0.1:0").unwrap();
    let alien_at = alien.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in alien.incoming() {
            let mut stream = stream.unwrap();
            // What came is read first: a reset would reach the asker before the words.
            let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    let said_of_none = format!("no admin API at {nowhere}: Connection refused; without --admin the daemon");
    let cases = [
        (vec!["--admin", "off"], "the settings say that the admin API is off".to_owned()),
        (vec!["--admin", &nowhere], said_of_none),
        (vec!["--admin", &admin], format!("the admin API at {admin} wants a token: ")),
        (vec!["--admin", &alien_at], format!("what listens at {alien_at} is no admin API: ")),
    ];
    for command in ["nodes", "links", "events"] {
        for (flags, said) in &cases {
            let result = done(repmd([command]).args(flags));
            assert_eq!((result.exit, &*result.stdout), (2, ""), "{command} {flags:?}");
            assert!(result.stderr.starts_with(&format!("repmd: {said}")), "{command}: {}", result.stderr);
        }
        let wrong = done(&mut repmd([command, "--admin", &admin, "--admin-token-file", &path(&bad)]));
        let said = format!("repmd: the admin API at {admin} takes another token");
        assert!(wrong.exit == 2 && wrong.stderr.starts_with(&said), "{}", wrong.stderr);
    }
    let right =
        repmd(["nodes"]).args(["--admin", &admin, "--admin-token-file", &path(&good)]).output().unwrap();
    assert!(right.status.success());
}

/// A peer that answers each request for `path` with the next of these bodies, and the last for ever.
fn answers(bodies: &'static [&'static str]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
            let number = count.fetch_add(1, Ordering::Relaxed).min(bodies.len() - 1);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{}", bodies[number]);
        }
    });
    (address, asked)
}

#[test]
fn nothing_that_another_program_answers_in_the_daemons_place_crashes_a_command_or_holds_it_for_ever() {
    for bodies in [&["[]"][..], &["7"], &[r#"{"nodes":[],"next":"x"}"#, "[]"], &[r#"{"nodes":7,"next":"x"}"#]]
    {
        let (admin, _) = answers(bodies);
        let result = done(&mut repmd(["nodes", "--admin", &admin]));
        let said = format!("repmd: what listens at {admin} is no admin API: ");
        assert!(result.exit == 2 && result.stderr.starts_with(&said), "{bodies:?}: {}", result.stderr);
    }
    let (admin, _) = answers(&["id: 1\nevent: x\ndata: []\n\n"]);
    let result = done(&mut repmd(["events", "--admin", &admin]));
    assert!(result.exit == 2 && result.stderr.starts_with("repmd: "), "{}", result.stderr);
    // An id that no header can hold is not sent back.
    let (admin, asked) = answers(&["id: \u{1}\nevent: x\ndata: {}\n\n"]);
    let _events = Following::start(&["events", "--admin", &admin]);
    wait_until("it has asked again", SOON, || 3 <= asked.load(Ordering::Relaxed));
}

#[test]
fn everything_that_the_doctor_finds_is_documented_with_its_fix_and_nothing_else() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/doctor.md")).unwrap();
    let (own, of_stores) = page.split_once("\n## Redis and Valkey\n").unwrap();
    let (of_redis, of_others) = of_stores.split_once("\n## PostgreSQL\n").unwrap();
    let (of_postgres, of_etcd) = of_others.split_once("\n## etcd\n").unwrap();
    fn rows(page: &str) -> Vec<(&str, &str, &str)> {
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| {
            let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
            let [id, severity, means, fix] = cells[..] else { panic!("{row}") };
            assert!(means.ends_with('.'), "{row}");
            (id.trim_end_matches('`'), severity, fix)
        });
        rows.collect()
    }
    let kinds = KINDS.iter().map(|kind| (kind.id, kind.severity.word(), &*kind.fix));
    assert_eq!(rows(own), kinds.collect::<Vec<_>>());
    for (page, troubles) in [
        (of_redis, repmd_backend_redis::TROUBLES),
        (of_postgres, repmd_backend_postgres::TROUBLES),
        (of_etcd, repmd_backend_etcd::TROUBLES),
    ] {
        let troubles =
            troubles.iter().map(|trouble| (trouble.id, Severity::from(trouble.severity).word(), trouble.fix));
        assert_eq!(rows(page), troubles.collect::<Vec<_>>());
    }
}
