//! Commands that ask an admin API, where several daemons are on one machine.

use std::process::Stdio;

use repmd_test_support::{Daemon, Peer, alive2, in_own_network, lookup_port, wait_until};

use crate::{Done, SOON, done, epmd, register, repmd};

fn serve(port: u16, flags: &[&str]) -> Daemon {
    let mut command = repmd(["serve", "--host", "here", "--port", &port.to_string()]);
    command.args(flags).stderr(Stdio::null());
    Daemon::spawn(command, port)
}

/// The nodes that `repmd nodes` shows with these flags.
fn shown(flags: &[&str]) -> Vec<String> {
    let result = done(repmd(["nodes"]).args(flags));
    assert_eq!((result.exit, &*result.stderr), (0, ""), "{flags:?}");
    let nodes = result.stdout.lines().skip(1);
    nodes.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// All three were shown as the first.
#[test]
fn each_command_asks_the_daemon_on_its_port_and_no_other() {
    in_own_network(|| {
        let daemons = [serve(4369, &[]), serve(4371, &[]), serve(4373, &["--admin", "127.0.0.1:4380"])];
        let _nodes: Vec<_> =
            daemons.iter().map(|daemon| register(daemon.port(), &format!("on-{}", daemon.port()))).collect();
        assert_eq!(shown(&[]), ["on-4369@here"]);
        for port in ["4369", "4371", "4373"] {
            assert_eq!(shown(&["--port", port]), [format!("on-{port}@here")]);
            let lookup = done(&mut repmd(["lookup", &format!("on-{port}"), "--port", port]));
            assert!(lookup.stdout.contains("  from this daemon, held by "), "{lookup:?}");
        }
        // What a file says is said of one daemon. So is a variable, unless the port is from another place.
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"admin = \"127.0.0.1:4370\"\nport = 4369\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(shown(&["--config", path, "--port", "4371"]), ["on-4371@here"]);
        assert_eq!(shown(&["--admin", "127.0.0.1:4370", "--port", "4371"]), ["on-4369@here"]);
        let mut other = repmd(["nodes", "--port", "4373"]);
        assert!(done(other.env("REPMD_ADMIN", "127.0.0.1:4370")).stdout.contains("on-4373@here"));
        let named = done(repmd(["nodes"]).env("REPMD_ADMIN", "127.0.0.1:4380"));
        assert!(named.stdout.contains("on-4373@here"), "{named:?}");
    });
}

#[test]
fn status_is_one_screen_and_its_exit_says_whether_all_is_well() {
    in_own_network(|| {
        let well = serve(4369, &["--alias", "here.example"]);
        let _node = register(well.port(), "n");
        let shown = done(&mut repmd(["status"]));
        assert_eq!((shown.exit, &*shown.stderr), (0, ""));
        let version = env!("CARGO_PKG_VERSION");
        for line in [
            format!("daemon        repmd {version} on port 4369, up for "),
            "host          here, here.example\n".to_owned(),
            "page          http://127.0.0.1:4370/\n".to_owned(),
            "store         none: this host's nodes are known to this host alone\n".to_owned(),
            "nodes         1\n".to_owned(),
            "dns           off\n".to_owned(),
            "now           all is well\n".to_owned(),
            "last trouble  none since it started\n".to_owned(),
        ] {
            assert!(shown.stdout.contains(&line), "{line}: {}", shown.stdout);
        }
        let json = |flags: &[&str]| {
            let result = done(repmd(["status", "--json"]).args(flags));
            (result.exit, serde_json::from_str::<serde_json::Value>(&result.stdout).unwrap())
        };
        let (exit, status) = json(&[]);
        assert_eq!((exit, &status["nodes"], &status["admin"]), (0, &1.into(), &"127.0.0.1:4370".into()));

        let flags =
            ["--backend", "redis://127.0.0.1:1", "--advertise", "10.0.0.1", "--dns", "127.0.0.1:5300"];
        let _troubled = serve(4371, &flags);
        let port = ["--port", "4371"];
        wait_until("the store is found away", SOON, || json(&port).0 == 1);
        let shown = done(repmd(["status"]).args(port));
        for line in [
            "store         redis://127.0.0.1:1, cluster default: away for ",
            "dns           zone repmd at 127.0.0.1:5300\n",
            "now           the registry is away for less than a minute: no answer from the registry: Connection refused\n",
            " store_lost no answer from the registry: Connection refused\n",
        ] {
            assert!(shown.stdout.contains(line), "{line}: {}", shown.stdout);
        }
        // As a node that starts twice.
        let mut second = Peer::connect(4369);
        second.send(&alive2("n", 4321)).unwrap();
        assert_eq!(second.read(6, SOON)[1], 1);
        let (_, status) = json(&[]);
        assert_eq!(
            (&status["last_trouble"]["event"], &status["last_trouble"]["node"]),
            (&"refused".into(), &"n@here".into())
        );
        assert_eq!(done(&mut repmd(["status", "--port", "4373"])).exit, 2);
    });
}

#[test]
fn a_daemon_without_an_api_is_said_to_have_none_though_another_has_one() {
    in_own_network(|| {
        let _first = serve(4369, &[]);
        let _off = serve(4371, &["--admin", "off"]);
        let mut classic = epmd("-port 4373");
        classic.stderr(Stdio::null());
        let _classic = Daemon::spawn(classic, 4373);
        for command in ["nodes", "events"] {
            for port in ["4371", "4373"] {
                let result = done(&mut repmd([command, "--port", port]));
                assert_eq!((result.exit, &*result.stdout), (2, ""));
                let said = format!("repmd: the daemon on port {port} has no admin API: ");
                assert!(result.stderr.starts_with(&said), "{command}: {}", result.stderr);
            }
            let said =
                "repmd: no EPMD at this host, port 4375: nothing listens there; `repmd serve` starts one\n";
            assert_eq!(done(&mut repmd([command, "--port", "4375"])), Done::new(2, "", said));
        }
    });
}

/// Whoever shows a token shows it to the daemon.
#[test]
fn no_node_takes_the_place_of_the_api_by_its_name() {
    in_own_network(|| {
        for (daemon, place) in [(serve(4369, &[]), Some(4370)), (serve(4371, &["--admin", "off"]), None)] {
            let _node: Peer = register(daemon.port(), "@/admin");
            assert_eq!(lookup_port(daemon.port(), "@/admin").map(|found| found.port), place);
        }
    });
}
