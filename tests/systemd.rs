//! The units under a real systemd, the first process of a machine of its own, with real nodes.
#![allow(clippy::unwrap_used)] // All of this is tests.

use std::fs;
use std::path::Path;
use std::time::Duration;

use repmd_test_support::{Machine as Bare, Root, release, wait_until};

/// For what a node or a service does by itself.
const SOON: Duration = Duration::from_secs(30);

/// Releases of Debian with systemd 252 and 257.
const RELEASES: [&str; 2] = ["bookworm-systemd", "trixie-systemd"];

/// A machine on which repmd is the service in the stock daemon's place.
struct Machine(Bare);

impl Machine {
    fn start(release: &str) -> Self {
        let machine = Self(Bare::with_systemd(Root::of(release)));
        machine.put(Path::new(env!("CARGO_BIN_EXE_repmd")), "/usr/bin/repmd");
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
        for unit in ["repmd.service", "repmd.socket"] {
            machine.put(&units.join(unit), &format!("/usr/lib/systemd/system/{unit}"));
        }
        machine.does("mkdir -p /etc/repmd && echo 'lookup = \"host\"' > /etc/repmd/repmd.toml");
        machine.takes_stocks_place();
        machine
    }

    fn put(&self, file: &Path, place: &str) {
        fs::copy(file, self.0.path(Path::new(place))).unwrap();
    }

