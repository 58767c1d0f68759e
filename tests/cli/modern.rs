//! repmd's own command line.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, Peer, free_port, lookup_port, run, wait_until};

use crate::{Done, SOON, done, register, repmd};

const COMMANDS: [&str; 17] = [
    "serve",
    "check-config",
    "names",
    "lookup",
    "wait",
    "register",
    "status",
    "nodes",
    "links",
    "events",
    "upgrade",
    "policy",
    "doctor",
    "schema",
    "completions",
    "man",
    "help",
];

fn serve(arguments: &[&str], variables: &[(&str, &str)]) -> Daemon {
    let port = free_port();
    let mut command = repmd(["serve", "--port", &port.to_string()].iter().chain(arguments));
    command.envs(variables.iter().copied()).stderr(Stdio::null());
    Daemon::spawn(command, port)
}

#[test]
fn wait_ends_once_the_node_is_registered_though_the_daemon_starts_later() {
    let port = free_port();
    let mut waiting = repmd(["wait", "rabbit", "--port", &port.to_string()]).spawn().unwrap();
    let mut command = repmd(["serve", "--admin", "off", "--port", &port.to_string()]);
    let daemon = Daemon::spawn(
        {
            command.stderr(Stdio::null());
            command
        },
        port,
    );
    let other = register(daemon.port(), "other");
    assert_eq!(waiting.try_wait().unwrap(), None);
    let _node = register(daemon.port(), "rabbit");
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
    drop(other);
}

#[test]
fn wait_ends_with_1_when_the_time_is_over_and_says_what_was_wrong() {
    let port = free_port().to_string();
    let result = done(&mut repmd(["wait", "a", "--port", &port, "--timeout", "100ms"]));
    assert_eq!((result.exit, &*result.stdout), (1, ""));
    let said = format!("repmd: a is not registered after 100ms: no EPMD at this host, port {port}: ");
    assert!(result.stderr.starts_with(&said), "{}", result.stderr);
    let daemon = serve(&[], &[]);
    let result = done(&mut repmd(["wait", "a", "--port", &daemon.port().to_string(), "--timeout", "0s"]));
    assert_eq!(result, Done::new(1, "", "repmd: a is not registered after 0s\n"));
    let wrong = done(&mut repmd(["wait", "a", "--timeout", "soon"]));
    assert_eq!(wrong.exit, 2);
    assert!(wrong.stderr.contains("expected a time such as 30s"), "{}", wrong.stderr);
}

#[test]
fn without_a_name_wait_ends_once_the_daemon_answers() {
    let port = free_port();
    let refused = done(&mut repmd(["wait", "--port", &port.to_string(), "--timeout", "100ms"]));
    assert_eq!(refused.exit, 1);
    let said = format!("repmd: no daemon has answered after 100ms: no EPMD at this host, port {port}: ");
    assert!(refused.stderr.starts_with(&said), "{}", refused.stderr);
    let mut waiting = repmd(["wait", "--port", &port.to_string()]).spawn().unwrap();
    let mut command = repmd(["serve", "--admin", "off", "--port", &port.to_string()]);
    command.stderr(Stdio::null());
    let _daemon = Daemon::spawn(command, port);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

/// Whatever answers there: the commands end in time, and keep no more of it than an answer can have.
#[test]
fn an_answer_without_an_end_ends_no_later_and_takes_no_more_memory_than_is_reasonable() {
    let endless = |piece: usize, pause: Duration| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while stream.write_all(&vec![b'a'; piece]).is_ok() {
                        std::thread::sleep(pause);
                    }
                });
            }
        });
        port.to_string()
    };
    let slow = endless(1, Duration::from_millis(100));
    for words in [&["wait", "a", "--timeout", "1s"][..], &["wait", "--timeout", "1s"]] {
        let started = Instant::now();
        assert_eq!(done(repmd(words).args(["--port", &slow])).exit, 1);
        assert!(started.elapsed() < Duration::from_secs(3), "{words:?} took {:?}", started.elapsed());
    }
    let fast = endless(1 << 20, Duration::ZERO);
    let api = format!("127.0.0.1:{fast}");
    for words in
        [&["names", "--port", &fast][..], &["lookup", "a", "--port", &fast], &["nodes", "--admin", &api]]
    {
        let mut limited = std::process::Command::new("prlimit");
        limited.arg("--as=536870912").arg(env!("CARGO_BIN_EXE_repmd")).args(words);
        let result = done(&mut limited);
        // It has said why, and was not ended by a lack of memory.
        assert!(result.exit != 134 && result.stderr.starts_with("repmd: "), "{words:?}: {result:?}");
    }
}

