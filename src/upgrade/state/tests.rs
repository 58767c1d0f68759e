use super::*;
use crate::settings::Values;

/// As the first version of the format wrote it. Later versions must read it for as long as the format is 1.
const FIRST: &str = r#"{"format":1,"version":"0.1.0","identity":{"id":"00000000000000000000000000000007","name":"i",
        "host":"a","port":4369,"addresses":["10.0.0.1"],"aliases":["a.example"]},"frozen_at":{"secs":1,"nanos":2},
        "sockets":{"wire":[3],"dns_udp":[],"dns_tcp":[],"admin":null,"outcome":4},
        "nodes":[{"claim":5,"fd":9,"name":"n","port":5000,"advertised_port":5001,"node_type":77,"protocol":0,
        "versions":[6,5],"extra":[1,2],"creation":77,"registered_at":{"secs":1800000000,"nanos":0},
        "renewed":{"secs":3,"nanos":0}}],"departed":[{"name":"d","port":1,"fd":8}],"next_claim":6,
        "under_way":[{"fd":10,"port":4369,"asked":[0],"unread":0},{"fd":11,"port":4369,"asked":null,"unread":2}],
        "releasing":[],"departures":[["d",{"secs":4,"nanos":0}]],"creations":[["d",70]],"highest_forgotten":60,
        "offline":[["o",1800000000]]}"#;

fn read(json: &str, rests: &[u8]) -> io::Result<State> {
    let length = (json.len() as u64).to_le_bytes();
    State::read(&mut [MAGIC, length.as_slice(), json.as_bytes(), rests].concat().as_slice())
}

/// A state with one node, of claim 5.
pub(in super::super) fn first() -> State {
    read(FIRST, b"").unwrap()
}

pub(in super::super) fn settings(host: &str) -> Settings {
    let flags = [("host", host.to_owned()), ("instance-name", "i".to_owned())];
    let values = Values::merge(&flags, &|_| None, None).unwrap();
    Settings::check(&values, 1000, &|_| Ok(false)).unwrap()
}

#[test]
fn the_first_version_of_the_format_is_read_and_says_all_of_it() {
    let state = read(FIRST, b"xy").unwrap();
    assert_eq!(state.check(&settings("a")), Ok(1));
    let instance = Arc::new(Instance {
        id: state.identity.id().unwrap(),
        name: "i".to_owned(),
        host: HostId::parse("a").unwrap(),
        aliases: state.identity.aliases().unwrap(),
        addresses: state.identity.addresses.clone(),
        port: 4369,
    });
    let registry = state.registry(&instance).unwrap();
    assert_eq!(instance.id, InstanceId(7));
    assert_eq!(registry.renewed, HashMap::from([(5, Duration::from_secs(3))]));
    assert_eq!(registry.past.highest_forgotten.map(Creation::get), Some(60));
    assert_eq!(registry.past.creations, [(name("d").unwrap(), Creation::new(70).unwrap())]);
    let node = state.nodes[0].registration(&instance).unwrap();
    assert_eq!((node.node.port, node.advertised_port, node.creation.get()), (5000, 5001, 77));
    assert_eq!(*node.node.extra, [1, 2]);
}

#[test]
fn members_that_this_version_does_not_know_are_ignored_and_other_formats_refused() {
    let newer = FIRST.replacen("\"next_claim\"", "\"later\":[{}],\"next_claim\"", 1);
    assert!(read(&newer, b"xy").is_ok());
    let other = FIRST.replacen("\"format\":1", "\"format\":2", 1).replace("identity", "who");
    let error = read(&other, b"").unwrap_err().to_string();
    assert!(error.contains("the format 2, of repmd 0.1.0; this one reads 1"), "{error}");
}

#[test]
fn another_host_is_another_daemon() {
    let error = read(FIRST, b"xy").unwrap().check(&settings("b")).unwrap_err();
    assert_eq!(error, "host was a and is b: only a restart changes that");
}

#[test]
fn what_is_cut_short_or_impossible_is_an_error_that_says_so() {
    let whole = [MAGIC, (FIRST.len() as u64).to_le_bytes().as_slice(), FIRST.as_bytes()].concat();
    for length in [0, 7, 12, 16, 100, whole.len() - 1] {
        assert!(State::read(&mut &whole[..length]).is_err(), "{length} bytes");
    }
    for (right, wrong) in [("\"name\":\"n\"", "\"name\":\"\""), ("\"creation\":77", "\"creation\":3")] {
        let state = read(&FIRST.replacen(right, wrong, 1), b"xy").unwrap();
        assert_eq!(state.check(&settings("a")), Ok(0), "{wrong}");
    }
    let beyond = FIRST.replacen("1800000000,\"nanos\"", "18446744073709551615,\"nanos\"", 1);
    assert_eq!(read(&beyond, b"xy").unwrap().check(&settings("a")), Ok(0));
}

