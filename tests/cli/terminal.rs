//! Words of others on a terminal: it obeys none of them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use repmd_test_support::{Daemon, free_port, wait_for};

use crate::{SOON, done, epmd, register, repmd};

/// What sets a clipboard, clears a screen, goes back to the start of the line, and turns the direction of writing.
const HOSTILE: &str = "a\x1b]52;c;QUE=\x07\u{9b}2J\rb\u{202e}c\u{7f}";
const SHOWN: &str = r"a\u{1b}]52;c;QUE=\u{7}\u{9b}2J\rb\u{202e}c\u{7f}";

/// What a terminal gets from a program that runs on it. The terminal itself ends each line by `\r\n`.
fn on_a_terminal(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<_> =
        words.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"))).collect();
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &quoted.join(" "), "/dev/null"]).env("SHELL", "/bin/sh");
    for (variable, _) in command.get_envs() {
        script.env_remove(variable);
    }
    let output = script.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
}

fn holds_nothing_hidden(shown: &str, what: &str) {
    assert!(shown.contains(SHOWN), "{what}: {shown:?}");
    let hidden = |character: char| character != '\n' && character.is_control() || character == '\u{202e}';
    assert!(!shown.contains(hidden), "{what}: {shown:?}");
}

#[test]
fn no_name_of_a_node_reaches_a_terminal_with_what_it_would_obey() {
    let (port, api) = (free_port().to_string(), format!("127.0.0.1:{}", free_port()));
    let mut command = repmd(["serve", "--port", &port, "--admin", &api]);
    command.stderr(Stdio::null());
    let daemon = Daemon::spawn(command, port.parse().unwrap());
    let mut events = repmd(["events", "--admin", &api]).stdout(Stdio::piped()).spawn().unwrap();
    let _node = register(daemon.port(), HOSTILE);
    for command in [
        repmd(["names", "--port", &port]),
        repmd(["lookup", HOSTILE, "--port", &port, "--admin", &api]),
        repmd(["wait", HOSTILE, "--timeout", "0s", "--port", "1"]),
        repmd(["nodes", "--admin", &api]),
        epmd(&format!("-port {port} -names")),
        epmd(&format!("-port {port} -dump")),
    ] {
        holds_nothing_hidden(&on_a_terminal(&command), &format!("{command:?}"));
    }
    let (sender, lines) = mpsc::channel();
    let mut reader = BufReader::new(events.stdout.take().unwrap());
    std::thread::spawn(move || {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| sender.send(line))
    });
    // It may not listen yet when the first of them comes.
    let line = wait_for("an event", SOON, || {
        drop(register(daemon.port(), &format!("{HOSTILE}2")));
        lines.recv_timeout(Duration::from_millis(100)).ok()
    });
    events.kill().unwrap();
    events.wait().unwrap();
    holds_nothing_hidden(&line, "events");
    for words in [&["nodes", "--json", "--admin", &api][..], &["lookup", HOSTILE, "--json", "--port", &port]]
    {
        let document = done(&mut repmd(words)).stdout;
        let hidden = |character: char| character != '\n' && character.is_control() || character == '\u{202e}';
        assert!(!document.contains(hidden), "{document:?}");
        assert!(
            serde_json::from_str::<serde_json::Value>(&document).unwrap().to_string().contains("\\u001b")
        );
    }
}

#[test]
fn programs_read_the_stock_lists_byte_for_byte() {
    let port = free_port();
    let mut command = repmd(["serve", "--admin", "off", "--port", &port.to_string()]);
    command.stderr(Stdio::null());
    let _daemon = Daemon::spawn(command, port);
    let _node = register(port, HOSTILE);
    let listed = done(&mut epmd(&format!("-port {port} -names"))).stdout;
    let whole = format!("epmd: up and running on port {port} with data:\nname {HOSTILE} at port 4321\n");
    assert_eq!(listed, whole);
}