#[test]
fn a_daemon_ends_when_its_last_node_has_left_if_it_is_to() {
    let daemon = serve(&["--exit-when-empty", "300ms", "--admin", "off"], &[]);
    let port = daemon.port();
    std::thread::sleep(Duration::from_millis(900));
    // No node has come yet. One that goes and another that comes in time do not end it either.
    let node = register(port, "one");
    std::thread::sleep(Duration::from_millis(900));
    drop(node);
    let node = register(port, "two");
    std::thread::sleep(Duration::from_millis(900));
    drop(node);
    let mut daemon = daemon;
    assert_eq!(daemon.wait(SOON).code(), Some(0));
}

/// A daemon that restarts forgets the nodes that do not come back by themselves.
#[test]
fn a_registered_name_is_held_across_daemons_until_it_is_told_to_end() {
    let port = free_port();
    let start = || {
        let mut command = repmd(["serve", "--admin", "off", "--port", &port.to_string()]);
        command.stderr(Stdio::null());
        Daemon::spawn(command, port)
    };
    let text = port.to_string();
    let words = ["register", "old", "4321", "--hidden", "--port", &text];
    let absent = done(&mut repmd(words));
    assert_eq!((absent.exit, &*absent.stdout), (2, ""));
    assert!(absent.stderr.contains("no EPMD at this host"), "{}", absent.stderr);
    let first = start();
    let mut holder = repmd(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let is_held =
        || lookup_port(port, "old").is_some_and(|found| (found.port, found.node_type) == (4321, 72));
    wait_until("it is held", SOON, is_held);
    let second = done(&mut repmd(words));
    assert_eq!(second, Done::new(1, "", "repmd: old is registered by another node\n"));
    drop(first);
    let daemon = start();
    wait_until("it is held again", SOON, is_held);
    assert_eq!(holder.try_wait().unwrap(), None);
    let pid = rustix::process::Pid::from_child(&holder);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(holder.wait().unwrap().code(), Some(0));
    wait_until("it is free", SOON, || lookup_port(daemon.port(), "old").is_none());
    let output = holder.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.matches("old: port 4321, creation ").count(), 2, "{said}");
    let wrong = done(&mut repmd(["register", "old@host", "4321"]));
    assert_eq!((wrong.exit, wrong.stderr.contains("before the @")), (2, true), "{}", wrong.stderr);
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(
        done(&mut repmd(["--version"])),
        Done::new(0, concat!("repmd ", env!("CARGO_PKG_VERSION"), "\n"), "")
    );
}

#[test]
fn help_goes_to_standard_output_and_names_every_command() {
    let result = done(&mut repmd(["--help"]));
    assert_eq!((result.exit, &*result.stderr), (0, ""));
    for command in COMMANDS {
        assert!(result.stdout.contains(&format!("\n  {command} ")), "{command}");
        let own = done(&mut repmd([command, "--help"]));
        assert_eq!((own.exit, &*own.stderr), (0, ""), "{command}");
        assert!(own.stdout.contains(&format!("Usage: repmd {command}")), "{command}");
        assert_eq!(done(&mut repmd(["help", command])), own);
    }
    assert_eq!(done(&mut repmd(["help"])), result);
}

#[test]
fn what_is_no_command_line_ends_with_2_and_usage_on_standard_error() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["help", "nonsense"],
        &["help", "man", "nonsense"],
        &["serve", "--nonsense"],
        &["lookup"],
        &["-names"],
    ] {
        let result = done(&mut repmd(arguments));
        assert_eq!((result.exit, &*result.stdout), (2, ""), "{arguments:?}");
        assert!(result.stderr.contains("Usage: repmd"), "{arguments:?}: {}", result.stderr);
    }
}

#[test]
fn a_wrong_setting_stops_the_start_and_is_named_with_what_was_expected() {
    let file = |text: &str| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    };
    let (wrong, unknown, broken) = (file("port = 70000"), file("prot = 1"), file("port ="));
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    let number = "expected a number from 1 to 65535";
    let wrong_port =
        |value: &str, origin: &str| format!("repmd: port: \"{value}\" (from {origin}) is wrong: {number}");
    let cases = [
        (vec!["--port".to_owned(), "x".to_owned()], "", wrong_port("x", "flag")),
        (vec![], "0", wrong_port("0", "REPMD_PORT")),
        (vec!["--config".to_owned(), path(&wrong)], "", wrong_port("70000", &path(&wrong))),
        (
            vec!["--config".to_owned(), path(&unknown)],
            "",
            format!("repmd: prot: there is no such setting (from {})", path(&unknown)),
        ),
        (
            vec!["--config".to_owned(), path(&broken)],
            "",
            format!("repmd: config: cannot read {}: ", path(&broken)),
        ),
        (
            vec!["--config".to_owned(), "/nowhere".to_owned()],
            "",
            "repmd: config: cannot read /nowhere: ".to_owned(),
        ),
    ];
    for (arguments, variable, said) in cases {
        for command in ["serve", "check-config"] {
            let words = std::iter::once(command.to_owned()).chain(arguments.clone());
            let result = done(repmd(words).env("REPMD_PORT", variable));
            assert_eq!((result.exit, &*result.stdout), (1, ""), "{command} {arguments:?}");
            assert!(result.stderr.starts_with(&said), "{command} {arguments:?}: {}", result.stderr);
        }
    }
}

