//! What is answered for which name, and how what is not there is told.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};
use repmd::dns::Rules;
use repmd::server::Policy;
use repmd_backend_api::HostId;
use repmd_test_support::{wait_for, wait_until};

use crate::SOON;
use crate::stage::{Face, TTL, addresses, instance, name, options};

fn start() -> Face {
    Face::start(options(), Policy::default())
}

#[test]
fn a_host_is_where_its_daemons_say_by_each_of_its_names_and_without_case() {
    let face = start();
    face.meet(instance("hosta", &["hosta.cluster.example", "a.site"], &["10.0.0.7", "2001:db8::7"]));
    let a = |asked| addresses(&face.asked.ask(asked, RecordType::A));
    wait_until("hosta is known", SOON, || a("hosta.repmd") == ["10.0.0.7"]);
    for asked in ["HoStA.RePmD", "hosta.cluster.example", "a.site.repmd", "hosta.cluster.example.repmd"] {
        assert_eq!(a(asked), ["10.0.0.7"], "{asked}");
    }
    assert_eq!(addresses(&face.asked.ask("hosta.repmd", RecordType::AAAA)), ["2001:db8::7"]);
    assert_eq!(a("here.repmd"), ["10.0.0.1"]);
    let answer = face.asked.ask("HoStA.RePmD", RecordType::A);
    assert_eq!(answer.queries[0].name.to_ascii(), "HoStA.RePmD.", "the case of the question comes back");
    assert!(answer.metadata.authoritative && !answer.metadata.recursion_available);
    assert_eq!(answer.answers[0].ttl, 1);
}

/// Eight projects answered NXDOMAIN here, and resolvers then believed that there is no address at all.
#[test]
fn a_name_without_a_record_of_that_type_is_no_missing_name() {
    let face = start();
    face.register(instance("hosta", &["a.deep.site"], &["10.0.0.7"]), "app", 9100);
    wait_until("the node is known", SOON, || {
        !face.asked.ask("app.nodes.repmd", RecordType::A).answers.is_empty()
    });
    for (asked, kind) in [
        ("hosta.repmd", RecordType::AAAA),
        ("app.nodes.repmd", RecordType::AAAA),
        ("hosta.repmd", RecordType::TXT),
        ("app.nodes.repmd", RecordType::MX),
        ("nodes.repmd", RecordType::A),
        ("repmd", RecordType::A),
        ("deep.site.repmd", RecordType::A),
        ("site.repmd", RecordType::A),
        ("10.in-addr.arpa", RecordType::PTR),
        ("0.0.10.in-addr.arpa", RecordType::PTR),
        ("7.0.0.10.in-addr.arpa", RecordType::A),
    ] {
        let answer = face.asked.ask(asked, kind);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{asked} {kind}");
        assert!(answer.answers.is_empty(), "{asked} {kind}");
        assert!(matches!(answer.authorities[0].data, RData::SOA(_)), "{asked} {kind}");
    }
}

#[test]
fn a_missing_name_is_said_with_how_long_that_may_be_believed() {
    let face = start();
    for asked in ["nobody.repmd", "nobody.nodes.repmd", "a.b.nodes.repmd", "google.com.repmd"] {
        let answer = face.asked.ask(asked, RecordType::AAAA);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{asked}");
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("{answer:?}") };
        assert_eq!((answer.authorities[0].ttl, soa.minimum), (2, 2));
    }
}

