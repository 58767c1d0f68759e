//! The Debian package, installed beside real Erlang and RabbitMQ, in a system that is thrown away.

use std::process::Command;

use repmd_test_support::{Machine as Bare, release};

use crate::{otp, output_of, run};

/// A machine with Erlang and RabbitMQ, and the package at hand.
struct Machine(Bare);

impl Machine {
    fn start() -> Self {
        Self(Bare::start(otp(25), &release()))
    }

    /// With the package installed.
    fn with_repmd() -> Self {
        let machine = Self::start();
        machine.does("dpkg -i repmd_*.deb");
        machine
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = self.0.command("sh");
        command.args(["-c", script]);
        command
    }

    /// What a script writes that must end well.
    fn does(&self, script: &str) -> String {
        output_of(&mut self.shell(script))
    }

    /// The program of the daemon that an `erl` starts by itself and registers with.
    fn started_by_erl(&self) -> String {
        let erl = "erl -noinput -sname a@localhost -eval \
            '{ok, Names} = net_adm:names(), io:format(\"~p\", [[Name || {Name, _} <- Names]]), halt().'";
        assert_eq!(self.does(erl), "[\"a\"]");
        let daemon = self.does("readlink /proc/$(pgrep -x epmd)/exe");
        self.kill_daemon();
        daemon.trim_end().to_owned()
    }

    /// Until then the daemon may not have heard of the end of its last node.
    fn kill_daemon(&self) {
        self.does("until epmd -kill; do sleep 0.1; done; while pgrep -x epmd; do sleep 0.1; done");
    }

    /// Writes down every file, link and folder but for logs and dpkg's own notes, and gives what differs from
    /// the first time.
    fn changed_files(&self) -> String {
        self.does(
            "find / -xdev \\( -path /proc -o -path /var/log -o -path /var/lib/dpkg -o -path /var/cache \
             -o -path /root -o -path /tmp \\) -prune -o -printf '%p %l %m\\n' | sort > now
             test -f first || mv now first
             test ! -f now || diff --unified=0 first now || true",
        )
    }
}

/// The stock program, moved aside.
const STOCK: &str = "/usr/lib/erlang/erts-13.1.5/bin/epmd.distrib";

#[test]
fn beside_the_stock_daemon_the_package_changes_nothing_until_it_is_chosen() {
    let machine = Machine::with_repmd();
    assert_eq!(machine.started_by_erl(), STOCK);
    assert_eq!(machine.does("find /etc/systemd -name '*epmd*' -lname '*repmd*'"), "", "no unit is enabled");
    assert_eq!(machine.does("repmd --version"), format!("repmd {}\n", env!("CARGO_PKG_VERSION")));
    machine.does("repmd check-config && dpkg --verify repmd erlang-base");
}

#[test]
fn the_package_takes_the_stock_daemons_place_and_gives_it_back() {
    let machine = Machine::with_repmd();
    machine.does("update-alternatives --set epmd /usr/bin/repmd");
    assert_eq!(machine.started_by_erl(), "/usr/bin/repmd");

    machine.does("rabbitmq-server -detached");
    machine
        .does("for i in $(seq 60); do epmd -names | grep -q 'name rabbit ' && exit; sleep 1; done; exit 1");
    machine.does("rabbitmqctl await_startup --timeout 120");
    let names = machine.does("repmd names");
    assert!(names.lines().any(|line| line == "rabbit  25672"), "{names}");
    assert_eq!(machine.does("readlink /proc/$(pgrep -x epmd)/exe"), "/usr/bin/repmd\n");
    machine.does("rabbitmqctl shutdown");
    machine.kill_daemon();

    machine.does("update-alternatives --auto epmd");
    assert_eq!(machine.started_by_erl(), STOCK);
}

#[test]
fn installing_the_package_again_keeps_its_settings_and_the_choice() {
    let machine = Machine::with_repmd();
    machine.does("echo 'port = 5000' >> /etc/repmd/repmd.toml");
    machine.does("update-alternatives --set epmd /usr/bin/repmd");
    // As from a version before this one.
    machine.does(
        "dpkg-deb -R repmd_*.deb new && sed -i 's/^Version: .*/&+1/' new/DEBIAN/control && dpkg-deb -b new new.deb",
    );
    machine.does("dpkg -i new.deb");
    assert!(machine.does("repmd check-config").contains("port = 5000 (/etc/repmd/repmd.toml)\n"));
    assert_eq!(machine.does("readlink /etc/alternatives/epmd"), "/usr/bin/repmd\n");
}

#[test]
fn a_purged_package_leaves_nothing_and_the_stock_daemon_as_it_was() {
    let machine = Machine::start();
    assert_eq!(machine.changed_files(), "");
    machine.does("dpkg -i repmd_*.deb && update-alternatives --set epmd /usr/bin/repmd");
    assert!(machine.changed_files().contains("+/usr/bin/repmd "));
    machine.does("dpkg -r repmd");
    assert_eq!(machine.started_by_erl(), STOCK.trim_end_matches(".distrib"));
    assert_eq!(
        machine.does("find /etc/repmd -type f"),
        "/etc/repmd/repmd.toml\n",
        "a removal keeps settings"
    );
    machine.does("dpkg -P repmd");
    assert_eq!(machine.changed_files(), "");
    assert_eq!(machine.does("dpkg-divert --list '*epmd*'"), "");
    assert!(!run(&mut machine.shell("update-alternatives --query epmd")).status.success());
    machine.does("dpkg --verify erlang-base");
}

/// A release of Erlang brings a folder of its own, in which the package takes the place too.
#[test]
fn the_choice_outlives_a_new_release_of_erlang_and_its_removal() {
    let machine = Machine::with_repmd();
    machine.does("update-alternatives --set epmd /usr/bin/repmd");
    machine.does(&format!(
        "mkdir -p new/DEBIAN new/usr/bin new/usr/lib/erlang/erts-99/bin &&
         cp {STOCK} new/usr/lib/erlang/erts-99/bin/epmd &&
         ln -s ../lib/erlang/erts-99/bin/epmd new/usr/bin/epmd &&
         printf 'Package: erlang-base\\nVersion: 9:99\\nArchitecture: all\\nMaintainer: x <x@x.invalid>\\n\
         Description: x\\n' > new/DEBIAN/control &&
         dpkg-deb -b new new.deb && dpkg --force-all -i new.deb"
    ));
    let new = "/usr/lib/erlang/erts-99/bin/epmd";
    assert_eq!(machine.does(&format!("readlink -f {new}")), "/usr/bin/repmd\n");
    // The old folder stays, with a program of another package.
    let all = machine.does("ls /usr/lib/erlang/erts-*/bin/epmd*");
    assert_eq!(all, format!("{new}\n{new}.distrib\n"), "nothing is left in the old folder");
    machine.does("update-alternatives --auto epmd");
    assert_eq!(machine.does("readlink -f /usr/bin/epmd"), format!("{new}.distrib\n"));

    machine.does("dpkg --force-all -r erlang-base");
    assert_eq!(machine.does("readlink -f /usr/bin/epmd"), "/usr/bin/repmd\n", "nothing else is left");
    machine.does("dpkg -P repmd && test ! -e /usr/bin/epmd && test ! -e /usr/lib/erlang/erts-99");
}
