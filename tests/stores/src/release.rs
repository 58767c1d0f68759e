//! Which program is a store's server.

use std::path::PathBuf;
use std::process::Command;

/// A release of Redis or Valkey.
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
}

impl Release {
    /// The command that starts the server.
    ///
    /// Other releases come from a Debian root in the tests' cache. Their own loader and libraries run them,
    /// so that they see the files of this machine and need no rights.
    pub(crate) fn command(self) -> Command {
        let (suite, program) = match self {
            Self::Installed => match installed() {
                Some(program) => return Command::new(program),
                None => ("bookworm", "redis-server"),
            },
            Self::Redis6 => ("bullseye", "redis-server"),
            Self::Redis8 => ("trixie", "redis-server"),
            Self::Valkey8 => ("trixie", "valkey-server"),
        };
        let root = cache().join(suite);
        let program = root.join("usr/bin").join(program);
        assert!(
            program.exists(),
            "{} is missing: `./test` makes it; redis-server by `apt-get install redis-server`, or a Docker \
             engine, would do for some of the tests",
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

fn installed() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let programs = ["redis-server", "valkey-server"];
    std::env::split_paths(&folders)
        .flat_map(|folder| programs.map(|program| folder.join(program)))
        .find(|program| program.exists())
}

/// Where `./test` keeps the Debian roots.
fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("REPMD_TEST_CACHE") {
        return cache.into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("repmd-test")
}
