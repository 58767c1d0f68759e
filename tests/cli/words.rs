//! What people read: words, and nothing that only the program's source explains.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use repmd_test_support::{Daemon, free_port, http, wait_for};

use crate::{Done, SOON, done, repmd};

/// What a message must not have: numbers of errors, and values as the language writes them.
fn assert_for_people(text: &str) {
    for alien in ["os error", "Some(", "None", "ns:", "µs"] {
        assert!(!text.contains(alien), "{alien:?} in {text}");
    }
}

#[test]
fn what_a_command_cannot_do_is_said_in_words() {
    let free = free_port().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (place, api) = (format!("127.0.0.1:{free}"), format!("127.0.0.1:{free}"));
    let serve = ["serve", "--port", &free];
    for (words, more, said) in [
        (&["names", "--at", &place][..], &[][..], "Connection refused\n"),
        (&["wait", "n", "--at", &place, "--timeout", "0s"], &[], "after 0s: no EPMD at 127.0.0.1, port "),
        (&["register", "n", "4321", "--port", &free], &[], "Connection refused\n"),
        (&["nodes", "--admin", &api], &[], "Connection refused; "),
        (&["check-config", "--config", "/nowhere"], &[], "/nowhere: No such file or directory\n"),
        (
            &serve,
            &["--backend", "redis://h?password_file=/nowhere"],
            "/nowhere: No such file or directory
",
        ),
        (&serve, &["--address", "198.51.100.7"], "198.51.100.7: Cannot assign requested address\n"),
        (&serve, &["--admin", &taken], " is taken: "),
        (&serve, &["--admin-token-file", "/nowhere"], "cannot read /nowhere: No such file or directory\n"),
        (&serve, &["--admin", "off", "--audit-log", "/nowhere/log"], "No such file or directory\n"),
    ] {
        let result = done(repmd(words).args(more));
        assert!(result.exit != 0 && result.stderr.contains(said), "{words:?} {more:?}: {result:?}");
        assert_for_people(&result.stderr);
    }
}

#[test]
fn a_daemon_says_in_words_where_it_shows_the_cluster_and_why_its_store_is_away() {
    let (port, admin, store) = (free_port(), free_port(), free_port());
    let mut command = repmd(["serve", "--host", "here", "--port", &port.to_string()]);
    command.args([
        "--admin",
        &format!("127.0.0.1:{admin}"),
        "--backend",
        &format!("redis://127.0.0.1:{store}"),
    ]);
    let (mut log, stderr) = std::io::pipe().unwrap();
    command.stderr(stderr);
    let daemon = Daemon::spawn(command, port);
    let reasons = wait_for("the store is found away", SOON, || {
        let reply = http::get(admin, "/readyz", &[]);
        reply.body.contains("is away").then_some(reply.body)
    });
    drop(daemon);
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains(&format!("address=127.0.0.1:{admin}")), "{text}");
    for said in [&text, &reasons] {
        assert!(said.contains("no answer from the registry: Connection refused"), "{said}");
        assert_for_people(said);
    }
}

/// A listener that takes connections, and says `words` to each.
fn listener(words: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // What came is read first: a reset would reach the asker before the words.
            let _ = stream.read(&mut [0; 1024]);
            if words.is_empty() {
                held.push(stream);
            } else {
                let _ = stream.write_all(words.as_bytes());
            }
        }
    });
    port
}

/// It took ten seconds, or twenty, and said "Resource temporarily unavailable".
#[test]
fn what_takes_connections_and_says_nothing_is_named_within_five_seconds() {
    let port = listener("").to_string();
    let said = format!("repmd: no answer from 127.0.0.1:{port} within 5s: ");
    std::thread::scope(|scope| {
        for words in [
            &["names"][..],
            &["names", "--at", "localhost"],
            &["lookup", "n"],
            &["lookup", "n", "--at", "127.0.0.1"],
            &["nodes"],
            &["events"],
        ] {
            let (port, said) = (&port, &said);
            scope.spawn(move || {
                let started = Instant::now();
                let result = done(repmd(words).args(["--port", port]));
                assert_eq!((result.exit, &*result.stdout), (2, ""), "{words:?}");
                assert!(result.stderr.starts_with(said), "{words:?}: {}", result.stderr);
                assert!(started.elapsed() < Duration::from_secs(8), "{words:?} took {:?}", started.elapsed());
            });
        }
        scope.spawn(|| {
            let started = Instant::now();
            let result = done(&mut repmd(["wait", "n", "--port", &port, "--timeout", "3s"]));
            let said =
                format!("repmd: n is not registered after 3s: no answer from 127.0.0.1:{port} within 3s: ");
            assert!(result.exit == 1 && result.stderr.starts_with(&said), "{result:?}");
            let took = started.elapsed();
            assert!((3..5).contains(&took.as_secs()), "{took:?}");
        });
        scope.spawn(|| {
            let result = done(&mut repmd(["register", "n", "4321", "--port", &port]));
            assert!(result.exit == 2 && result.stderr.contains("no answer within 5s"), "{result:?}");
        });
    });
}

#[test]
fn what_answers_and_is_no_epmd_is_said_to_be_none() {
    let port = listener("HTTP/1.0 400 Bad Request\r\n\r\n").to_string();
    let said = format!("repmd: what listens at this host, port {port} is no EPMD\n");
    for words in [&["names"][..], &["lookup", "n"], &["lookup", "n", "--admin", "off"], &["nodes"]] {
        assert_eq!(done(repmd(words).args(["--port", &port])), Done::new(2, "", &said), "{words:?}");
    }
}

#[test]
fn a_start_where_the_port_is_taken_names_the_program_that_has_it() {
    let port = listener("");
    let process = format!("(process {})", std::process::id());
    let flags = ["--address", "127.0.0.1", "--port", &port.to_string()];
    let result = done(repmd(["serve"]).args(flags));
    assert_eq!((result.exit, &*result.stdout), (1, ""));
    let said = format!("127.0.0.1:{port} is taken: ");
    assert!(result.stderr.contains(&said) && result.stderr.contains(&process), "{}", result.stderr);
    assert!(result.stderr.contains(&format!("listens on port {port}\n")), "{}", result.stderr);
    let admin = ["--port", &free_port().to_string(), "--admin", &format!("127.0.0.1:{port}")];
    let result = done(repmd(["serve"]).args(admin));
    assert!(result.stderr.contains(&process), "{}", result.stderr);
    // The stock command line says what the stock daemon says.
    let classic = done(&mut crate::epmd(&format!("-d -address 127.0.0.1 -port {port}")));
    let said = format!("there is already a epmd running at port {port} on ipaddr 127.0.0.1\r\n");
    assert!(classic.exit == 0 && classic.stderr.ends_with(&said), "{classic:?}");
}
