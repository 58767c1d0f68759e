//! Unmodified programs whose resolver asks repmd: no module, no hosts file, and nothing else that knows a host.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use repmd_test_support::{COOKIE, Daemon, ErlangNode, RabbitMq, Root, Scratch, run, wait_until};

use crate::lab::{Epmd, Families, Lab, Machine};
use crate::{EPMD_PORT, RELEASE, SOON, ping};

/// The daemon answers where resolvers ask.
const DNS: [&str; 2] = ["--dns", "127.0.0.1:53"];

const IPV6: [&str; 2] = ["-proto_dist", "inet6_tcp"];

/// The file of a machine whose resolver asks the daemon, and finds hosts by their short names.
struct ResolvConf(tempfile::TempDir);

impl ResolvConf {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\nsearch repmd\n").unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("resolv.conf")
    }
}

fn serve(machine: &Machine) -> Daemon {
    machine.serve(Epmd::Repmd, &[&DNS[..], &["--lease-ttl", "3s"]].concat())
}

/// A program of a root, with this resolver.
fn command(release: &str, program: &str, resolver: &Path) -> Command {
    Root::of(release).contained_command(program, &[(resolver, "/etc/resolv.conf")])
}

/// Starts an unmodified node.
fn node(machine: &Machine, release: &str, flags: &[&str]) -> ErlangNode {
    let resolver = ResolvConf::new();
    let mut command = command(release, "erl", &resolver.path());
    command.args(["-start_epmd", "false"]).args(flags);
    machine.network.inside(|| ErlangNode::spawn(command, &Root::of(release), EPMD_PORT))
}

#[test]
fn hosts_that_nothing_else_resolves_are_reached_by_nodes_of_each_release() {
    for (epmd, answer) in [(Epmd::Stock, "pang"), (Epmd::Repmd, "pong")] {
        let (_lab, [a, b]) = Lab::new();
        let _daemons = [&a, &b].map(|machine| match epmd {
            Epmd::Stock => machine.serve(Epmd::Stock, &[]),
            Epmd::Repmd => serve(machine),
        });
        let _target = node(&a, RELEASE, &["-sname", "target@a"]);
        for release in ["bullseye", "bookworm", "trixie", "sid"] {
            let mut asker = node(&b, release, &["-sname", &format!("{release}@b")]);
            assert_eq!(ping(&mut asker, "target@a"), answer, "{release} {epmd:?}");
        }
    }
}

#[test]
fn long_names_and_both_families_are_reached_too() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let _long = node(&a, RELEASE, &["-name", "long@a.repmd"]);
    let mut long = node(&b, RELEASE, &["-name", "long@b.repmd"]);
    assert_eq!(ping(&mut long, "long@a.repmd"), "pong");
    let _six = node(&a, RELEASE, &[&["-sname", "six@a"], &IPV6[..]].concat());
    let mut six = node(&b, RELEASE, &[&["-sname", "six@b"], &IPV6[..]].concat());
    assert_eq!(ping(&mut six, "six@a"), "pong");
}

#[test]
fn machines_that_have_ipv6_alone_are_reached() {
    let (_lab, [a, b]) = Lab::with(Families::IPv6);
    let _daemons = [serve(&a), serve(&b)];
    let _six = node(&a, RELEASE, &[&["-sname", "six@a"], &IPV6[..]].concat());
    let mut six = node(&b, RELEASE, &[&["-sname", "six@b"], &IPV6[..]].concat());
    assert_eq!(ping(&mut six, "six@a"), "pong");
}

/// The machine's resolver stays as it is, and no port below 1024 is needed.
#[test]
fn nodes_with_the_file_that_ships_reach_hosts_and_find_peers_though_their_machine_does_not() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [&a, &b].map(|machine| machine.serve(Epmd::Repmd, &["--dns", "127.0.0.1:5300"]));
    let ships = include_str!("../../deploy/dns/repmd.inetrc");
    let _target = a.node("target@a", ships, &[]);
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        let mut without = b.node_of(release, &format!("without-{release}@b"), "", &[]);
        assert_eq!(ping(&mut without, "target@a"), "pang", "{release}");
        let mut asker = b.node_of(release, &format!("{release}@b"), ships, &[]);
        assert_eq!(ping(&mut asker, "target@a"), "pong", "{release}");
        let found = asker.eval("element(2, inet_res:getbyname(\"target.nodes.repmd\", a))");
        assert!(found.contains("[{10,77,0,1}]"), "{release}: {found}");
    }
}

