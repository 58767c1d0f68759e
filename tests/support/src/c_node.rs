//! Nodes that use `ei`, Erlang's C library.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{COOKIE, Root, run};

/// The C node, compiled.
#[derive(Debug)]
pub struct CProgram {
    path: PathBuf,
    _folder: TempDir,
}

/// A running C node, which answers every message; killed on drop.
#[derive(Debug)]
pub struct CNode(Child);

impl CProgram {
    /// Compiles it with the `ei` of a release that has `erlang-dev`. Takes `cc`.
    #[must_use]
    pub fn compile(root: &Root) -> Self {
        let folder = TempDir::new().expect("there is room for a program");
        let (path, source) =
            (folder.path().join("c_node"), Path::new(env!("CARGO_MANIFEST_DIR")).join("src/c_node.c"));
        let text = |path: &Path| path.to_str().expect("paths of tests are text").to_owned();
        let (include, library) =
            (text(&root.path().join("usr/include")), text(&root.path().join("usr/lib/libei.a")));
        run(
            "cc",
            &["-Wall", "-Werror", "-pthread", "-I", &include, "-o", &text(&path), &text(&source), &library],
        );
        Self { path, _folder: folder }
    }
}

impl CNode {
    /// Starts `NAME@HOST`, which listens at `address` and is registered with the daemon on `epmd_port` then. It is
    /// connected with `peer`, an alive name and the address of its EPMD, if there is one.
    #[must_use]
    pub fn start(
        program: &CProgram,
        [name, host]: [&str; 2],
        address: IpAddr,
        epmd_port: u16,
        peer: Option<(&str, IpAddr)>,
    ) -> Self {
        let mut command = Command::new(&program.path);
        command.args([name, COOKIE, host, &address.to_string()]);
        if let Some((peer, at)) = peer {
            command.args([peer, &at.to_string()]);
        }
        command.env("ERL_EPMD_PORT", epmd_port.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a compiled program starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("standard output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("the program writes text");
        let node = Self(child);
        assert_eq!(line, "registered\n", "{name}@{host} starts");
        node
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is a child").is_some()
    }
}

impl Drop for CNode {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
