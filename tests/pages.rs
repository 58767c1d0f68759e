//! Every command that a page shows, run as the page shows it; its output is what the page says.
//!
//! A block `console` is one shell's session: lines with `$ ` are commands, those below are their output, in
//! which `...` stands for anything. A block `console server` is a program that stays: its lines appear, and it
//! runs until the page ends. All blocks of a page are one session, from the project's folder, in a network of
//! its own. Erlang and Redis come from a root file system, because that has them without services.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use regex::Regex;
use repmd_test_support::{Root, in_own_network};

/// The first command of a page may have to build the program.
const DEADLINE: Duration = Duration::from_secs(600);

/// Programs that pages use and the machine need not have.
const FROM_ROOT: [&str; 4] = ["erl", "redis-server", "elixir", "iex"];

#[test]
fn the_readme_is_as_it_says() {
    play("README.md");
}

#[test]
fn the_page_on_topologies_is_as_it_says() {
    play("docs/topologies.md");
}

#[test]
fn the_page_on_installing_is_as_it_says() {
    play("docs/install.md");
}

/// A block of a page.
#[derive(Debug, PartialEq, Eq)]
enum Block {
    /// Commands, each with the lines below it.
    Session(Vec<(String, String)>),
    Server {
        command: String,
        appears: String,
    },
}

fn play(page: &str) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let blocks = blocks(&fs::read_to_string(project.join(page)).unwrap());
    assert!(!blocks.is_empty(), "{page} shows no command");
    in_own_network(|| {
        let programs = tempfile::tempdir().unwrap();
        let root = Root::of("bookworm");
        for program in FROM_ROOT {
            let path = programs.path().join(program);
            let script = format!("#!/bin/sh\nexec chroot '{}' {program} \"$@\"\n", root.path().display());
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut shell = Shell::start(project, programs.path());
        for block in blocks {
            match block {
                Block::Session(commands) => commands.iter().for_each(|(command, expected)| {
                    let output = shell.run(command);
                    let matches = pattern(expected).is_match(&output);
                    assert!(matches, "{page}: {command}\nsays\n{output}instead of\n{expected}");
                }),
                Block::Server { command, appears } => {
                    let log = programs.path().join("server.log");
                    fs::write(&log, "").unwrap();
                    shell.run(&format!("{command} > '{}' 2>&1 &", log.display()));
                    let started = Instant::now();
                    while !contains(&fs::read_to_string(&log).unwrap(), &appears) {
                        let said = fs::read_to_string(&log).unwrap();
                        assert!(
                            started.elapsed() < DEADLINE,
                            "{page}: {command}\nsays\n{said}instead of\n{appears}"
                        );
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    // The next server has a log of its own; this one keeps the file that it has open.
                    fs::remove_file(&log).unwrap();
                }
            }
        }
    });
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(fence) = lines.by_ref().find(|line| line.starts_with("```console")) {
        let mut commands: Vec<(String, String)> = Vec::new();
        for line in lines.by_ref().take_while(|line| *line != "```") {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), String::new())),
                (None, Some((_, output))) => *output += &format!("{line}\n"),
                (None, None) => panic!("{line:?} is no command's output"),
            }
        }
        blocks.push(match fence {
            "```console" => Block::Session(commands),
            "```console server" => {
                let (command, appears) = commands.pop().expect("a server has a command");
                Block::Server { command, appears }
            }
            other => panic!("{other:?} is no block that this test knows"),
        });
    }
    blocks
}

/// All of an output.
fn pattern(expected: &str) -> Regex {
    let lines = expected.lines().map(|line| match line {
        "..." => "(?:.*\n)*".to_owned(),
        line => format!("{}\n", regex::escape(line).replace(r"\.\.\.", ".*")),
    });
    Regex::new(&format!("^{}$", lines.collect::<String>())).unwrap()
}

/// Whether each line of `expected` is in `output`, in this order.
fn contains(output: &str, expected: &str) -> bool {
    let mut lines = output.lines();
    expected.lines().all(|line| {
        let wanted = Regex::new(&regex::escape(line).replace(r"\.\.\.", ".*")).unwrap();
        lines.any(|line| wanted.is_match(line))
    })
}

/// One shell, in a process tree that ends with it.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Shell {
    fn start(folder: &Path, programs: &Path) -> Self {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "bash", "--noprofile", "--norc"]);
        command.current_dir(folder).env("PATH", format!("{}:{path}", programs.display()));
        // What cargo tells its tests is no matter to the programs of a page.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["CARGO_PKG", "CARGO_BIN", "REPMD_", "ERL_"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&*name);
            }
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"exec 2>&1\n").unwrap();
        let (lines, output) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { return };
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, input, output }
    }

    /// Runs a command and returns what it said.
    fn run(&mut self, command: &str) -> String {
        const END: &str = "-- the command has ended --";
        // Without the shell's own input, which a program would read.
        writeln!(self.input, "{{ {command}\n}} < /dev/null; echo; echo '{END}'").unwrap();
        let mut said = String::new();
        loop {
            let line = self.output.recv_timeout(DEADLINE);
            match line.unwrap_or_else(|error| panic!("{command}: {error}, after\n{said}")) {
                line if line == END => break,
                line => said += &format!("{line}\n"),
            }
        }
        // The line that stands before the end in case the command left its last one open.
        said.strip_suffix("\n").map(str::to_owned).unwrap_or(said)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn dots_stand_for_anything_and_nothing_else_does() {
    assert!(pattern("a ... b\n...\n").is_match("a 1 2 b\nmore\nlines\n"));
    assert!(pattern("").is_match(""));
    assert!(!pattern("a\n").is_match("a\nb\n"));
    assert!(!pattern("a.c\n").is_match("abc\n"));
    assert!(contains("x\nINFO serving host=h\n", "...INFO serving host=...\n"));
    assert!(!contains("x\n", "y\n"));
}

#[test]
fn a_page_is_read_as_its_blocks() {
    let page = "text\n```console\n$ a\nb\n$ c\n```\n```console server\n$ s\nup\n```\n```sh\nno\n```\n";
    let session = vec![("a".to_owned(), "b\n".to_owned()), ("c".to_owned(), String::new())];
    let server = Block::Server { command: "s".to_owned(), appears: "up\n".to_owned() };
    assert_eq!(blocks(page), [Block::Session(session), server]);
}