#[test]
fn a_host_that_comes_is_dialled_within_a_second() {
    let (_lab, [a, b]) = Lab::new();
    let _of_b = serve(&b);
    let mut asker = node(&b, RELEASE, &["-sname", "asker@b"]);
    assert_eq!(ping(&mut asker, "target@a"), "pang");
    let _of_a = serve(&a);
    let _target = node(&a, RELEASE, &["-sname", "target@a"]);
    let there = Instant::now();
    wait_until("it is dialled", SOON, || ping(&mut asker, "target@a") == "pong");
    assert!(there.elapsed() < Duration::from_secs(1), "{:?}", there.elapsed());
}

/// What `dns_cluster` asks, as it asks it.
#[test]
fn the_hosts_of_a_node_are_what_dns_cluster_asks_for() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let _of_a = node(&a, RELEASE, &["-name", "my_app@10.77.0.1"]);
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        let mut of_b = node(&b, release, &["-name", "my_app@10.77.0.2"]);
        let ask = |node: &mut ErlangNode, kind: &str| {
            node.eval(&format!(
                "case inet_res:getbyname(\"my_app.nodes.repmd\", {kind}) of {{ok, Found}} -> \
                 lists:sort(element(6, Found)); Error -> Error end"
            ))
        };
        let both = "[{10,77,0,1},{10,77,0,2}]";
        wait_until(&format!("both are found by {release}"), SOON, || ask(&mut of_b, "a") == both);
        let both = "[{64887,0,0,0,0,0,0,1},{64887,0,0,0,0,0,0,2}]";
        assert_eq!(ask(&mut of_b, "aaaa"), both, "{release}");
        let services = ask(&mut of_b, "srv");
        assert!(services.contains("\"a.repmd\"") && services.contains("\"b.repmd\""), "{release} {services}");
        assert_eq!(ping(&mut of_b, "my_app@10.77.0.1"), "pong", "{release}");
    }
}

#[test]
fn the_c_library_of_each_release_resolves_hosts_by_the_search_list_and_addresses() {
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let resolver = ResolvConf::new();
    for release in ["bullseye", "bookworm", "trixie", "sid"] {
        let mut getent = command(release, "getent", &resolver.path());
        let output = b.network.inside(|| getent.args(["ahostsv4", "a"]).output().unwrap());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with("10.77.0.1 ") && text.contains("a.repmd"), "{release}: {text}");
        let mut getent = command(release, "getent", &resolver.path());
        let output = b.network.inside(|| getent.args(["hosts", "10.77.0.1"]).output().unwrap());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("a.repmd"), "{release}: {text}");
    }
}

/// How long a server may take to start on a busy machine.
const STARTED: Duration = Duration::from_secs(120);

struct Broker<'a> {
    machine: &'a Machine,
    name: String,
    observer: ErlangNode,
    server: RabbitMq,
    _resolver: ResolvConf,
}

impl<'a> Broker<'a> {
    fn start(machine: &'a Machine) -> Self {
        let name = format!("rabbit@{}", machine.host);
        let (root, resolver) = (Root::of(RELEASE), ResolvConf::new());
        let prepare = |_: &mut Command, home: &Scratch| {
            let config = "cluster_formation.peer_discovery_backend = dns\n\
                          cluster_formation.dns.hostname = rabbit.nodes.repmd\n";
            fs::write(home.path().join("config.conf"), config).unwrap();
        };
        let file = resolver.path();
        let mounts = [(&*file, "/etc/resolv.conf")];
        let server =
            machine.network.inside(|| RabbitMq::spawn(&root, &name, EPMD_PORT, 25672, &mounts, prepare));
        let observer = node(machine, RELEASE, &["-sname", &format!("observer@{}", machine.host), "-hidden"]);
        let mut broker = Self { machine, name, observer, server, _resolver: resolver };
        broker.wait_until_it_runs();
        broker
    }

