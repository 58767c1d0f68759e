//! Which nodes are connected with each other, as daemons see it from outside: no wrong link, none left out, and a link
//! that is cut or comes back is seen within seconds.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use repmd_test_support::{Browser, CNode, CProgram, Daemon, ErlangNode, Root, raise_open_files, wait_until};
use serde_json::Value;

use crate::lab::{Epmd, Lab, Machine, dns};
use crate::{EPMD_PORT, RELEASE, SOON, ping};

/// How soon whatever changes is seen.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);

/// A node meets those that it is told to meet, and no others.
pub(crate) const ALONE: [&str; 5] =
    ["-connect_all", "false", "-kernel", "prevent_overlapping_partitions", "false"];

pub(crate) type Pairs = BTreeSet<(String, String)>;

pub(crate) fn pair(one: &str, other: &str) -> (String, String) {
    (one.min(other).to_owned(), one.max(other).to_owned())
}

fn pairs<'a>(list: &'a Value, key: &str, [one, other]: [&'a str; 2]) -> Pairs {
    let pairs = list[key].as_array().unwrap().iter();
    // A link whose dialler is not known is none that is wanted here.
    pairs.map(|it| pair(it[one].as_str().unwrap_or("?"), it[other].as_str().unwrap())).collect()
}

pub(crate) fn links(machine: &Machine) -> Value {
    serde_json::from_str(&machine.shown("/api/v1/links")).unwrap()
}

fn linked(list: &Value) -> Pairs {
    pairs(list, "links", ["from", "to"])
}

fn missing(list: &Value) -> Pairs {
    pairs(list, "missing", ["node", "peer"])
}

