//! Names that several hosts have.

use std::net::TcpListener;

use repmd::protocol::{Request, encode_request};
use repmd_backend_api::{AliveName, Node};
use repmd_test_support::Peer;

use crate::lab::{Epmd, Lab, Machine, NO_DNS, dns, kill};
use crate::{EPMD_PORT, Module, SOON, on_port, ping};

/// RabbitMQ's brokers are all called `rabbit`.
#[test]
fn one_alive_name_on_three_hosts_is_three_nodes_that_all_reach_each_other() {
    let (_lab, machines) = Lab::new::<3>();
    let _daemons = machines.each_ref().map(|machine| machine.serve(Epmd::Repmd, &[]));
    let [a, b, c] = &machines;
    let dns = dns(&[a, b, c]);
    let names = ["rabbit@a", "rabbit@b", "rabbit@c"];
    let ports = [9001, 9002, 9003];
    let nodes = machines.iter().zip(names).zip(ports);
    let start =
        |((machine, name), port): ((&Machine, _), u16)| machine.node(name, &dns, &on_port(&port.to_string()));
    let mut nodes: Vec<_> = nodes.map(start).collect();

    for (machine, own) in machines.iter().zip(ports) {
        assert_eq!(machine.find("rabbit"), Some(own), "the bare name at {}", machine.host);
        assert_eq!(names.map(|name| machine.wait_for(name)), ports, "the full names at {}", machine.host);
    }
    for (node, own) in nodes.iter_mut().zip(names) {
        for other in names.into_iter().filter(|name| *name != own) {
            assert_eq!(ping(node, other), "pong", "{own} dials {other}");
            assert_eq!(node.eval(&format!("rpc:call('{other}', erlang, node, [])")), other);
        }
    }
}

/// A process of this host registers another host's full names, with whereabouts that lead to itself. A node that
/// finds others by this host's daemon must not dial it, and prove its cookie to it.
#[test]
fn a_process_that_registers_another_host_s_full_name_is_not_dialled_in_the_place_of_that_node() {
    let (_lab, [a, b]) = Lab::new();
    let (of_a, _of_b) = (a.serve(Epmd::Repmd, &[]), b.serve(Epmd::Repmd, &[]));
    let module = Module::compile();
    let _svc = a.node("svc@a", NO_DNS, &on_port("9001"));
    let impostor = b.network.inside(|| TcpListener::bind(("0.0.0.0", 6666))).unwrap();
    impostor.set_nonblocking(true).unwrap();
    let _registered = ["svc@a", "ghost@a", "@a"].map(|name| {
        let mut node = Node::ordinary(AliveName::parse(name.as_bytes()).unwrap(), 6666);
        node.extra = b"repmd/1 addr=127.0.0.1 host=a"[..].into();
        let mut peer = b.network.inside(|| Peer::connect(EPMD_PORT));
        peer.send(&encode_request(&Request::Alive2(node))).unwrap();
        assert_eq!(peer.read(2, SOON), [118, 0], "{name} is not registered");
        peer
    });
    assert_eq!(b.wait_for("svc@a"), 9001);
    let mut bar = b.node("bar@b", NO_DNS, &module.flags());
    assert_eq!(ping(&mut bar, "svc@a"), "pong");
    assert_eq!(ping(&mut bar, "ghost@a"), "pang");
    let names = bar.eval("element(2, net_adm:names(a))");
    assert!(names.contains("\"svc\",9001"), "{names}");
    kill(of_a);
    assert_eq!(ping(&mut bar, "ghost@a"), "pang", "and its host's daemon is gone");
    assert!(impostor.accept().is_err(), "the impostor was dialled");
}