#[test]
fn no_error_about_the_stores_url_shows_its_password() {
    for url in [
        "redis:/u:s3cret@h",
        "u:s3cret@h",
        "redos://u:s3cret@h",
        "redis://h?password=s3cret",
        "redis://u@h?s3cret",
        "redis://u:p?s3cret@h",
        "redis://u:p?a=s3cret&b@h",
        "redis://u:p?s3cret=1@h",
        "redis://u:p/s3cret@h",
        "redis://u:s3cret@h:port",
        "redis://u:s3cret%ff@h",
        "redis://u:s3cret@h/s3cret",
        "redis://u:s3cret@h?password_file=/nowhere",
        "redis+sentinel://u:s3cret@h",
        "redis+cluster://u:s3cret@h/1",
    ] {
        for command in ["serve", "check-config"] {
            let result = done(repmd([command]).env("REPMD_BACKEND", url));
            assert_eq!((result.exit, &*result.stdout), (1, ""), "{command} {url}: {}", result.stderr);
            let said = "repmd: backend: \"***\" (from REPMD_BACKEND) is wrong: expected ";
            assert!(result.stderr.starts_with(said), "{url}: {}", result.stderr);
            assert!(!result.stderr.contains("s3cret"), "{url}: {}", result.stderr);
        }
    }
}

#[test]
fn check_config_shows_each_setting_with_the_origin_that_won() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"port = 5000\naddress = [\"127.0.0.1\", \"::1\"]\ndrain-time = \"1s\"\nhost = \"h\"")
        .unwrap();
    let path = file.path().to_str().unwrap();
    let mut command = repmd(["check-config", "--config", path, "--port", "5001"]);
    let result =
        done(command.env("REPMD_PORT", "5002").env("ERL_EPMD_ADDRESS", "127.0.0.2").env("REPMD_HOST", "g"));
    assert_eq!((result.exit, &*result.stderr), (0, ""));
    for line in [
        "port = 5001 (flag)",
        "address = 127.0.0.2 (ERL_EPMD_ADDRESS)",
        "host = g (REPMD_HOST)",
        &format!("drain-time = 1s ({path})"),
        "packet-timeout = 60s (default)",
    ] {
        assert!(result.stdout.lines().any(|shown| shown == line), "{line}: {}", result.stdout);
    }
}

#[test]
fn serve_takes_flags_variables_and_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"relaxed-command-check = true").unwrap();
    let path = file.path().to_str().unwrap();
    let daemon = serve(&["--config", path, "--address", "127.0.0.4"], &[("REPMD_PACKET_TIMEOUT", "500ms")]);
    let mut silent = Peer::connect_from(None, ([127, 0, 0, 4], daemon.port()).into()).unwrap();
    assert_eq!(silent.read_to_end(SOON), b"");
    let node = register(daemon.port(), "n");
    let stop = done(&mut crate::epmd(&format!("-port {} -stop n", daemon.port())));
    assert_eq!(stop, Done::new(0, "STOPPED\n", ""));
    drop(node);
}

#[test]
fn names_lists_the_nodes_as_a_table() {
    let daemon = serve(&[], &[]);
    let _nodes =
        [register(daemon.port(), "rabbit"), register(daemon.port(), "a"), register(daemon.port(), "grüße")];
    let table = "NAME    PORT\na       4321\ngrüße   4321\nrabbit  4321\n";
    let port = daemon.port().to_string();
    assert_eq!(done(&mut repmd(["names", "--port", &port])), Done::new(0, table, ""));
    assert_eq!(done(&mut repmd(["names", "--at", "127.0.0.1", "--port", &port])), Done::new(0, table, ""));
    assert_eq!(done(repmd(["names"]).env("ERL_EPMD_PORT", &port)), Done::new(0, table, ""));
    assert_eq!(done(&mut repmd(["names", "--at", &format!("[::1]:{port}")])), Done::new(0, table, ""));
    assert_eq!(done(&mut repmd(["names", "--at", &format!("localhost:{port}")])), Done::new(0, table, ""));
    assert_eq!(done(&mut repmd(["names", &format!("localhost:{port}")])), Done::new(0, table, ""));
    assert_eq!(done(&mut repmd(["names", "localhost", "--port", &port])), Done::new(0, table, ""));
    assert_eq!(done(&mut repmd(["names", "localhost", "--at", "localhost"])).exit, 2);
    let json = done(&mut repmd(["names", "--json", "--port", &port]));
    let nodes: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let node = |name| serde_json::json!({ "name": name, "port": 4321 });
    assert_eq!(nodes, serde_json::json!({ "nodes": [node("a"), node("grüße"), node("rabbit")] }));
}