    /// What a script writes that must end well.
    fn does(&self, script: &str) -> String {
        let output = self.0.command("sh").args(["-c", script]).output().unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}: {}\n{text}{errors}{}", output.status, self.log());
        text.into_owned()
    }

    /// Whether a script ends well.
    fn is(&self, script: &str) -> bool {
        self.0.command("sh").args(["-c", script]).output().unwrap().status.success()
    }

    fn log(&self) -> String {
        let output = self.0.command("journalctl").args(["-u", "repmd", "-o", "cat"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn takes_stocks_place(&self) {
        self.does(
            "systemctl daemon-reload && systemctl disable --quiet --now epmd.socket epmd.service 2>&1 &&
             systemctl enable --quiet --now repmd.socket repmd.service 2>&1",
        );
    }

    fn start_nodes<const COUNT: usize>(&self, names: [&str; COUNT]) {
        for name in names {
            self.does(&format!("erl -sname {name}@localhost -noinput -detached -start_epmd false"));
        }
        wait_until(&format!("{names:?} are registered"), SOON, || {
            let there = self.names();
            names.iter().all(|name| there.iter().any(|there| there == name))
        });
    }

    fn wait_for_nodes(&self, names: &[&str]) {
        let mut sorted = names.to_vec();
        sorted.sort_unstable();
        wait_until(&format!("{names:?} are registered, and no others"), SOON, || self.names() == sorted);
    }

    /// The names that the daemon has, sorted.
    fn names(&self) -> Vec<String> {
        let output = self.0.command("repmd").arg("names").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().filter(|line| !line.starts_with("NAME "));
        let mut names: Vec<_> =
            names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    /// How often nodes have registered, which one does that notices anything.
    fn registrations(&self) -> usize {
        self.log().matches(" registered name=").count()
    }

    /// How many descriptors systemd keeps for the service.
    fn kept(&self) -> usize {
        self.does("systemctl show -P NFileDescriptorStore repmd").trim().parse().unwrap()
    }

    fn pid(&self) -> String {
        self.does("systemctl show -P MainPID repmd").trim().to_owned()
    }

    /// More often than systemd has it by itself: five times in ten seconds.
    fn restart(&self) {
        self.does("systemctl reset-failed repmd && systemctl restart repmd");
    }

    /// Ends the daemon, which is started again.
    fn kill(&self) {
        let pid = self.pid();
        self.does(&format!("systemctl reset-failed repmd && kill -9 {pid}"));
        wait_until("it is started again", SOON, || {
            self.pid() != pid && self.is("systemctl --quiet is-active repmd")
        });
    }

    fn went_on(&self) -> usize {
        self.log().matches("went on from the run before").count()
    }
}

#[test]
fn a_service_that_restarts_or_crashes_keeps_its_nodes_and_none_of_them_notices() {
    for release in RELEASES {
        let machine = Machine::start(release);
        machine.start_nodes(["a", "b", "c"]);
        wait_until("all are kept, and the state", SOON, || machine.kept() == 4);
        let ports = machine.does("repmd names");
        // Look-ups wait in the socket while nobody serves.
        machine.does(
            ": > failures; (until test -e over; do repmd lookup a@localhost > /dev/null 2>> failures || echo failed >> failures; done; touch ended) > /dev/null 2>&1 &",
        );
        for turn in 0..3 {
            machine.restart();
            assert_eq!(machine.does("repmd names"), ports, "{release}, turn {turn}");
        }
        machine.does("touch over; until test -e ended; do sleep 0.1; done");
        assert_eq!(machine.does("cat failures"), "", "{release}");
        // Those that are on their way when it crashes end with it.
        for turn in 0..3 {
            machine.kill();
            assert_eq!(machine.does("repmd names"), ports, "{release}, turn {turn}");
        }
        assert_eq!((machine.registrations(), machine.went_on()), (3, 6), "{release}: {}", machine.log());
        // A node that ends is let go by systemd too, whether it ends under the daemon or between two of them.
        machine.does("pkill -f '[s]name a@'");
        machine.wait_for_nodes(&["b", "c"]);
        wait_until("its connection is not kept any longer", SOON, || machine.kept() == 3);
        machine.does("systemctl kill -s STOP repmd && pkill -f '[s]name b@'");
        machine.kill();
        machine.wait_for_nodes(&["c"]);
        wait_until("nor is that of the other one", SOON, || machine.kept() == 2);
        machine.start_nodes(["a"]);
        machine.wait_for_nodes(&["a", "c"]);
    }
}

#[test]
fn what_was_kept_and_cannot_be_read_leaves_a_normal_start() {
    let machine = Machine::start("bookworm-systemd");
    machine.start_nodes(["a", "b"]);
    // The daemon and systemd have the same file.
    let damage = |script: &str| {
        let pid = machine.pid();
        machine.does(&format!(
            "for fd in /proc/{pid}/fd/*; do case $(readlink $fd) in *repmd-kept*) {script} ;; esac; done"
        ));
    };
    let state = "bookworm: 3 are kept";
    for (turn, script) in [
        "truncate -s 0 $fd",
        "truncate -s 100 $fd",
        "head -c 10000 /dev/urandom > $fd",
        "echo 'instance-name = \"another\"' >> /etc/repmd/repmd.toml",
    ]
    .into_iter()
    .enumerate()
    {
        wait_until(state, SOON, || machine.kept() == 3);
        damage(script);
        machine.kill();
        machine.wait_for_nodes(&["a", "b"]);
        let refused = machine.log().matches("cannot go on from the run before").count();
        assert_eq!((refused, machine.registrations()), (turn + 1, 2 * (turn + 2)), "{}", machine.log());
    }
    wait_until("connections of before are not kept", SOON, || machine.kept() == 3);
    machine.restart();
    assert_eq!((machine.went_on(), machine.names().len()), (1, 2), "{}", machine.log());
}

#[test]
fn a_service_that_is_stopped_lets_its_nodes_go_unless_systemd_is_to_keep_them() {
    let machine = Machine::start("trixie-systemd");
    machine.start_nodes(["a", "b"]);
    // Nodes find whoever is in its place then.
    machine.does(
        "systemctl disable --quiet --now repmd.socket repmd.service 2>&1 && epmd -daemon &&
         for i in $(seq 100); do test $(epmd -names | grep -c ' at port ') = 2 && exit; sleep 0.1; done; exit 1",
    );
    machine.does("pkill -x epmd; while pgrep -x epmd; do sleep 0.1; done");
    machine.takes_stocks_place();
    machine.wait_for_nodes(&["a", "b"]);
    let registrations = machine.registrations();
    machine.does(
        "mkdir /run/systemd/system/repmd.service.d && cd /run/systemd/system/repmd.service.d &&
         printf '[Service]\nFileDescriptorStorePreserve=yes\n' > keep.conf && systemctl daemon-reload",
    );
    wait_until("all are kept, and the state", SOON, || machine.kept() == 3);
    machine.does("systemctl stop repmd.socket repmd.service && pkill -f '[s]name b@' && sleep 3");
    machine.does("systemctl start repmd.socket repmd.service");
    machine.wait_for_nodes(&["a"]);
    assert_eq!((machine.registrations(), machine.went_on()), (registrations, 1), "{}", machine.log());
}

#[test]
fn a_service_that_is_stopped_and_whose_socket_is_not_has_its_nodes_back_when_they_connect() {
    for release in RELEASES {
        let machine = Machine::start(release);
        machine.start_nodes(["a", "b"]);
        wait_until("all are kept, and the state", SOON, || machine.kept() == 3);
        machine.does("systemctl stop repmd.service 2>&1");
        wait_until("they have registered again", SOON, || machine.registrations() == 4);
        machine.wait_for_nodes(&["a", "b"]);
        assert_eq!(machine.went_on(), 0, "{release}: {}", machine.log());
    }
}

#[test]
fn a_reload_is_an_upgrade_and_the_service_goes_on_in_all_its_confinement() {
    for release in RELEASES {
        let machine = Machine::start(release);
        machine.start_nodes(["a", "b"]);
        let pid = machine.pid();
        machine.does("cp /usr/bin/repmd /usr/bin/new && mv /usr/bin/new /usr/bin/repmd");
        assert!(machine.is(&format!("readlink /proc/{pid}/exe | grep -q deleted")), "{release}");
        machine.does("systemctl reload repmd");
        assert_eq!(machine.pid(), pid, "{release}");
        assert_eq!(machine.does(&format!("readlink /proc/{pid}/exe")), "/usr/bin/repmd\n", "{release}");
        // What it was given before, it keeps; what came since is kept, too.
        machine.start_nodes(["c"]);
        machine.wait_for_nodes(&["a", "b", "c"]);
        wait_until("each is kept once", SOON, || machine.kept() == 4);
        machine.kill();
        machine.wait_for_nodes(&["a", "b", "c"]);
        assert_eq!(machine.registrations(), 3, "{release}: {}", machine.log());
        machine.does("repmd status && repmd doctor && repmd links --json > links && test -s links");
    }
}

/// As an administrator has it: what `deploy/release` has made, in the stock daemon's place.
#[test]
fn the_package_is_upgraded_under_the_nodes_of_its_service() {
    let machine = Machine(Bare::with_systemd(Root::of("bookworm-systemd")));
    let package = release().into_iter().find(|file| file.extension().is_some_and(|end| end == "deb"));
    machine.put(&package.unwrap(), "/root/repmd.deb");
    machine.does("dpkg -i repmd.deb");
    machine.takes_stocks_place();
    machine.start_nodes(["a", "b"]);
    let pid = machine.pid();
    machine.does(
        "dpkg-deb -R repmd.deb new && sed -i 's/^Version: .*/&+1/' new/DEBIAN/control && dpkg-deb -Zgzip -b new new.deb &&
         dpkg -i new.deb",
    );
    assert!(machine.log().contains("went on from the program before nodes=2 lost=0"), "{}", machine.log());
    assert_eq!((machine.pid(), machine.registrations()), (pid, 2), "{}", machine.log());
    machine.does("dpkg -r repmd");
    machine.does("systemctl enable --quiet --now epmd.socket epmd.service 2>&1");
    machine.does("for i in $(seq 100); do test $(epmd -names | grep -c ' at port ') = 2 && exit; sleep 0.1; done; exit 1");
}
