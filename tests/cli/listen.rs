//! Which addresses are listened on.

use std::net::TcpStream;

use repmd_test_support::{Daemon, free_port, in_own_network, lookup_port, names};

use crate::{Done, done, epmd, repmd, start};

fn assert_listens(daemon: &Daemon, address: &str) {
    let connected = TcpStream::connect((address, daemon.port()));
    connected.unwrap_or_else(|error| panic!("{address}, port {}: {error}", daemon.port()));
}

/// The stock daemon meets its own socket there, and exits with 0.
#[test]
fn an_address_that_is_listed_twice_or_covered_by_another_is_listened_on_once() {
    for list in
        ["0.0.0.0", "::", "0.0.0.0,::", "127.0.0.5,127.0.0.5", "127.0.0.1,::1,127.0.0.1", "0.0.0.0,127.0.0.9"]
    {
        let daemon = start(&format!("-address {list}"));
        assert_listens(&daemon, "127.0.0.1");
        assert_listens(&daemon, "::1");
        assert!(names(daemon.port()).is_empty(), "{list}");
    }
}

/// The stock daemon ends with "cannot listen on more than 16 IP addresses".
#[test]
fn more_than_fifteen_addresses_can_be_listened_on() {
    let list: Vec<_> = (1..=40).map(|last| format!("127.0.9.{last}")).collect();
    let daemon = start(&format!("-address {}", list.join(",")));
    list.iter().for_each(|address| assert_listens(&daemon, address));
}

#[test]
fn an_address_of_another_machine_ends_the_start() {
    let result = done(&mut epmd(&format!("-port {} -address 198.51.100.7", free_port())));
    assert_eq!((result.exit, &*result.stdout), (1, ""));
    assert!(result.stderr.contains("failed to bind on ipaddr 198.51.100.7: "), "{}", result.stderr);
}

#[test]
fn an_address_in_use_ends_the_classic_start_with_0_and_the_modern_one_with_1() {
    let daemon = start("-address 127.0.0.1");
    let port = daemon.port().to_string();
    assert_eq!(done(&mut epmd(&format!("-port {port}"))), Done::new(0, "", ""));
    assert_eq!(done(&mut epmd(&format!("-port {port} -daemon"))), Done::new(0, "", ""));
    let strict = done(&mut repmd(["serve", "--port", &port]));
    assert_eq!((strict.exit, &*strict.stdout), (1, ""));
    assert!(strict.stderr.contains(&format!(":{port} is taken: ")), "{}", strict.stderr);
    assert!(lookup_port(daemon.port(), "nobody").is_none());
}

#[test]
fn without_settings_port_4369_is_listened_on_and_asked() {
    in_own_network(|| {
        let mut command = epmd("");
        command.stderr(std::process::Stdio::null());
        let daemon = Daemon::spawn(command, 4369);
        assert_eq!(
            done(&mut epmd("-names")),
            Done::new(0, "epmd: up and running on port 4369 with data:\n", "")
        );
        assert_listens(&daemon, "::1");
    });
}

/// A container's network often has IPv4 alone.
#[test]
fn a_network_without_ipv6_is_served_over_ipv4() {
    for disabled in ["lo", "all"] {
        in_own_network(|| {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{disabled}/disable_ipv6"), "1").unwrap();
            assert!(std::net::TcpListener::bind(("::1", 0)).is_err(), "there is no ::1");
            for flags in ["", "-address 127.0.0.1", "-address 127.0.0.2"] {
                let daemon = start(flags);
                assert_listens(&daemon, "127.0.0.1");
                assert_eq!(
                    done(&mut epmd(&format!("-port {} -started", daemon.port()))),
                    Done::new(0, "", "")
                );
            }
            // One that was asked for by name must be there.
            let result = done(&mut epmd("-address ::1"));
            assert_eq!(result.exit, 1);
            assert!(result.stderr.contains("failed to bind on ipaddr ::1: "), "{}", result.stderr);
        });
    }
}
