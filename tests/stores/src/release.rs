//! Which program is a store's server.

use std::path::PathBuf;
use std::process::Command;

/// A release of Redis, Valkey or etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The one that is installed on this machine, or else Redis 7.0, from Debian 12.
    Installed,
    /// Redis 6.0, from Debian 11.
    Redis6,
    /// Redis 8.0, from Debian 13.
    Redis8,
    /// Valkey 8.1, from Debian 13.
    Valkey8,
    /// The etcd that is installed on this machine, or else etcd 3.4, from Debian 12.
    InstalledEtcd,
    /// etcd 3.5, from Debian 13.
    Etcd35,
}

impl Release {
    /// The command that starts the server.
    ///
    /// Other releases come from a Debian root in the tests' cache. Their own loader and libraries run them,
    /// so that they see the files of this machine and need no rights.
    pub(crate) fn command(self) -> Command {
        self.command_of(self.program())
    }

    /// The command that asks an etcd.
    pub(crate) fn etcdctl(self) -> Command {
        self.command_of("etcdctl")
    }

    fn program(self) -> &'static str {
        match self {
            Self::Installed | Self::Redis6 | Self::Redis8 => "redis-server",
            Self::Valkey8 => "valkey-server",
            Self::InstalledEtcd | Self::Etcd35 => "etcd",
        }
    }

    fn command_of(self, program: &str) -> Command {
        let (suite, installable) = match self {
            Self::Installed => match installed(&["redis-server", "valkey-server"]) {
                Some(program) => return Command::new(program),
                None => ("bookworm", "redis-server by `apt-get install redis-server`"),
            },
            Self::InstalledEtcd => match installed(&[program]) {
                Some(program) => return Command::new(program),
                None => ("bookworm", "etcd by `apt-get install etcd-server etcd-client`"),
            },
            Self::Redis6 => ("bullseye", "redis-server by `apt-get install redis-server`"),
            Self::Redis8 | Self::Valkey8 => ("trixie", "redis-server by `apt-get install redis-server`"),
            Self::Etcd35 => ("trixie", "etcd by `apt-get install etcd-server etcd-client`"),
        };
        let root = debian_root(suite);
        let program = root.join("usr/bin").join(program);
        assert!(
            program.exists(),
            "{} is missing: `./test` makes it; {installable}, or a Docker engine, would do for some of the tests",
            program.display()
        );
        let machine = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries: Vec<_> = ["lib", "usr/lib"]
            .iter()
            .map(|folder| root.join(folder).join(&machine).display().to_string())
            .collect();
        let loader = std::fs::read_dir(root.join("lib").join(&machine))
            .expect("a Debian root has libraries")
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-")))
            .expect("a Debian root has a loader");
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(libraries.join(":")).arg(program);
        command
    }
}

fn installed(programs: &[&str]) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .flat_map(|folder| programs.iter().map(move |program| folder.join(program)).collect::<Vec<_>>())
        .find(|program| program.exists())
}

/// The root file system of a Debian release that `./test` has made.
pub(crate) fn debian_root(suite: &str) -> PathBuf {
    cache().join(suite)
}

/// Where `./test` keeps them.
fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("REPMD_TEST_CACHE") {
        return cache.into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("repmd-test")
}