    fn restart(&mut self) {
        self.machine.network.inside(|| self.server.restart());
        self.wait_until_it_runs();
    }

    fn wait_until_it_runs(&mut self) {
        wait_until("it runs", STARTED, || self.call("rabbit, is_running, []") == "true");
    }

    fn call(&mut self, function: &str) -> String {
        self.observer.eval(&format!("rpc:call('{}', {function})", self.name))
    }

    fn wait_until_it_runs_with(&mut self, all: &[&str]) {
        let name = self.name.clone();
        wait_until(&format!("{name} runs with {all:?}"), SOON, || {
            let running = self.call("rabbit_mnesia, cluster_nodes, [running]");
            all.iter().all(|other| running.contains(other))
        });
    }
}

#[test]
fn rabbitmq_brokers_discover_each_other_at_their_first_start() {
    let (_lab, machines) = Lab::new::<4>();
    let _daemons: Vec<_> = machines.iter().map(serve).collect();
    let all = ["rabbit@a", "rabbit@b", "rabbit@c", "rabbit@d"];
    // One after the other, as it advises: those that start together may each begin a cluster.
    let mut brokers: Vec<_> = machines[..3].iter().map(Broker::start).collect();
    brokers.iter_mut().for_each(|broker| broker.wait_until_it_runs_with(&all[..3]));
    for index in 0..3 {
        brokers[index].restart();
        brokers.iter_mut().for_each(|broker| broker.wait_until_it_runs_with(&all[..3]));
    }
    brokers.push(Broker::start(&machines[3]));
    brokers.iter_mut().for_each(|broker| broker.wait_until_it_runs_with(&all));
}

/// What `dns_cluster` does, in Elixir: it asks for the addresses, and connects.
#[test]
fn an_elixir_node_connects_to_whom_dns_names() {
    const SCRIPT: &str = r##"
        basename = node() |> to_string() |> String.split("@") |> hd()
        {:ok, {:hostent, _, _, _, _, addresses}} = :inet_res.getbyname('my_app.nodes.repmd', :a)
        names = for address <- addresses, do: :"#{basename}@#{:inet.ntoa(address)}"
        for name <- names, name != node(), do: Node.connect(name)
        IO.inspect(Node.list())
    "##;
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let _of_a = node(&a, RELEASE, &["-name", "my_app@10.77.0.1"]);
    b.wait_for("my_app@a");
    let resolver = ResolvConf::new();
    let mut elixir = command(RELEASE, "elixir", &resolver.path());
    elixir.args(["--erl", "-start_epmd false", "--name", "my_app@10.77.0.2", "--cookie", COOKIE]);
    elixir.args(["-e", SCRIPT]);
    let output = b.network.inside(|| elixir.output().unwrap());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "[:\"my_app@10.77.0.1\"]", "{output:?}");
}

/// A release that runs until this is dropped.
struct Release(Child);

