//! Log lines: for people, for collectors, for journald, and for those who ask later who did what.

use std::fs::{File, read_to_string};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use repmd_test_support::{Daemon, Peer, epmd_program, free_port, lookup_port, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{SOON, done, register, repmd};

/// Runs a daemon with its log in a file while `act` does something to it at its port, then stops it.
fn with_log(flags: &[&str], stream: impl Fn(&File) -> Option<String>, act: impl FnOnce(u16)) -> String {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let log = File::create(&path).unwrap();
    let port = free_port();
    let mut command = repmd(["serve", "--admin", "off", "--port", &port.to_string()].iter().chain(flags));
    command.env_remove("JOURNAL_STREAM");
    command.envs(stream(&log).map(|stream| ("JOURNAL_STREAM", stream)));
    command.stderr(log);
    let mut daemon = Daemon::spawn(command, port);
    act(port);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(SOON).code(), Some(0));
    read_to_string(path).unwrap()
}

/// Asks, and waits for the daemon's end of the connection.
fn ask(port: u16, request: &[u8]) {
    let mut peer = Peer::connect(port);
    peer.send(request).unwrap();
    peer.read(100, SOON);
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_log_in_json_has_an_object_a_line() {
    let flags = ["--log-format", "json", "--log", "repmd=debug"];
    let log = objects(&with_log(&flags, |_| None, |port| drop(register(port, "n"))));
    let registered = log.iter().find(|line| line["message"] == "registered").unwrap();
    assert_eq!((&registered["name"], &registered["level"]), (&"n".into(), &"INFO".into()));
}

#[test]
fn an_audit_log_says_who_did_what_from_where_whatever_else_is_logged() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.log");
    std::fs::write(&path, "{\"from\":\"before\"}\n").unwrap();
    let flags = ["--log", "off", "--relaxed-command-check", "true", "--audit-log", path.to_str().unwrap()];
    let log = with_log(
        &flags,
        |_| None,
        |port| {
            let mut node = register(port, "n");
            register(port, "n");
            ask(port, b"\0\x02z?");
            ask(port, b"\0\x01?");
            ask(port, b"\0\x02sn");
            node.read(1, SOON);
        },
    );
    assert_eq!(log, "");
    let mut audited = objects(&read_to_string(&path).unwrap());
    assert_eq!(audited.remove(0), json!({"from": "before"}));
    let creation = audited[0]["creation"].clone();
    for line in &mut audited {
        let line = line.as_object_mut().unwrap();
        assert!(line.remove("timestamp").unwrap().as_str().unwrap().starts_with("20"));
    }
    let expected = [
        json!({"level": "INFO", "message": "registered", "name": "n", "port": 4321, "creation": creation,
               "peer": "127.0.0.1"}),
        json!({"level": "WARN", "message": "node name already occupied n", "port": 4321, "peer": "127.0.0.1"}),
        json!({"level": "WARN", "message": "got unknown request tag 63", "peer": "127.0.0.1"}),
        json!({"level": "INFO", "message": "STOP_REQ", "name": "n", "known": true, "peer": "127.0.0.1"}),
        json!({"level": "INFO", "message": "unregistered", "name": "n", "creation": creation, "end": "closed"}),
    ];
    assert_eq!(audited, expected);
}

#[test]
fn an_audit_log_says_who_ended_the_daemon_and_who_was_not_let() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.log");
    with_log(
        &["--audit-log", path.to_str().unwrap()],
        |_| None,
        |port| {
            let node = register(port, "n");
            ask(port, b"\0\x01k");
            drop(node);
            wait_until("the name is free", SOON, || lookup_port(port, "n").is_none());
            ask(port, b"\0\x01k");
        },
    );
    let audited = objects(&read_to_string(&path).unwrap());
    let of_peers = |line: &&Value| line["peer"] == "127.0.0.1" && line["message"] != "registered";
    let said: Vec<_> = audited.iter().filter(of_peers).map(|line| &line["message"]).collect();
    assert_eq!(said, ["Disallowed KILL_REQ, live nodes", "got KILL_REQ - terminates normal"]);
}

