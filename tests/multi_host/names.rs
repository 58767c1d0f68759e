//! Names that several hosts have.

use crate::lab::{Epmd, Lab, Machine, dns};
use crate::{on_port, ping};

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