#[test]
fn lookup_says_where_a_node_listens_or_fails() {
    let daemon = serve(&[], &[]);
    let _node = register(daemon.port(), "n");
    let port = daemon.port().to_string();
    let lookup = |name: &str| done(&mut repmd(["lookup", name, "--port", &port, "--admin", "off"]));
    let found = Done::new(0, "n: port 4321, normal node, versions 5 to 6\n", "");
    assert_eq!(lookup("n"), found);
    assert_eq!(lookup("m"), Done::new(1, "", "m is not registered\n"));
    let empty = done(&mut repmd(["lookup", "", "--port", &port]));
    assert_eq!((empty.exit, &*empty.stdout), (2, ""));
}

#[test]
fn a_question_without_a_daemon_names_the_place_and_fails() {
    let port = free_port().to_string();
    for (arguments, place) in [
        (&["names", "--port", &port][..], "this host"),
        (&["names", "--port", &port, "--at", "localhost"], "localhost"),
        (&["lookup", "n", "--port", &port], "this host"),
    ] {
        let result = done(&mut repmd(arguments));
        assert_eq!((result.exit, &*result.stdout), (2, ""), "{arguments:?}");
        let said = format!("repmd: no EPMD at {place}, port {port}: ");
        assert!(result.stderr.starts_with(&said), "{arguments:?}: {}", result.stderr);
        let next = "nothing listens there; `repmd serve` starts one";
        assert_eq!(result.stderr.contains(next), place == "this host", "{arguments:?}: {}", result.stderr);
    }
}

#[test]
fn names_of_a_daemon_without_nodes_are_said_to_be_none() {
    let daemon = serve(&[], &[]);
    let names = done(&mut repmd(["names", "--port", &daemon.port().to_string()]));
    assert_eq!(names, Done::new(0, "no nodes\n", ""));
}

#[test]
fn a_hosts_file_that_cannot_be_written_stops_the_start() {
    let port = free_port().to_string();
    let serve = ["serve", "--port", &port, "--admin", "off", "--backend", "redis://127.0.0.1:1"];
    let result = done(repmd(serve).args(["--hosts-file", "/nowhere/hosts"]));
    assert_eq!(result.exit, 1);
    let said = "hosts-file: cannot write beside /nowhere/hosts: No such file or directory";
    assert!(result.stderr.contains(said), "{}", result.stderr);
}

#[test]
fn the_schema_of_a_store_is_written_for_those_that_have_one() {
    let result = done(&mut repmd(["schema", "postgres"]));
    assert_eq!((result.exit, &*result.stderr), (0, ""));
    assert!(
        result.stdout.starts_with("begin;\n")
            && result.stdout.contains("create table if not exists repmd.names")
    );
    for kind in ["redis", "memory", "oracle", "x\u{1b}"] {
        let result = done(&mut repmd(["schema", kind]));
        let expected = "has to be prepared; these have: postgres";
        assert!(result.exit == 2 && result.stderr.contains(expected), "{}", result.stderr);
        assert!(result.stdout.is_empty() && !result.stderr.contains('\u{1b}'));
    }
}

#[test]
fn completions_are_scripts_that_their_shell_takes() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let result = done(&mut repmd(["completions", shell]));
        assert_eq!((result.exit, &*result.stderr), (0, ""), "{shell}");
        assert!(COMMANDS.iter().all(|command| result.stdout.contains(command)), "{shell}");
        if shell == "bash" {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(result.stdout.as_bytes()).unwrap();
            run("bash", &["-n", file.path().to_str().unwrap()]);
        }
    }
    assert_eq!(done(&mut repmd(["completions", "tcsh"])).exit, 2);
}

#[test]
fn there_is_a_man_page_for_the_program_and_for_each_command() {
    let page = done(&mut repmd(["man"]));
    assert_eq!((page.exit, &*page.stderr), (0, ""));
    assert!(page.stdout.contains(".TH repmd 1"), "{}", page.stdout);
    for command in COMMANDS {
        let page = done(&mut repmd(["man", command]));
        assert_eq!((page.exit, &*page.stderr), (0, ""), "{command}");
        assert!(page.stdout.contains(&format!(".TH repmd-{command} 1")), "{}", page.stdout);
    }
    assert_eq!(done(&mut repmd(["man", "nonsense"])).exit, 2);
}

/// `repmd names | head -1`.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        repmd(["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}
