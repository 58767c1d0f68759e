//! Root file systems of other Debian releases, whose programs run by `chroot`.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A Debian release with its programs, in this machine's network. `tests/roots` makes it.
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
}

/// A folder in a root, gone on drop.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    inside: PathBuf,
}

impl Root {
    /// The root of a release, such as `bookworm`.
    #[must_use]
    pub fn of(release: &str) -> Self {
        let path = cache().join(release);
        // Written last.
        let made = path.join(".packages");
        assert!(
            made.exists(),
            "{} is missing: run `./test`, or `tests/roots {release}`, as root",
            made.display()
        );
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs one of its programs, with only those variables that every program needs.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.path).arg(program);
        self.clear_environment(&mut command);
        command
    }

    /// The same, in namespaces of its own: what it starts in the background ends with it, it sees `/proc`,
    /// and is on `localhost`, whose address the root knows. `mounts` are pairs of a folder of this machine and the folder of the root that shows it.
    #[must_use]
    pub fn contained_command(&self, program: &str, mounts: &[(&Path, &str)]) -> Command {
        let mut script = "hostname localhost && mount -t proc proc \"$0/proc\"".to_owned();
        let mut arguments = vec![self.path.clone().into_os_string()];
        for (folder, inside) in mounts {
            script += &format!(" && mount --bind \"$1\" \"$0{inside}\" && shift");
            arguments.push(folder.into());
        }
        script += " && exec chroot \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
        command.args(arguments).arg(program);
        self.clear_environment(&mut command);
        command
    }

    fn clear_environment(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
    }

    /// A new folder that its programs see too.
    #[must_use]
    pub fn scratch(&self) -> Scratch {
        let folder = TempDir::new_in(self.path.join("tmp")).expect("a root has a writable /tmp");
        let inside = Path::new("/tmp").join(folder.path().file_name().expect("a new folder has a name"));
        Scratch { folder, inside }
    }
}

impl Scratch {
    /// Where it is for us.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where it is for the programs of the root.
    #[must_use]
    pub fn inside(&self) -> &Path {
        &self.inside
    }
}

/// As `tests/roots` has it.
fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("REPMD_TEST_CACHE").unwrap_or_else(|| {
        let home = || set("HOME").expect("HOME is set").join(".cache");
        set("XDG_CACHE_HOME").unwrap_or_else(home).join("repmd-test")
    })
}
