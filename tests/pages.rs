//! Every command that a page shows, run as the page shows it; its output is what the page says.
//!
//! A block `console` is one shell's session: lines with `$ ` are commands, those below are their output, in
//! which `...` stands for anything. A block `console server` is a program that stays: its lines appear, and it
//! runs until the page ends. A block with a second word, such as `toml repmd.toml`, is a file of that name.
//! All blocks of a page are one session, in a network of its own: from the project's folder, with Erlang and
//! Redis from a root file system, because that has them without services; or on a whole machine that has the
//! package installed.
//!
//! A block `sh` is not run, and the lines above it say why.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use regex::Regex;
use repmd_test_stores::Postgres;
use repmd_test_support::{Machine, Root, in_own_network, release};

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
fn the_page_on_dns_is_as_it_says() {
    play("docs/dns.md");
}

#[test]
fn the_page_on_links_is_as_it_says() {
    play("docs/links.md");
}

#[test]
fn the_page_on_installing_is_as_it_says() {
    play("docs/install.md");
}

#[test]
fn the_quick_start_is_as_it_says() {
    play_on_debian("docs/quick-start.md", true);
}

#[test]
fn the_page_on_moving_from_stock_and_back_is_as_it_says() {
    play_on_debian("docs/moving.md", false);
}

#[test]
fn the_page_on_upgrading_and_removing_is_as_it_says() {
    play_on_debian("docs/upgrading.md", false);
}

#[test]
fn the_page_on_security_is_as_it_says() {
    play_on_debian("docs/security.md", true);
}

#[test]
fn the_recipe_for_rabbitmq_is_as_it_says() {
    play_on_debian("docs/recipes/rabbitmq.md", true);
}

#[test]
fn the_recipe_for_ejabberd_is_as_it_says() {
    play_on_debian("docs/recipes/ejabberd.md", true);
}

#[test]
fn the_recipe_for_docker_is_as_it_says() {
    play_on_debian("docs/recipes/docker.md", true);
}

#[test]
fn the_recipe_for_elixir_releases_is_as_it_says() {
    play_on_debian("docs/recipes/elixir-release.md", true);
}

#[test]
fn the_recipe_for_postgresql_is_as_it_says() {
    play_with_postgres("docs/recipes/postgresql.md");
}

#[test]
fn every_command_of_the_book_is_run_or_says_why_it_is_not() {
    let contents = fs::read_to_string(project().join("docs/SUMMARY.md")).unwrap();
    let of_book = Regex::new(r"\]\(([^)]+)\)").unwrap();
    let of_book = of_book.captures_iter(&contents).map(|link| format!("docs/{}", &link[1]));
    for page in of_book {
        let is_played = include_str!("pages.rs").contains(&format!("(\"{page}\""));
        let text = fs::read_to_string(project().join(&page)).unwrap();
        if let Some(fault) = fault_of_commands(&text, is_played) {
            panic!("{page}: {fault}");
        }
    }
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
    File {
        name: String,
        text: String,
    },
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Plays a page from the project's folder.
fn play(page: &str) {
    in_own_network(|| play_here(page));
}

/// The same, where there is a PostgreSQL at its usual port.
fn play_with_postgres(page: &str) {
    in_own_network(|| {
        let server = Postgres::start_on(5432);
        server.let_in("host all postgres all trust\nhost all all all scram-sha-256");
        // The page makes them.
        for statement in ["drop database repmd", "drop role repmd"] {
            server.try_query("postgres", statement).unwrap();
        }
        play_here(page);
    });
}

fn play_here(page: &str) {
    let programs = tempfile::tempdir().unwrap();
    let root = Root::of("bookworm");
    for program in FROM_ROOT {
        let path = programs.path().join(program);
        let script = format!("#!/bin/sh\nexec chroot '{}' {program} \"$@\"\n", root.path().display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_repmd"), programs.path().join("repmd")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "bash", "--noprofile", "--norc"]);
    command.current_dir(project()).env("PATH", format!("{}:{path}", programs.path().display()));
    // What cargo tells its tests is no matter to the programs of a page.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG", "CARGO_BIN", "REPMD_", "ERL_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    let log = programs.path().join("server.log");
    perform(page, &mut Shell::start(command), &log, &|file| file.to_owned());
}

/// Plays a page on a Debian machine with Erlang, RabbitMQ and Redis, where repmd is installed or its package
/// is at hand.
fn play_on_debian(page: &str, is_installed: bool) {
    let machine = Machine::start(Root::of("bookworm"), &release());
    let mut command = machine.command("bash");
    command.args(["--noprofile", "--norc"]);
    let mut shell = Shell::start(command);
    if is_installed {
        assert_eq!(shell.run("dpkg -i repmd_*.deb > log && rm * && echo installed"), "installed\n");
    }
    perform(page, &mut shell, Path::new("/tmp/server.log"), &|file| machine.path(file));
}

/// Plays a page in a shell. `log` is a file for what a server says, as the shell sees it; `seen` is where we
/// see one of its files.
fn perform(page: &str, shell: &mut Shell, log: &Path, seen: &dyn Fn(&Path) -> PathBuf) {
    let blocks = blocks(&fs::read_to_string(project().join(page)).unwrap());
    assert!(!blocks.is_empty(), "{page} shows no command");
    for block in blocks {
        match block {
            Block::Session(commands) => commands.iter().for_each(|(command, expected)| {
                let output = shell.run(command);
                let matches = pattern(expected).is_match(&output);
                assert!(matches, "{page}: {command}\nsays\n{output}instead of\n{expected}");
            }),
            Block::Server { command, appears } => {
                let said = || fs::read_to_string(seen(log)).unwrap();
                fs::write(seen(log), "").unwrap();
                shell.run(&format!("{command} > '{}' 2>&1 &", log.display()));
                let started = Instant::now();
                while !contains(&said(), &appears) {
                    let is_in_time = started.elapsed() < DEADLINE;
                    assert!(is_in_time, "{page}: {command}\nsays\n{}instead of\n{appears}", said());
                    std::thread::sleep(Duration::from_millis(20));
                }
                // The next server has a log of its own; this one keeps the file that it has open.
                fs::remove_file(seen(log)).unwrap();
            }
            Block::File { name, text } => {
                let file = seen(Path::new(&name));
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
        }
    }
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(fence) = lines.by_ref().find_map(|line| line.strip_prefix("```")) {
        let inside: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        match fence.split_once(' ') {
            None if fence == "console" => blocks.push(Block::Session(commands(&inside))),
            Some(("console", "server")) => {
                let (command, appears) = commands(&inside).pop().expect("a server has a command");
                blocks.push(Block::Server { command, appears });
            }
            Some((_, name)) => {
                let text = inside.iter().map(|line| format!("{line}\n")).collect();
                blocks.push(Block::File { name: name.to_owned(), text });
            }
            None => {}
        }
    }
    blocks
}

/// The commands of a block, each with the lines below it.
fn commands(block: &[&str]) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in block {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), String::new())),
            (None, Some((_, output))) => *output += &format!("{line}\n"),
            (None, None) => panic!("{line:?} is no command's output"),
        }
    }
    commands
}