/// What is kept of [`FIRST`], and happened after it.
fn kept(lines: &str) -> State {
    let state = FIRST.replacen("\"fd\":9", "\"fd\":9,\"cookie\":90", 1);
    let length = (state.len() as u64).to_le_bytes();
    let file = [MAGIC, length.as_slice(), state.as_bytes(), lines.as_bytes()].concat();
    State::read_kept(&mut file.as_slice()).unwrap()
}

fn node_line(claim: u64, name: &str, creation: u32) -> String {
    format!(
        r#"{{"registered":{{"claim":{claim},"fd":12,"cookie":{},"name":"{name}","port":5002,"advertised_port":5002,
            "node_type":77,"protocol":0,"versions":[6,5],"extra":[],"creation":{creation},
            "registered_at":{{"secs":9000000000,"nanos":0}},"renewed":null}}}}"#,
        claim * 10
    )
    .replace("\n", "")
        + "\n"
}

#[test]
fn lines_after_a_state_say_who_came_and_who_left() {
    let left = "{\"left\":{\"claim\":5,\"at\":{\"secs\":0,\"nanos\":0}}}\n";
    let lines = node_line(7, "m", 80) + left + &node_line(9, "n", 81) + "{\"left\":{\"claim\":44,";
    let state = kept(&lines);
    let nodes: Vec<_> = state.nodes.iter().map(|node| (node.claim, &*node.name, node.cookie)).collect();
    assert_eq!(nodes, [(7, "m", Some(70)), (9, "n", Some(90))]);
    assert_eq!(state.next_claim, 10);
    let departed: Vec<_> = state.departed.iter().map(|gone| (&*gone.name, gone.port, gone.fd)).collect();
    assert_eq!(departed, [("d", 1, 8), ("n", 5000, 9)]);
    assert_eq!(state.creations, [("d".to_owned(), 70), ("n".to_owned(), 77)]);
    let names: Vec<_> = state.departures.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["d", "n"]);
    // The clock's creation of that second is no other life's.
    let offline: HashMap<_, _> = state.offline.iter().cloned().collect();
    assert_eq!(offline["m"], 9_000_000_002);
}

#[test]
fn a_line_that_cannot_be_read_costs_its_node_alone() {
    let good = node_line(7, "m", 80);
    for bad in ["\n", "{}\n", "{\"later\":{}}\n", "\u{0}\u{0}\n", "{\"registered\":{\"claim\":8}}\n"] {
        let state = kept(&format!("{bad}{good}"));
        assert_eq!(state.nodes.iter().map(|node| node.claim).collect::<Vec<_>>(), [5, 7], "{bad:?}");
    }
}

#[test]
fn what_was_kept_can_be_written_and_read_again_and_stays_as_large() {
    let lines: String = (0..1000)
        .map(|life| {
            node_line(100 + life, "m", 80)
                + &format!("{{\"left\":{{\"claim\":{},\"at\":{{\"secs\":0,\"nanos\":0}}}}}}\n", 100 + life)
        })
        .collect();
    let write = |state: &State| {
        let mut bytes = Vec::new();
        state.write(&mut bytes).unwrap();
        bytes
    };
    let once = write(&kept(&lines));
    assert!(once.len() < 2000, "{} bytes", once.len());
    let again = State::read_kept(&mut once.as_slice()).unwrap();
    assert_eq!((again.nodes.len(), again.next_claim), (1, 1100));
    assert_eq!(again.creations, [("d".to_owned(), 70), ("m".to_owned(), 80)]);
    // Each life has a second of its own, and none of them comes again.
    assert!(again.offline.contains(&("m".to_owned(), 9_000_001_001)), "{:?}", again.offline);
}

#[test]
fn names_that_left_are_kept_within_bounds_and_the_highest_creation_of_the_others() {
    let mut names: Vec<_> = (0..=LEFT_MAX).map(|number| (number.to_string(), number)).collect();
    names.push(("0".to_owned(), 7));
    let forgotten = keep_last(&mut names, |(name, _)| name);
    assert_eq!(forgotten, [("1".to_owned(), 1)]);
    assert_eq!((names.len(), &names[0].1, names.last().map(|(_, last)| *last)), (LEFT_MAX, &2, Some(7)));
}
