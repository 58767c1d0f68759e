//! A whole machine, that is thrown away.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Root;

/// A machine of its own: the files of a root, of which nothing that happens here is kept, with processes and
/// a network that end with it. Its host name is `localhost`, and no service runs.
#[derive(Debug)]
pub struct Machine {
    unshare: Child,
    /// The process that holds its namespaces.
    pid: String,
    _root: Root,
}

impl Machine {
    /// Starts it, with copies of `files` in its `/root`.
    #[must_use]
    pub fn start(root: Root, files: &[PathBuf]) -> Self {
        let script = r#"
            mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/root &&
            mount -t overlay -o "lowerdir=$0,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root &&
            hostname localhost && ip link set lo up && mount -t proc proc /mnt/root/proc &&
            # Other tests have an empty folder there.
            rm -rf /mnt/root/etc/repmd && for file; do cp "$file" /mnt/root/root || exit; done &&
            # The shell takes leave of processes whose parents have ended.
            exec chroot /mnt/root sh -c 'echo ready; sleep infinity & wait'"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c"]);
        command.arg(script).arg(root.path()).args(files);
        let mut unshare =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("unshare starts");
        let mut line = String::new();
        let output = unshare.stdout.take().expect("standard output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("a pipe can be read");
        assert_eq!(line, "ready\n", "the machine does not start");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let pid = std::fs::read_to_string(children).expect("unshare runs").trim().to_owned();
        Self { unshare, pid, _root: root }
    }

    /// Runs one of its programs, as root in `/root`.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid, "--all", "--root", "--wd"]);
        command.args(["env", "--chdir=/root", program]);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8");
        command.env("HOME", "/root").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Where one of its files is for us.
    #[must_use]
    pub fn path(&self, file: &Path) -> PathBuf {
        let file = Path::new("/root").join(file);
        Path::new(&format!("/proc/{}/root", self.pid)).join(file.strip_prefix("/").expect("it is absolute"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// What `deploy/release` has made: a Debian package, a tarball and more.
#[must_use]
pub fn release() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release-", env!("CARGO_PKG_VERSION"));
    let files = std::fs::read_dir(folder).expect("deploy/release has made a release");
    files.map(|file| file.expect("a folder can be read").path()).collect()
}