/// The first block of a page whose commands nobody runs, with nothing that says why.
fn fault_of_commands(page: &str, is_played: bool) -> Option<String> {
    const TEXTS: [&str; 8] = ["elixir", "erlang", "ini", "json", "rust", "text", "toml", "yaml"];
    let elsewhere = Regex::new(r"\(run[^`)]* by `([^`]+)`\)").unwrap();
    let (mut above, mut is_inside) = (Vec::new(), false);
    for (line, number) in page.lines().zip(1..) {
        let Some(fence) = line.trim_start().strip_prefix("```") else {
            above.push(line);
            continue;
        };
        is_inside = !is_inside;
        let mut paragraphs = above.rsplit(|line| line.is_empty());
        let reason = paragraphs.find(|lines| !lines.is_empty()).unwrap_or_default().join(" ");
        let by = elsewhere.captures(&reason).is_some_and(|found| project().join(&found[1]).exists());
        above.clear();
        let fault = match fence.split(' ').next().unwrap_or_default() {
            _ if !is_inside => None,
            "console" => (!is_played).then_some("the tests do not play this page"),
            "sh" if by || reason.contains("(not run by the tests: ") => None,
            "sh" => Some("nothing above says why this is not run: (not run by the tests: ...)"),
            text => (!TEXTS.contains(&text)).then_some("neither commands nor a kind of text"),
        };
        if let Some(fault) = fault {
            return Some(format!("line {number}: {fault}"));
        }
    }
    None
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
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // What was installed anew may be in another folder.
        input.write_all(b"exec 2>&1; set +h\n").unwrap();
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
    let page = "text\n```console\n$ a\nb\n$ c\n```\n```console server\n$ s\nup\n```\n```sh\nno\n```\n```toml x/y\nz\n```\n";
    let session = vec![("a".to_owned(), "b\n".to_owned()), ("c".to_owned(), String::new())];
    let server = Block::Server { command: "s".to_owned(), appears: "up\n".to_owned() };
    let file = Block::File { name: "x/y".to_owned(), text: "z\n".to_owned() };
    assert_eq!(blocks(page), [Block::Session(session), server, file]);
}

#[test]
fn commands_that_nobody_runs_are_found() {
    let reason = "Do so (not run by the tests: no\ncluster):\n\n```sh\nx\n```\n";
    for (page, fault) in [
        (reason.to_owned(), None),
        ("Do so (run by `demo/ci`):\n\n```sh\nx\n```\n".to_owned(), None),
        ("```toml\nx = 1\n```\n".to_owned(), None),
        ("```console\n$ x\n```\n".to_owned(), Some("line 1")),
        (format!("{reason}\n```sh\ny\n```\n"), Some("line 8")),
        ("Do so (run by `absent`):\n```sh\nx\n```\n".to_owned(), Some("line 2")),
        ("- so\n  ```\n  x\n  ```\n".to_owned(), Some("line 2")),
    ] {
        let found = fault_of_commands(&page, false);
        let as_expected = match (&found, fault) {
            (Some(found), Some(fault)) => found.starts_with(fault),
            (None, None) => true,
            _ => false,
        };
        assert!(as_expected, "{page}{found:?} instead of {fault:?}");
    }
    assert_eq!(fault_of_commands("```console\n$ x\n```\n", true), None);
}
