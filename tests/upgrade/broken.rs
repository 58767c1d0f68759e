//! New programs that do not work: the old one serves on.

use std::sync::atomic::AtomicU32;

use repmd_test_support::{Peer, beside, names, wait_until};

use crate::stage::{REPMD, Stage};
use crate::{SOON, look_up_all_the_time};

/// Tries something that fails, while look-ups go on, and expects `words` of the command and in the log.
fn fails(stage: &Stage, words: &str, change: impl FnOnce()) {
    change();
    beside(1, look_up_all_the_time(stage.port(), "n", &AtomicU32::new(0)), || {
        let said = stage.fail_to_upgrade();
        assert!(said.contains("the old program serves on") && said.contains(words), "{said}");
    });
    wait_until("the log says so, too", SOON, || stage.log().contains(words));
}

#[test]
fn a_program_that_does_not_work_leaves_the_old_one_serving() {
    let stage = Stage::start(&[]);
    let node = stage.register("n", 5000);
    let script = |text: &str| stage.install_script(text);
    fails(&stage, "exit status: 3", || script("exit 3"));
    fails(&stage, "signal: 9", || script("kill -9 $$"));
    fails(&stage, "it is no program", || script("echo it is no program >&2; exit 1"));
    fails(&stage, "would serve 0 of 1 nodes", || script(r#"echo '{"version":"9","nodes":0}'"#));
    let newer = format!(r#"sed 's/"format":1/"format":9/' | exec {REPMD} "$@""#);
    fails(&stage, "has the format 9, of repmd", || script(&newer));
    fails(&stage, "Permission denied", || {
        std::fs::write(stage.path("new"), "").unwrap();
        std::fs::rename(stage.path("new"), stage.path("repmd")).unwrap();
    });
    fails(&stage, "No such file", || std::fs::remove_file(stage.path("repmd")).unwrap());
    fails(&stage, "does not say within 5s", || script("exec sleep 60"));
    still_serves(&stage, &node);
}

/// It has its node, and can be replaced by a program that works.
fn still_serves(stage: &Stage, node: &Peer) {
    stage.install_repmd();
    let said = stage.upgrade();
    assert!(said.contains("1 node kept, 0 lost"), "{said}");
    assert_eq!((node.is_open(), names(stage.port()).len()), (true, 1));
}

#[test]
fn settings_that_do_not_work_or_make_another_daemon_leave_the_old_one_serving() {
    let stage = Stage::start_with(&[], "host = \"a\"\ninstance-name = \"a\"\n");
    let node = stage.register("n", 5000);
    let path = stage.path("repmd.toml");
    let write = |text: &'static str| {
        let path = path.clone();
        move || std::fs::write(path, text).unwrap()
    };
    fails(&stage, "lookup", write("lookup = \"everywhere\""));
    let other = write("host = \"b\"\ninstance-name = \"a\"\n");
    fails(&stage, "host was a and is b: only a restart changes that", other);
    fails(
        &stage,
        "admin-token-file",
        write("host = \"a\"\ninstance-name = \"a\"\nadmin-token-file = \"/nowhere\""),
    );
    write("host = \"a\"\ninstance-name = \"a\"\nlookup = \"cluster\"")();
    still_serves(&stage, &node);
}

/// It worked when it was tried, and is gone when it is to go on: whatever was under way does.
#[test]
fn a_program_that_is_gone_at_the_last_moment_costs_nothing() {
    let stage = Stage::start(&[]);
    let node = stage.register("n", 5000);
    let mut half = stage.connect();
    half.send(b"\0").unwrap();
    fails(&stage, "No such file", || {
        let itself = stage.path("repmd");
        stage.install_script(&format!("rm {}\nexec {REPMD} \"$@\"", itself.display()));
    });
    half.send(b"\x01n").unwrap();
    assert!(half.read_to_end(SOON).ends_with(b"name n at port 5000\n"));
    still_serves(&stage, &node);
}
