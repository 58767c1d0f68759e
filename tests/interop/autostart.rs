//! `erl` starts our program by itself where it stands in the place of `epmd`.

use std::path::Path;
use std::process::Command;

use repmd_test_support::{ErlangNode, Root, Scratch, epmd_program, free_port, wait_until};

use crate::{REPMD, SOON, otp, output_of, run};

/// An Erlang whose `epmd` is ours, as a release with an Erlang of its own may have it.
struct Erlang {
    root: Root,
    bin: Scratch,
    /// What the root shows as `/etc/repmd`.
    etc: Scratch,
    port: u16,
}

impl Erlang {
    fn with_our_epmd() -> Self {
        let root = otp(25);
        let (bin, etc) = (root.scratch(), root.scratch());
        std::fs::create_dir_all(root.path().join("etc/repmd")).expect("a root can be written to");
        for entry in std::fs::read_dir(root.path().join(&stock_bin(&root)[1..])).expect("OTP has programs") {
            let name = entry.expect("a folder can be read").file_name();
            if name != "epmd" {
                let target = Path::new(&stock_bin(&root)).join(&name);
                std::os::unix::fs::symlink(target, bin.path().join(&name))
                    .expect("a new folder takes a link");
            }
        }
        // A copy, because the programs of a root see no link that leaves it.
        std::fs::copy(REPMD, bin.path().join("epmd")).expect("a new folder takes a file");
        Self { root, bin, etc, port: free_port() }
    }

    /// Starts `NAME@localhost`. What it starts in the background ends with it.
    fn start(&self, name: &str, variables: &[(&str, &str)]) -> ErlangNode {
        let erlexec = self.bin.inside().join("erlexec");
        let mut command = self.command(erlexec.to_str().expect("a scratch folder's name is text"), variables);
        command.args(["-sname", &format!("{name}@localhost")]);
        ErlangNode::spawn(command, &self.root, self.port)
    }

    /// Runs a program with the variables that the script `erl` sets, and some more.
    fn command(&self, program: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = self.root.contained_command(program, &[(self.etc.path(), "/etc/repmd")]);
        command.env("ROOTDIR", "/usr/lib/erlang").env("BINDIR", self.bin.inside());
        command.env("EMU", "beam").env("PROGNAME", "erl").envs(variables.iter().copied());
        command
    }

    /// Whether its daemon lets a client unregister `name`, which it does when a setting says so.
    fn stops(&self, name: &str) -> bool {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let mut command = Command::new(epmd_program(REPMD, folder.path()));
        run(command.args(["-port", &self.port.to_string(), "-stop", name])).stdout == b"STOPPED\n"
    }
}

/// Where OTP has its programs, in the root.
fn stock_bin(root: &Root) -> String {
    let folders = std::fs::read_dir(root.path().join("usr/lib/erlang")).expect("the root has an Erlang");
    let names = folders.map(|folder| folder.expect("a folder can be read").file_name());
    let erts = names.map(|name| name.to_string_lossy().into_owned()).find(|name| name.starts_with("erts-"));
    format!("/usr/lib/erlang/{}/bin", erts.expect("OTP has a runtime system"))
}

#[test]
fn erl_starts_our_epmd_once_and_the_next_node_finds_it() {
    let erlang = Erlang::with_our_epmd();
    let mut a = erlang.start("a", &[]);
    let mut b = erlang.start("b", &[]);
    assert_eq!(a.ping("b"), "pong");
    assert_eq!(b.ping("a"), "pong");
    assert!(!erlang.stops("a"), "nothing has relaxed the daemon");
    // It is the first node's.
    a.kill();
    wait_until("the daemon has ended", SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", erlang.port)).is_err()
    });
}

#[test]
fn our_epmd_started_by_erl_finds_its_settings_in_etc() {
    let erlang = Erlang::with_our_epmd();
    std::fs::write(erlang.etc.path().join("repmd.toml"), "relaxed-command-check = true\n").unwrap();
    let _a = erlang.start("a", &[]);
    assert!(erlang.stops("a"));
}

#[test]
fn our_epmd_started_by_erl_finds_its_settings_in_the_environment() {
    let erlang = Erlang::with_our_epmd();
    let _a = erlang.start("a", &[("REPMD_RELAXED_COMMAND_CHECK", "true")]);
    assert!(erlang.stops("a"));
}

#[test]
fn our_epmd_started_by_erl_finds_its_file_by_the_environment() {
    let erlang = Erlang::with_our_epmd();
    std::fs::write(erlang.etc.path().join("other.toml"), "relaxed-command-check = true\n").unwrap();
    let _a = erlang.start("a", &[("REPMD_CONFIG", "/etc/repmd/other.toml")]);
    assert!(erlang.stops("a"));
}

#[test]
fn our_epmd_outlives_the_node_that_started_it() {
    let erlang = Erlang::with_our_epmd();
    let mut shell = erlang.command("sh", &[]);
    let script = "$BINDIR/erlexec -noshell -sname a@localhost -eval 'halt().' && epmd -names";
    let home = erlang.root.scratch();
    shell.env("HOME", home.inside()).env("ERL_EPMD_PORT", erlang.port.to_string());
    let printed = output_of(shell.args(["-c", script]));
    assert_eq!(printed, format!("epmd: up and running on port {} with data:\n", erlang.port));
}
