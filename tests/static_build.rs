//! The release build without shared libraries: small, and at home in an image that holds nothing else.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use repmd_test_support::{Daemon, Peer, alive2, free_port, lookup_port};

const SIZE_MAX: u64 = 14 << 20;

/// Builds it as a release does.
fn build() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/static-build");
    let built = Command::new(script).stderr(Stdio::inherit()).output().expect("the script starts");
    assert!(built.status.success(), "the static build failed");
    PathBuf::from(String::from_utf8(built.stdout).expect("a path that is text").trim_end())
}

#[test]
fn the_static_release_build_is_small_and_serves_from_an_empty_root() {
    let program = build();
    let size = std::fs::metadata(&program).unwrap().len();
    println!("{} has {size} bytes", program.display());
    assert!(size <= SIZE_MAX, "{size} bytes are more than {SIZE_MAX}");
    // What names this folder differs in another, and a release would too.
    let bytes = std::fs::read(&program).unwrap();
    let folder = env!("CARGO_MANIFEST_DIR").as_bytes();
    assert!(!bytes.windows(folder.len()).any(|window| window == folder), "the program names its folder");

    let root = tempfile::tempdir().unwrap();
    std::fs::copy(&program, root.path().join("repmd")).unwrap();
    let in_root = || {
        let mut command = Command::new("chroot");
        command.arg(root.path()).arg("/repmd");
        command
    };
    let version = in_root().arg("--version").output().expect("chroot starts");
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("repmd {}\n", env!("CARGO_PKG_VERSION")));

    let port = free_port();
    let mut serve = in_root();
    serve.args(["serve", "--log", "warn", "--port", &port.to_string()]);
    let daemon = Daemon::spawn(serve, port);
    let mut node = Peer::connect(port);
    node.send(&alive2("rabbit", 25672)).unwrap();
    assert_eq!(node.read(6, std::time::Duration::from_secs(10)).len(), 6, "registered");
    assert_eq!(lookup_port(daemon.port(), "rabbit").map(|found| found.port), Some(25672));
}
