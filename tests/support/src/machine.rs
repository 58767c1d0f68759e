//! A whole machine, that is thrown away.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Root, wait_until};

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
        let booted = r#"
            # The shell takes leave of processes whose parents have ended.
            exec chroot /mnt/root sh -c 'echo ready; sleep infinity & wait'"#;
        Self::boot(root, files, "", booted)
    }

    /// Starts it with systemd as its first process, once all its services have started.
    #[must_use]
    pub fn with_systemd(root: Root) -> Self {
        // A group of its own, for systemd to make groups below.
        let before = "mount -t cgroup2 cgroup2 /mnt && mkdir /mnt/repmd-test-$$ &&
            echo $$ > /mnt/repmd-test-$$/cgroup.procs && umount /mnt &&";
        let booted = r#"
            cd /mnt/root && echo localhost > etc/hostname && mount -t sysfs -o ro sysfs sys &&
            mount -t cgroup2 cgroup2 sys/fs/cgroup && mount -t tmpfs -o mode=755 tmpfs run &&
            mount -t tmpfs -o mode=755 tmpfs dev && mkdir dev/pts &&
            mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts && ln -s pts/ptmx dev/ptmx &&
            for device in null zero full random urandom tty; do
                touch dev/$device && mount --bind /dev/$device dev/$device || exit
            done &&
            ln -s null dev/console && ln -s /proc/self/fd dev/fd &&
            # What is not only this machine's.
            for service in systemd-modules-load systemd-sysctl console-getty; do
                ln -s /dev/null etc/systemd/system/$service.service || exit
            done &&
            mkdir old && pivot_root . old && umount -l old && rmdir old && echo ready &&
            exec env -i container=repmd-test PATH="$PATH" /lib/systemd/systemd <> /dev/null > /dev/null 2>&1"#;
        let machine = Self::boot(root, &[], before, booted);
        wait_until("systemd has started all services", Duration::from_secs(60), || {
            let output = machine.command("systemctl").arg("is-system-running").output();
            let state = output.expect("systemctl runs").stdout;
            matches!(state.trim_ascii(), b"running" | b"degraded")
        });
        machine
    }

    /// `before`: what happens outside of its namespaces. `booted`: what it does then, beginning with a line that says so.
    fn boot(root: Root, files: &[PathBuf], before: &str, booted: &str) -> Self {
        let script = r#"
            mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/root &&
            mount -t overlay -o "lowerdir=$0,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root &&
            hostname localhost && ip link set lo up && mount -t proc proc /mnt/root/proc &&
            # Other tests have an empty folder there.
            rm -rf /mnt/root/etc/repmd && for file; do cp "$file" /mnt/root/root || exit; done && "#;
        let namespaces = "--mount --net --pid --ipc --uts --cgroup --fork --kill-child";
        let outside = format!("{before} exec unshare {namespaces} sh -c \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &outside, "sh", &format!("{script}{booted}")]);
        command.arg(root.path()).args(files);
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
        // Its groups, if it has made some, which take no process that still ends.
        let script = r#"mount -t cgroup2 cgroup2 /mnt && cd /mnt/repmd-test-$0 2> /dev/null &&
            for i in $(seq 50); do find . -depth -type d -exec rmdir {} + 2> /dev/null; cd .. &&
            rmdir repmd-test-$0 2> /dev/null && break; sleep 0.1; cd repmd-test-$0; done"#;
        let _ = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, &self.unshare.id().to_string()])
            .status();
    }
}

/// What `deploy/release` has made: a Debian package, a tarball and more.
#[must_use]
pub fn release() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release-", env!("CARGO_PKG_VERSION"));
    let files = std::fs::read_dir(folder).expect("deploy/release has made a release");
    files.map(|file| file.expect("a folder can be read").path()).collect()
}