/// Waits until each machine shows just these links and missing ones.
fn wait_for_links(machines: &[Machine; 3], wanted: &Pairs, wanted_missing: &Pairs, within: Duration) {
    let started = Instant::now();
    for machine in machines {
        let mut last = Value::Null;
        let shows_it = || {
            last = links(machine);
            linked(&last) == *wanted && missing(&last) == *wanted_missing
        };
        let left = within.saturating_sub(started.elapsed()).max(Duration::from_millis(100));
        let mut shows_it = shows_it;
        let until = Instant::now() + left;
        while !shows_it() {
            assert!(Instant::now() < until, "{} shows {last:#}, not {wanted:?}", machine.host);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Names a folder for pictures of the page.
const PICTURES: &str = "REPMD_TEST_PICTURES";

/// Holds the page against what the API says: so many links, and one pair that is missing.
fn look_at_the_page(links: usize) {
    let browser = Browser::start();
    let count = |selector: &str| {
        let found = browser.eval(&format!("document.querySelectorAll('{selector}').length"));
        found.as_u64().unwrap() as usize
    };
    for (width, is_dark) in [(1100, false), (1100, true), (390, false), (390, true)] {
        browser.look(width, 990, is_dark);
        browser.open("http://127.0.0.1:4370/");
        browser.run("document.getElementById('show-links').click()", &serde_json::json!([]));
        browser.run("document.querySelector('#mesh summary').click()", &serde_json::json!([]));
        wait_until("the page has drawn the links", SOON, || count("#picture .link") == links + 1);
        wait_until("the table has them too", SOON, || count("#mesh-rows tr") == links + 1);
        assert_eq!((count("#picture .missing"), count("#picture .missing.new")), (1, 0));
        assert_eq!(
            (count("#picture circle"), count("#picture .hidden-node"), count("#picture .c-node")),
            (9, 1, 1)
        );
        assert_eq!(
            (count("#picture .arc"), count("#mesh-rows tr"), count("#mesh-rows .missing")),
            (3, links + 1, 1)
        );
        let wide = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= width.into(), "it scrolls sideways: {wide}");
        let point = "document.querySelector('#picture .missing').dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))";
        browser.run(point, &serde_json::json!([]));
        let tip = browser.eval("document.getElementById('mesh-tip').textContent");
        assert_eq!(tip, "n1@a – n1@b: missing");
        if let Some(folder) = std::env::var_os(PICTURES) {
            let scroll = "document.querySelector('#mesh summary').click(); document.getElementById('mesh').scrollIntoView({ block: 'end' })";
            browser.run(scroll, &serde_json::json!([]));
            let file = std::path::Path::new(&folder).join(format!("links-{width}-{is_dark}.base64"));
            std::fs::write(file, browser.picture()).unwrap();
        }
    }
}

#[test]
fn every_link_of_three_hosts_is_shown_and_a_cut_one_is_missed_until_it_is_back() {
    let (_lab, machines) = Lab::new::<3>();
    let _daemons: [Daemon; 3] = machines.each_ref().map(|machine| machine.serve(Epmd::Repmd, &[]));
    let [a, b, c] = &machines;
    let dns = dns(&[a, b, c]);
    let mut nodes: Vec<(String, ErlangNode)> = Vec::new();
    for name in ["n1", "n2", "n3"] {
        for machine in &machines {
            let node = format!("{name}@{}", machine.host);
            nodes.push((node.clone(), machine.node(&node, &dns, &ALONE)));
        }
    }
    let mut hidden = a.node("shadow@a", &dns, &[&ALONE[..], &["-hidden"]].concat());
    for machine in &machines {
        for (name, _) in &nodes {
            machine.wait_for(name);
        }
    }
    let mut wanted = Pairs::new();
    for at in 0..nodes.len() {
        let (before, rest) = nodes.split_at_mut(at);
        let (name, node) = &mut rest[0];
        // Not all in one direction: who is first registered does not always dial.
        for (other, other_node) in before {
            let answer =
                if (name.len() + at).is_multiple_of(2) { ping(node, other) } else { ping(other_node, name) };
            assert_eq!(answer, "pong", "{name} and {other}");
            wanted.insert(pair(name, other));
        }
    }
    for other in ["n1@b", "n1@a"] {
        assert_eq!(ping(&mut hidden, other), "pong");
        wanted.insert(pair("shadow@a", other));
    }
    // One in C, which dials a node and is dialled by another. Nodes in C
    // say what they are when they register.
    let program = CProgram::compile(&Root::of(RELEASE));
    let peer = Some(("n3", a.addresses[0]));
    let _c_node = b.network.inside(|| CNode::start(&program, ["c1", "b"], b.addresses[0], EPMD_PORT, peer));
    wanted.insert(pair("c1@b", "n3@a"));
    let dialler = nodes.iter_mut().find(|(name, _)| name == "n2@c").unwrap();
    assert_eq!(dialler.1.eval("net_kernel:connect_node('c1@b')"), "true");
    wanted.insert(pair("c1@b", "n2@c"));
    assert_eq!(wanted.len(), 9 * 8 / 2 + 4);
    wait_for_links(&machines, &wanted, &Pairs::new(), SOON);
    for machine in &machines {
        let hidden = |list: &Value| -> Vec<String> {
            let nodes = list["nodes"].as_array().unwrap().iter().filter(|node| node["is_hidden"] == true);
            nodes.map(|node| node["node"].as_str().unwrap().to_owned()).collect()
        };
        wait_until("the hidden node is known", SOON, || hidden(&links(machine)) == ["shadow@a", "c1@b"]);
        let list = links(machine);
        let all = list["links"].as_array().unwrap();
        assert_eq!((all.len(), &list["source"]), (wanted.len(), &Value::from("netlink")));
        for link in all {
            assert_eq!(link["seen_by"], serde_json::json!(["from", "to"]), "{link}");
            assert!(link["is_one_ended"] == false && 0 < link["rtt_us"].as_u64().unwrap(), "{link}");
        }
        let of_type = |wanted: &str| {
            let nodes = list["nodes"].as_array().unwrap().iter();
            nodes.filter(|node| node["type"] == wanted && node["unseen"].is_null()).count()
        };
        // The hidden node in Erlang registers as others do, and says what it is when it is asked.
        assert_eq!((of_type("normal"), of_type("c")), (10, 1));
    }

    let cut = pair("n1@a", "n1@b");
    let without: Pairs = wanted.iter().filter(|pair| **pair != cut).cloned().collect();
    let started = Instant::now();
    assert_eq!(nodes[0].1.eval("erlang:disconnect_node('n1@b')"), "true");
    wait_for_links(&machines, &without, &[cut.clone()].into(), SEEN_WITHIN + SLACK);
    eprintln!("a cut link was missed by all after {:?}", started.elapsed());
    let tells = |kind: &str| {
        let status: Value = serde_json::from_str(&a.shown("/api/v1/status")).unwrap();
        let trouble = &status["last_trouble"];
        trouble["event"] == kind && trouble["node"] == cut.0.as_str() && trouble["peer"] == cut.1.as_str()
    };
    wait_until("the mesh is said to be partial", SOON, || tells("mesh_partial"));
    eprintln!("it was told after {:?}", started.elapsed());
    a.network.inside(|| look_at_the_page(without.len()));
    let metrics = a.shown("/metrics");
    assert!(metrics.contains("repmd_links_missing{host=\"b\"} 1"), "{metrics}");
    assert!(metrics.contains("repmd_links_missing{host=\"c\"} 0"), "{metrics}");

    let started = Instant::now();
    assert_eq!(ping(&mut nodes[0].1, "n1@b"), "pong");
    wait_for_links(&machines, &wanted, &Pairs::new(), SEEN_WITHIN + SLACK);
    eprintln!("it was back for all after {:?}", started.elapsed());
    // A node that goes is not missed.
    drop(nodes.pop());
    let gone = |(one, other): &&(String, String)| one != "n3@c" && other != "n3@c";
    let rest: Pairs = wanted.iter().filter(gone).cloned().collect();
    wait_for_links(&machines, &rest, &Pairs::new(), SEEN_WITHIN + SLACK);
}

/// So many that looks become rare, and rarer than notes run out.
const STRANGERS: usize = 2000;

#[test]
fn a_daemon_that_looks_rarely_is_heard_all_the_time() {
    raise_open_files();
    let (_lab, [a, b]) = Lab::new::<2>();
    let _daemons = [&a, &b].map(|machine| machine.serve(Epmd::Repmd, &["--lease-ttl", "3s"]));
    let _node = a.node("n1@a", &dns(&[&a, &b]), &ALONE);
    b.wait_for("n1@a");
    let _strangers: Vec<_> = a.network.inside(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link =
            || (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap());
        (0..STRANGERS).map(|_| link()).collect()
    });
    let lease = Duration::from_secs(3);
    wait_until("it looks rarely", SOON, || {
        lease.as_millis() < links(&a)["interval_ms"].as_u64().unwrap().into()
    });
    let until = Instant::now() + 3 * lease;
    while Instant::now() < until {
        let list = links(&b);
        assert!(list["nodes"][0]["unseen"].is_null(), "{:#}", list["nodes"]);
        std::thread::sleep(Duration::from_millis(100));
    }
}
