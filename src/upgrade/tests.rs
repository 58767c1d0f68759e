//! How a program tries another one out and begins in its place. What becomes of a process that does is tested with real
//! programs, in `tests/upgrade`.

use std::net::{TcpListener, UdpSocket};
use std::process::id;

use super::state::tests::{daemon, first, left_open, settings};
use super::*;

/// A shell in the place of a program: what it does when it is tried.
fn shell(script: &str) -> Called {
    let arguments = ["repmd", "-c", script].map(OsString::from).to_vec();
    Called { program: "/bin/sh".into(), arguments }
}

fn tried(script: &str) -> Result<(String, usize), String> {
    let said = try_out(&shell(script), first().into_file().unwrap())?;
    Ok((said.version, said.nodes))
}

#[test]
fn a_program_that_is_tried_reads_the_state_and_says_last_how_many_nodes_it_could_serve() {
    let script = r#"test "$REPMD_UPGRADE" = check && test "$0" = repmd && test "$(head -c 8)" = "repmd up" || exit 1
        echo noise; echo '{"version":"9","nodes":3}'; echo noise >&2"#;
    assert_eq!(tried(script), Ok(("9".to_owned(), 3)));
}

#[test]
fn a_program_that_cannot_go_on_says_why_last() {
    let fails = |script: &str| tried(script).unwrap_err();
    let says = r#"echo '{"version":"9","nodes":3}'"#;
    let what = "/bin/sh cannot serve the nodes (exit status: 3): because";
    assert_eq!(fails(&format!("{says}; echo so >&2; echo because >&2; exit 3")), what);
    assert_eq!(fails("echo ready"), "/bin/sh cannot serve the nodes (exit status: 0): it says nothing");
    let called = Called { program: "/nowhere/repmd".into(), ..shell("") };
    let error = try_out(&called, first().into_file().unwrap()).unwrap_err();
    assert!(error.starts_with("cannot run /nowhere/repmd: No such file"), "{error}");
}

#[test]
fn what_a_program_says_is_read_within_bounds() {
    let said = read_beside(io::repeat(b'x')).join().unwrap();
    assert_eq!(said.len() as u64, SAID_BYTES_MAX);
}

#[test]
fn the_next_program_is_called_as_this_one_was() {
    let called = Called::now().unwrap();
    assert_eq!(called.program.canonicalize().unwrap(), std::env::current_exe().unwrap());
    let command = called.command("how");
    assert_eq!(command.get_program(), called.program);
    assert!(command.get_args().eq(std::env::args_os().skip(1)));
    assert!(command.get_envs().eq([(VARIABLE.as_ref(), Some("how".as_ref()))]));
}

#[test]
fn a_program_begins_anew_unless_a_state_was_left_for_this_process() {
    let me = id();
    let others = ["", "7", "x:7", &format!("{}:7", me + 1), &format!("{me}:"), &format!("{me}:x")];
    let standard_streams = [0, 1, 2, -1].map(|fd| format!("{me}:{fd}"));
    for how in others.into_iter().chain(standard_streams.iter().map(|how| &**how)) {
        assert!(matches!(begin(&|_| Some(how.to_owned())), Ok(Begin::Anew)), "{how}");
    }
    assert!(matches!(begin(&|_| None), Ok(Begin::Anew)));
    let mut file = first().into_file().unwrap();
    file.read_exact(&mut [0; 3]).unwrap();
    let how = format!("{me}:{}", left_open(file));
    let Ok(Begin::Resume(state)) = begin(&|name| (name == "REPMD_UPGRADE").then(|| how.clone())) else {
        panic!("{how}")
    };
    assert_eq!(state.check(&settings("a")), Ok(1), "from its start");
    let how = format!("{me}:{}", left_open(File::open("/dev/null").unwrap()));
    assert!(begin(&|_| Some(how.clone())).is_err());
}

#[test]
fn the_sockets_that_listen_are_those_that_the_state_names() {
    let tcp = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = tcp.each_ref().map(|listener| listener.local_addr().unwrap());
    let udp_address = udp.local_addr().unwrap();
    let outcome = Outcome::new().unwrap();
    outcome.tell(&Went::Never);
    let mut state = first();
    let [wire, dns, admin] = tcp.map(left_open);
    state.sockets = state::Sockets {
        wire: vec![wire],
        dns_udp: vec![left_open(udp)],
        dns_tcp: vec![dns],
        admin: Some(admin),
        outcome: left_open(outcome.as_fd().try_clone_to_owned().unwrap()),
    };
    let Inherited { wire, others: OtherSockets { dns, admin }, outcome } = Inherited::take(&state).unwrap();
    let of = |listeners: &[TcpListener]| {
        listeners.iter().map(|listener| listener.local_addr().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(of(&wire), addresses[..1]);
    assert_eq!(of(&dns.tcp), addresses[1..2]);
    assert_eq!(dns.udp.iter().map(|socket| socket.local_addr().unwrap()).collect::<Vec<_>>(), [udp_address]);
    assert_eq!(of(&[admin.unwrap()]), addresses[2..]);
    assert_eq!(read_outcome(outcome.as_fd().try_clone_to_owned().unwrap().into()).unwrap().number, 1);
}

#[tokio::test]
async fn a_hang_up_asks_for_another_program_unless_it_was_ignored_before() {
    let mut before = first();
    assert!(Upgrader::reload_signal(Some(&before)).unwrap().is_none());
    before.reloads = true;
    assert!(Upgrader::reload_signal(Some(&before)).unwrap().is_some());
    let ignored = repmd_sys::ignore(SignalKind::hangup().as_raw_value());
    assert!(Upgrader::reload_signal(None).unwrap().is_none(), "as nohup does");
    assert!(Upgrader::reload_signal(Some(&before)).unwrap().is_some(), "for that moment alone");
    drop(ignored);
}

#[tokio::test]
async fn a_daemon_is_replaced_by_a_program_that_would_serve_all_of_its_nodes() {
    let (daemon, _peers) = daemon(&[(5, "n"), (7, "m")]).await;
    let upgrader = |nodes: usize, replacements: &mpsc::Sender<Replace>| {
        Arc::new(Upgrader {
            called: shell(&format!(r#"echo '{{"version":"9","nodes":{nodes}}}'"#)),
            sockets: OtherSockets { dns: Sockets { udp: Vec::new(), tcp: Vec::new() }, admin: None },
            outcome: Outcome::new().unwrap(),
            reloads: false,
            daemon: Arc::clone(&daemon),
            replacements: replacements.clone(),
        })
    };
    let (nobody, _) = mpsc::channel(1);
    assert_eq!(upgrader(2, &nobody).try_out().await, Ok("9".to_owned()));
    assert_eq!(upgrader(2, &nobody).replace().await, "the daemon is about to end");
    for nodes in [0, 1, 3] {
        let why = upgrader(nodes, &nobody).replace().await;
        assert_eq!(why, format!("the new program would serve {nodes} of 2 nodes"));
    }
    // Whoever serves the wire cannot pause.
    let (replacements, mut asked) = mpsc::channel(1);
    let (why, ()) = tokio::join!(upgrader(2, &replacements).replace(), async { drop(asked.recv().await) });
    assert_eq!(why, "what is under way did not pause");
}
