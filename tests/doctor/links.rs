//! Links between nodes that are missing, or through which nothing comes.

use repmd_test_support::{ErlangNode, http, run, wait_until};
use serde_json::Value;

use crate::host::Host;
use crate::{Pair, SOON};

/// A node meets those that it is told to meet, and no others.
const ALONE: [&str; 5] = ["-connect_all", "false", "-kernel", "prevent_overlapping_partitions", "false"];

/// `a@hosta`, and `b@hostb` and `c@hostb`, which listens at port 9101. Those of different hosts are connected by their
/// addresses, which their root file system does not know.
struct Mesh {
    pair: Pair,
    a: ErlangNode,
    b: ErlangNode,
    _c: ErlangNode,
}

impl Mesh {
    /// `b` is linked with both others, and they are not with each other.
    fn start() -> Self {
        let pair = Pair::start(&[]);
        let node = |host: &Host, name: &str, more: &[&str]| {
            let mut node = host.erlang(&[&["-sname", name][..], &ALONE, more].concat());
            let know = "inet_db:set_lookup([file]), inet_db:add_host({10,99,0,1}, [\"hosta\"]), \
                        inet_db:add_host({10,99,0,2}, [\"hostb\"])";
            node.eval(know);
            node
        };
        let (a, mut b) = (node(&pair.a, "a@hosta", &[]), node(&pair.b, "b@hostb", &[]));
        let at_9101 = ["-kernel", "inet_dist_listen_min", "9101", "inet_dist_listen_max", "9101"];
        let c = node(&pair.b, "c@hostb", &at_9101);
        for other in ["a@hosta", "c@hostb"] {
            assert_eq!(b.eval(&format!("net_kernel:connect_node('{other}')")), "true", "{other}");
        }
        Self { pair, a, b, _c: c }
    }

    /// Waits until both daemons show so many links, and so many that are missing for sure.
    fn wait_for(&self, links: usize, missing: usize) {
        let count = |list: &Value, key: &str, is: &dyn Fn(&Value) -> bool| {
            list[key].as_array().unwrap().iter().filter(|one| is(one)).count()
        };
        for host in [&self.pair.a, &self.pair.b] {
            wait_until(&format!("{links} links, {missing} missing"), SOON, || {
                let list = host.inside(|| http::get(4370, "/api/v1/links", &[])).body;
                let list: Value = serde_json::from_str(&list).unwrap();
                count(&list, "links", &|_| true) == links
                    && count(&list, "missing", &|_| true) == missing
                    && count(&list, "missing", &|pair| pair["is_confirmed"] == true) == missing
            });
        }
    }

    fn doctor(&self) -> crate::host::Found {
        self.pair.a.doctor(&["--backend", &self.pair.url()])
    }
}

fn iptables(arguments: &str) {
    run("iptables", &arguments.split(' ').collect::<Vec<_>>());
}

#[test]
fn a_link_is_missing_because_its_port_is_behind_a_firewall_or_because_nobody_dials() {
    let mut mesh = Mesh::start();
    mesh.wait_for(2, 1);
    let both = "b@hostb reaches a@hosta and c@hostb, a@hosta does not reach c@hostb";
    mesh.doctor().is_only("link-missing", "warning", &[both, "10.99.0.2:9101", "nobody dials"]);
    // Who is elsewhere is told so.
    let from_c = mesh.pair.b.doctor(&["--backend", &mesh.pair.url()]);
    from_c.is_only(
        "link-missing",
        "warning",
        &["b@hostb reaches c@hostb and a@hosta, c@hostb does not reach a@hosta"],
    );

    mesh.pair.b.inside(|| iptables("-A INPUT -p tcp --dport 9101 -j DROP"));
    mesh.doctor().is_only("link-blocked", "failure", &[both, "10.99.0.2:9101"]);

    mesh.pair.b.inside(|| iptables("-F INPUT"));
    assert_eq!(mesh.a.eval("net_kernel:connect_node('c@hostb')"), "true");
    mesh.wait_for(3, 0);
    mesh.doctor().are(&[]);
    assert!(mesh.pair.a.doctor_said(&[]).contains("  ok       3 links between nodes, and none is missing\n"));
}

#[test]
fn a_link_is_there_and_nothing_comes_through_it() {
    let mut mesh = Mesh::start();
    mesh.wait_for(2, 1);
    assert_eq!(mesh.a.eval("net_kernel:connect_node('c@hostb')"), "true");
    mesh.wait_for(3, 0);
    mesh.pair.b.inside(|| iptables("-A INPUT -p tcp -s 10.99.0.1 --dport 9101 -j DROP"));
    mesh.a.eval("{nobody, 'c@hostb'} ! hello");
    wait_until("it is noticed", SOON, || mesh.doctor().has("link-silent"));
    mesh.doctor().is_only("link-silent", "warning", &["a@hosta", "c@hostb"]);
    assert_eq!(mesh.b.eval("length(nodes())"), "2");
}
