//! What people read: words, and nothing that only the program's source explains.

use std::io::Read;
use std::net::TcpListener;

use repmd_test_support::{Daemon, free_port, http, wait_for};

use crate::{SOON, done, repmd};

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
        (&serve, &["--admin", &taken], "Address already in use\n"),
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