#[test]
fn names_of_other_zones_are_refused() {
    let face = start();
    for asked in ["github.com", "repmd.com", "xrepmd", "com", "1.2.3.4.in-addr.arpa"] {
        let answer = face.asked.ask(asked, RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{asked}");
    }
}

#[test]
fn a_node_is_on_each_host_that_has_it_at_its_advertised_port() {
    let face = start();
    face.register(instance("hosta", &[], &["10.0.0.7", "2001:db8::7"]), "my_app", 9100);
    face.register(instance("hostb.cluster.example", &[], &["10.0.0.8"]), "my_app", 9200);
    let asked = "My_App.nodes.repmd";
    let a = || addresses(&face.asked.ask(asked, RecordType::A));
    wait_until("both are known", SOON, || a() == ["10.0.0.7", "10.0.0.8"]);
    assert_eq!(addresses(&face.asked.ask(asked, RecordType::AAAA)), ["2001:db8::7"]);
    let answer = face.asked.ask(asked, RecordType::SRV);
    let service = |data: &RData| match data {
        RData::SRV(srv) => (srv.target.to_ascii(), srv.port),
        other => panic!("{other}"),
    };
    let mut services: Vec<_> = answer.answers.iter().map(|record| service(&record.data)).collect();
    services.sort();
    let expected = [("hosta.repmd.", 9100), ("hostb.cluster.example.", 9200)];
    assert_eq!(services, expected.map(|(target, port)| (target.to_owned(), port)));
    let orders: std::collections::HashSet<_> =
        (0..64).map(|_| face.asked.ask(asked, RecordType::A).answers[0].data.ip_addr()).collect();
    assert_eq!(orders.len(), 2, "now one is first, now the other");
}

#[test]
fn an_address_leads_back_to_its_host_and_the_first_label_is_the_host() {
    let face = start();
    face.meet(instance("hosta", &["hosta.site"], &["10.0.0.7", "2001:db8::7"]));
    let reversed = |asked: &str| {
        let answer = face.asked.ask(asked, RecordType::PTR);
        answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>()
    };
    wait_until("hosta is known", SOON, || reversed("7.0.0.10.in-addr.arpa") == ["hosta.repmd."]);
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
    assert_eq!(reversed(v6), ["hosta.repmd."]);
}

#[test]
fn a_zone_says_who_answers_for_it() {
    let face = start();
    let answer = face.asked.ask("repmd", RecordType::SOA);
    assert_eq!(answer.answers[0].name, name("repmd"));
    assert!(matches!(answer.answers[0].data, RData::SOA(_)));
    assert_eq!(face.asked.ask("repmd", RecordType::NS).answers[0].data.to_string(), "here.repmd.");
    let any = face.asked.ask("here.repmd", RecordType::ANY);
    assert!(matches!(any.answers[..], [ref record] if matches!(record.data, RData::HINFO(_))));
}

#[test]
fn a_node_that_has_left_is_gone_at_once_and_one_that_is_not_renewed_with_its_lease() {
    let face = start();
    let code = |asked| face.asked.ask(asked, RecordType::A).metadata.response_code;
    let left = face.register(instance("hosta", &[], &["10.0.0.7"]), "left", 9100);
    face.register(instance("hostb", &[], &["10.0.0.8"]), "dead", 9100);
    let registered = std::time::Instant::now();
    wait_until("both are known", SOON, || {
        [code("left.nodes.repmd"), code("dead.nodes.repmd")] == [ResponseCode::NoError; 2]
    });
    face.release(&left);
    let told = std::time::Instant::now();
    wait_until("it is gone", SOON, || code("left.nodes.repmd") == ResponseCode::NXDomain);
    assert!(told.elapsed() < Duration::from_millis(500), "{:?}", told.elapsed());
    wait_until("so is the dead", SOON, || code("dead.nodes.repmd") == ResponseCode::NXDomain);
    let lived = registered.elapsed();
    assert!(lived < TTL + Duration::from_millis(1500), "{lived:?}");
}

#[test]
fn while_the_store_is_away_old_answers_serve_for_a_lease_and_then_nobody_knows() {
    use repmd_backend_faulty::Link;

    let face = start();
    face.register(instance("hosta", &[], &["10.0.0.7"]), "app", 9100);
    let ask = |asked| {
        let answer = face.asked.ask(asked, RecordType::A);
        (answer.metadata.response_code, addresses(&answer))
    };
    let found = (ResponseCode::NoError, vec!["10.0.0.7".to_owned()]);
    wait_until("it is known", SOON, || ask("app.nodes.repmd") == found && ask("hosta.repmd") == found);
    face.link.set_link(Link::Cut);
    let cut = std::time::Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!((ask("app.nodes.repmd"), ask("hosta.repmd")), (found.clone(), found));
    let unknown = (ResponseCode::ServFail, vec![]);
    let gone = wait_for("nobody knows", SOON, || {
        ([ask("app.nodes.repmd"), ask("hosta.repmd")] == [unknown.clone(), unknown.clone()])
            .then(|| cut.elapsed())
    });
    assert!(TTL <= gone + Duration::from_millis(1100) && gone < 3 * TTL, "{gone:?}");
    assert_eq!(ask("nobody.repmd"), unknown, "it may be there");
    assert_eq!(ask("here.repmd").1, ["10.0.0.1"], "this host knows itself");
    face.link.set_link(Link::Up);
    wait_until("it is back", SOON, || ask("nobody.repmd").0 == ResponseCode::NXDomain);
}

#[test]
fn hosts_that_no_resolver_may_be_told_of_have_no_name() {
    let face = start();
    face.meet(instance("10.0.0.9", &["localhost", "127.1"], &["10.0.0.9"]));
    face.meet(instance("evil", &["here", "here.site"], &["6.6.6.6", "127.0.0.1", "0.0.0.0", "224.0.0.1"]));
    let a = |asked| addresses(&face.asked.ask(asked, RecordType::A));
    wait_until("evil is known", SOON, || a("evil.repmd") == ["6.6.6.6"]);
    assert_eq!((a("here.repmd"), a("here.site.repmd")), (vec!["10.0.0.1".into()], vec!["10.0.0.1".into()]));
    for asked in ["localhost.repmd", "127.1.repmd", "10.0.0.9.repmd"] {
        assert_eq!(a(asked), Vec::<String>::new(), "{asked}");
    }
}

#[test]
fn questions_come_by_ipv6_too() {
    let face = Face::start_at("[::1]:0", options(), Policy::default());
    assert_eq!(addresses(&face.asked.ask("here.repmd", RecordType::AAAA)), ["2001:db8::1"]);
    assert_eq!(addresses(&face.asked.ask_by_tcp("here.repmd", RecordType::A)), ["10.0.0.1"]);
}

/// The registry has what this daemon's last run left behind; whether that lives nobody knows.
#[test]
fn a_node_of_an_earlier_run_is_not_told_of() {
    let face = start();
    face.register(instance("hosta", &[], &["10.0.0.7"]), "app", 9100);
    face.register(instance("here", &[], &["10.0.0.1"]), "app", 9100);
    wait_until("the other is known", SOON, || {
        !face.asked.ask("app.nodes.repmd", RecordType::A).answers.is_empty()
    });
    assert_eq!(addresses(&face.asked.ask("app.nodes.repmd", RecordType::A)), ["10.0.0.7"]);
}

/// Its nodes are reached by way of this machine, at ports that the daemon here tells those who ask it.
#[test]
fn a_host_that_this_machine_stands_for_is_at_this_machine_s_address_and_its_ports_are_not_told() {
    let rules = Rules { virtual_hosts: [([10, 1, 0, 7].into(), HostId::parse("hosta").unwrap())].into() };
    let face = Face::start_with("127.0.0.4:0", options(), Policy::default(), rules);
    face.register(instance("hosta", &[], &["10.0.0.7"]), "app", 9100);
    let a = |asked| addresses(&face.asked.ask(asked, RecordType::A));
    wait_until("it is known", SOON, || a("app.nodes.repmd") == ["10.1.0.7"]);
    assert_eq!(a("hosta.repmd"), ["10.1.0.7"]);
    let services = face.asked.ask("app.nodes.repmd", RecordType::SRV);
    assert_eq!((services.metadata.response_code, services.answers.len()), (ResponseCode::NoError, 0));
}