impl Drop for Release {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As an application with `dns_cluster` in it is deployed.
#[test]
fn an_elixir_release_finds_its_peers_by_dns() {
    const APPLICATION: &str = r##"
        defmodule MyApp.Application do
          use Application
          def start(_type, _args), do: Supervisor.start_link([{Task, &look/0}], strategy: :one_for_one)

          defp look do
            with {:ok, {:hostent, _, _, _, _, addresses}} <- :inet_res.getbyname('my_app.nodes.repmd', :a) do
              for address <- addresses, do: Node.connect(:"my_app@#{:inet.ntoa(address)}")
            end
            Process.sleep(500)
            look()
          end
        end
    "##;
    const MAKE: &str = "cd \"$0\" && export HOME=\"$0\" MIX_ENV=prod && mix new my_app --sup && \
                        cp application.ex my_app/lib/my_app/ && mkdir my_app/rel && \
                        echo '-start_epmd false' > my_app/rel/vm.args.eex && cd my_app && mix release";
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let (root, resolver) = (Root::of(RELEASE), ResolvConf::new());
    let scratch = root.scratch();
    fs::write(scratch.path().join("application.ex"), APPLICATION).unwrap();
    let made = root.contained_command("sh", &[]).args(["-c", MAKE]).arg(scratch.inside()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let program = scratch.inside().join("my_app/_build/prod/rel/my_app/bin/my_app");
    let mut release = command(RELEASE, program.to_str().unwrap(), &resolver.path());
    release.arg("start").env("HOME", scratch.inside()).env("RELEASE_DISTRIBUTION", "name");
    release.env("RELEASE_NODE", "my_app@10.77.0.2").env("RELEASE_COOKIE", COOKIE);
    let mut of_a = node(&a, RELEASE, &["-name", "my_app@10.77.0.1"]);
    let _release = b.network.inside(|| Release(release.spawn().unwrap()));
    wait_until("they are connected", SOON, || of_a.eval("nodes()") == "['my_app@10.77.0.2']");
}

/// What a program says on a machine.
fn said(machine: &Machine, command: &mut Command) -> String {
    let output = machine.network.inside(|| command.output().unwrap());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// With EDNS, without, by TCP, in mixed case, and by a forwarder in between.
#[test]
fn the_tools_that_people_ask_with_and_dnsmasq_get_their_answers() {
    /// The root file system that has them.
    const TOOLS: &str = "bullseye";
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let resolver = ResolvConf::new();
    let run = |program: &str, arguments: &[&str]| {
        said(&b, command(TOOLS, program, &resolver.path()).args(arguments))
    };
    wait_until("a is known", SOON, || run("dig", &["+short", "a.repmd"]) == "10.77.0.1\n");
    for more in ["+noedns", "+tcp", "+bufsize=4096", "+cookie", "+dnssec", "+search"] {
        assert_eq!(run("dig", &["+short", more, "a.repmd"]), "10.77.0.1\n", "{more}");
    }
    let mixed = run("dig", &["A.rEPmd"]);
    assert!(mixed.contains("\nA.rEPmd.\t\t1\tIN\tA\t10.77.0.1\n"), "{mixed}");
    assert!(!mixed.contains("WARNING: Message") && !mixed.contains("malformed"), "{mixed}");
    assert!(run("drill", &["a.repmd"]).contains("10.77.0.1"));
    assert!(run("drill", &["-t", "a.repmd", "AAAA"]).contains("fd77::1"));
    assert!(run("drill", &["-x", "10.77.0.1"]).contains("a.repmd."));
    let busybox = run("busybox", &["nslookup", "a.repmd", "127.0.0.1"]);
    assert!(busybox.contains("10.77.0.1") && busybox.contains("fd77::1"), "{busybox}");

    let mut dnsmasq = command(TOOLS, "dnsmasq", &resolver.path());
    dnsmasq.args(["--keep-in-foreground", "--user=root", "--pid-file", "--no-resolv", "--no-hosts"]);
    dnsmasq.args(["--listen-address=127.0.0.2", "--bind-interfaces", "--server=/repmd/127.0.0.1"]);
    let mut dnsmasq = b.network.inside(|| dnsmasq.spawn().unwrap());
    wait_until("dnsmasq passes it on", SOON, || {
        run("dig", &["+short", "+tries=1", "+time=1", "a.repmd", "@127.0.0.2"]) == "10.77.0.1\n"
    });
    dnsmasq.kill().unwrap();
    dnsmasq.wait().unwrap();
}

/// As Alpine's images have it. The program is made here.
#[test]
fn the_musl_library_resolves_hosts_by_the_search_list() {
    const SOURCE: &str = "#include <netdb.h>\n#include <arpa/inet.h>\n#include <stdio.h>\n\
        int main(int count, char **words) {\n\
            struct addrinfo wanted = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;\n\
            if (getaddrinfo(words[1], 0, &wanted, &found)) return 1;\n\
            return puts(inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr)) < 0;\n\
        }\n";
    let (_lab, [a, b]) = Lab::new();
    let _daemons = [serve(&a), serve(&b)];
    let scratch = Root::of(RELEASE).scratch();
    fs::write(scratch.path().join("resolve.c"), SOURCE).unwrap();
    let (source, program) = (scratch.path().join("resolve.c"), scratch.path().join("resolve"));
    run("musl-gcc", &["-static", "-o", program.to_str().unwrap(), source.to_str().unwrap()]);
    let inside = scratch.inside().join("resolve");
    let resolver = ResolvConf::new();
    let resolve =
        |name: &str| said(&b, command(RELEASE, inside.to_str().unwrap(), &resolver.path()).arg(name));
    wait_until("a is known", SOON, || resolve("a") == "10.77.0.1\n");
    assert_eq!((resolve("a.repmd"), resolve("nobody")), ("10.77.0.1\n".into(), String::new()));
}

/// Asks the daemon at an address, and returns the answers that come from there.
fn ask(from: &Machine, to: IpAddr, asked: &str, count: usize) -> Vec<Message> {
    let mut question = Message::query();
    let name = Name::from_ascii(format!("{asked}.")).unwrap();
    question.add_query(Query::query(name, RecordType::A));
    let packet = question.to_vec().unwrap();
    from.network.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((to, 53)).unwrap();
        // Of many some are not answered.
        let patience = if count == 1 { SOON } else { Duration::from_millis(500) };
        socket.set_read_timeout(Some(patience)).unwrap();
        let (mut answers, mut buffer) = (Vec::new(), [0; 1500]);
        for number in 0..count {
            socket.send(&packet).unwrap();
            // No more than fits its buffer.
            if number % 20 == 19 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        while answers.len() < count
            && let Ok(length) = socket.recv(&mut buffer)
        {
            answers.push(Message::from_vec(&buffer[..length]).unwrap());
        }
        answers
    })
}

#[test]
fn networks_of_the_settings_may_ask_and_none_too_often() {
    let (_lab, [a, b, c]) = Lab::new();
    let flags = ["--dns", "0.0.0.0:53", "--allow-lookups-from", "10.77.0.2/32", "--dns-rate", "100"];
    let open = b.serve(Epmd::Repmd, &["--dns", "0.0.0.0:53", "--dns-forward", "10.99.0.254"]);
    let stranger = &ask(&c, b.addresses[0], "github.com", 1)[0].metadata;
    assert_eq!((stranger.response_code, stranger.recursion_available), (ResponseCode::Refused, false));
    assert_eq!(ask(&c, b.addresses[0], "b.repmd", 1)[0].metadata.response_code, ResponseCode::NoError);
    drop(open);
    let _daemon = a.serve(Epmd::Repmd, &flags);
    let code = |from, asked| ask(from, a.addresses[0], asked, 1)[0].metadata.response_code;
    assert_eq!(code(&b, "a.repmd"), ResponseCode::NoError);
    assert_eq!(code(&b, "github.com"), ResponseCode::Refused);
    assert_eq!(code(&c, "a.repmd"), ResponseCode::Refused);
    std::thread::sleep(Duration::from_secs(1));
    let answers = ask(&b, a.addresses[0], "a.repmd", 400);
    let by_tcp = answers.iter().filter(|answer| answer.metadata.truncation).count();
    let whole = answers.len() - by_tcp;
    // A second may end meanwhile.
    assert!((100..=200).contains(&whole) && (50..=160).contains(&by_tcp), "{whole} and {by_tcp}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(code(&b, "a.repmd"), ResponseCode::NoError, "a second later");
    // More than the rate, and no more than fits the asker's buffer.
    let own = ask(&a, a.addresses[0], "a.repmd", 200);
    assert!(150 < own.len() && own.iter().all(|answer| !answer.metadata.truncation), "this machine");
}

/// A resolver takes an answer from nowhere else.
#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let (_lab, [a, b]) = Lab::new();
    let second = "10.77.0.100".parse().unwrap();
    a.network.address("eth0", &format!("{second}/24"));
    let _daemon = a.serve(Epmd::Repmd, &["--dns", "0.0.0.0:53"]);
    for address in [a.addresses[0], second] {
        assert_eq!(ask(&b, address, "a.repmd", 1).len(), 1, "{address}");
    }
}