/// Twelve malformed frames were enough to keep both out.
#[test]
fn noise_does_not_hide_refused_commands_from_the_audit_log() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("audit.log");
    let log = with_log(
        &["--audit-log", path.to_str().unwrap()],
        |_| None,
        |port| {
            let _node = register(port, "n");
            (0..30).for_each(|_| ask(port, b"\0\x01?"));
            for _ in 0..20 {
                ask(port, b"\0\x01k");
                ask(port, b"\0\x02sn");
            }
        },
    );
    let audited = objects(&read_to_string(&path).unwrap());
    let said = |text: &str| audited.iter().filter(|line| line["message"] == text).count();
    assert_eq!(said("Disallowed KILL_REQ, live nodes"), 20);
    assert_eq!(said("Disallowed STOP_REQ, no relaxed_command_check"), 20);
    assert_eq!(said("got unknown request tag 63"), 10, "ten in ten seconds");
    assert_eq!(log.matches("Disallowed KILL_REQ").count(), 20);
}

#[test]
fn an_audit_log_that_cannot_be_opened_stops_the_start() {
    let port = free_port().to_string();
    let result = done(&mut repmd(["serve", "--port", &port, "--audit-log", "/nowhere/audit.log"]));
    assert_eq!(result.exit, 1);
    let said = "audit-log: cannot open /nowhere/audit.log: No such file or directory";
    assert!(result.stderr.contains(said), "{}", result.stderr);
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn each_request_is_a_span_at_debug() {
    let ask = |port| assert!(lookup_port(port, "n").is_none());
    let log = with_log(&["--log", "debug"], |_| None, ask);
    let of_request: Vec<_> =
        log.lines().filter(|line| line.contains("request{peer=127.0.0.1 tag=z}")).collect();
    let [answer, span] = of_request[..] else { panic!("{log}") };
    let said = " DEBUG request{peer=127.0.0.1 tag=z}: ** sent PORT2_RESP (error) for \"n\" name=n found=false from=here peer=";
    assert!(answer.contains(said), "{answer}");
    assert!(span.contains(" DEBUG ") && span.contains("close time.busy="), "{span}");
    assert!(!with_log(&[], |_| None, ask).contains("request{"), "at info");
}

/// Names that terminals obey, that turn the text around them, and that look like other fields.
const HOSTILE: [&str; 4] = [
    "a\u{1b}[2J\u{1b}]52;c;AA\u{7}",
    "b\rc\u{7f}\u{9b}2J\u{85}",
    "d\u{202e}exe\u{2028}",
    "x peer=10.0.0.9 ERROR \"root",
];

fn register_hostile(port: u16) {
    for name in HOSTILE {
        let _node = register(port, name);
        // Refused, which is said in other words.
        register(port, name);
    }
}

#[test]
fn no_character_of_a_name_reaches_a_terminal_that_obeys_it() {
    let folder = TempDir::new().unwrap();
    let audit = folder.path().join("audit.log");
    let audit_flags = ["--log", "debug", "--audit-log", audit.to_str().unwrap()];
    let text = with_log(&audit_flags, |_| None, register_hostile);
    let json = with_log(&["--log-format", "json"], |_| None, register_hostile);
    let audit = read_to_string(&audit).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let port = free_port();
    let mut command = crate::epmd(&format!("-port {port} -d -d"));
    command.stderr(writer);
    let daemon = Daemon::spawn(command, port);
    register_hostile(port);
    drop(daemon);
    let classic = std::io::read_to_string(reader).unwrap();
    for (log, end) in [(&text, "\n"), (&json, "\n"), (&audit, "\n"), (&classic, "\r\n")] {
        let raw = log
            .replace(end, "")
            .chars()
            .find(|character| character.is_control() || "\u{202e}\u{2028}".contains(*character));
        assert_eq!(raw, None, "{log}");
        // As it is written in text, and in JSON.
        assert!(log.contains(r"\u{1b}[2J") || log.contains(r"\u001b[2J"), "{log}");
    }
    for (log, said) in [(&json, objects(&json)), (&audit, objects(&audit))] {
        for name in HOSTILE {
            assert!(said.iter().any(|line| line["name"] == name), "{name:?}: {log}");
        }
    }
}

#[test]
fn a_name_cannot_look_like_other_fields_of_its_line() {
    let log = with_log(&[], |_| None, register_hostile);
    let about: Vec<_> = log.lines().filter(|line| line.contains("10.0.0.9")).collect();
    assert_eq!(about.len(), 3, "registered, refused, unregistered: {about:?}");
    let quoted = r#""x peer=10.0.0.9 ERROR \"root""#;
    assert!(about.iter().all(|line| line.contains(quoted)), "{about:?}");
}

#[test]
fn lines_for_journald_begin_with_their_level_and_have_no_time() {
    let identity = |log: &File| {
        let file = log.metadata().unwrap();
        Some(format!("{}:{}", file.dev(), file.ino()))
    };
    let warned = |port| {
        drop(register(port, "n"));
        ask(port, b"\0\x01?");
    };
    let log = with_log(&[], identity, warned);
    assert!(log.lines().any(|line| line.starts_with("<6> INFO registered name=n ")), "{log}");
    assert!(log.lines().any(|line| line.starts_with("<4> WARN got unknown request tag 63 ")), "{log}");
    let log = with_log(&["--log-format", "json"], identity, warned);
    assert!(log.lines().all(|line| line.starts_with("<6>{") || line.starts_with("<4>{")), "{log}");
    // The variable is there in all that a unit starts, also where standard error leads elsewhere.
    let log = with_log(&[], |_| Some("8:1".to_owned()), warned);
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}

/// The first thing that an operator looks for: who asked for what, and what they were told.
#[test]
fn each_request_and_its_answer_is_said_once_by_a_log_that_is_asked_for_it_and_by_no_other() {
    let act = |port| {
        let _node = register(port, "foo");
        assert!(lookup_port(port, "foo").is_some());
        assert!(lookup_port(port, "no\"body").is_none());
        ask(port, b"\0\x01n");
        ask(port, b"\0\x01d");
    };
    let said = |flags: &[&str]| {
        let log = objects(&with_log(&[&["--log-format", "json"], flags].concat(), |_| None, act));
        let is_answer = |line: &Value| line["message"].as_str().unwrap().starts_with("** sent");
        log.into_iter().filter(is_answer).collect::<Vec<_>>()
    };
    assert_eq!(said(&["--log", "info"]), [Value::Null; 0]);
    let said = said(&["--log", "info,repmd::requests=debug"]);
    let messages: Vec<_> = said.iter().map(|line| line["message"].as_str().unwrap()).collect();
    let expected = [
        "** sent ALIVE2_RESP for \"foo\"",
        "** sent PORT2_RESP (ok) for \"foo\"",
        "** sent PORT2_RESP (error) for \"no\\\"body\"",
        "** sent NAMES_RESP",
        "** sent DUMP_RESP",
    ];
    assert_eq!(messages, expected);
    for line in &said {
        assert_eq!((&line["level"], &line["peer"]), (&"DEBUG".into(), &"127.0.0.1".into()), "{line}");
    }
    let answers = [1, 2].map(|at| ["name", "found", "from"].map(|key| said[at][key].clone()));
    assert_eq!(
        answers,
        [[json!("foo"), true.into(), "here".into()], [json!("no\"body"), false.into(), "here".into()]]
    );
}

/// With `-d`, as those of the stock daemon, whose lines scripts search for.
#[test]
fn answers_are_said_in_the_stock_daemon_s_words_and_format_with_one_d() {
    let folder = TempDir::new().unwrap();
    let (path, port) = (folder.path().join("log"), free_port());
    let mut command = std::process::Command::new(epmd_program(env!("CARGO_BIN_EXE_repmd"), folder.path()));
    command.args(["-d", "-port", &port.to_string()]).stderr(File::create(&path).unwrap());
    let mut daemon = Daemon::spawn(command, port);
    let _node = register(port, "foo");
    assert!(lookup_port(port, "foo").is_some() && lookup_port(port, "nobody").is_none());
    ask(port, b"\0\x01n");
    daemon.signal(Signal::TERM);
    daemon.wait(SOON);
    let log = read_to_string(path).unwrap();
    for line in [
        "** sent ALIVE2_RESP for \"foo\"",
        "** sent PORT2_RESP (ok) for \"foo\"",
        "** sent PORT2_RESP (error) for \"nobody\"",
        "** sent NAMES_RESP",
    ] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    assert!(log.lines().all(|line| line.starts_with("epmd: ")), "{log}");
}
