//! The release build without shared libraries: small, and at home in an image that holds nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use repmd_test_support::{Daemon, Peer, alive2, free_port, lookup_port};

const SIZE_MAX: u64 = 12 << 20;

/// Builds it, in a folder beside the other builds.
fn build() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("static");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--bin", "repmd", "--target", &triple, "--target-dir"]).arg(&target);
    // The form of RUSTFLAGS that wins over all others.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(status.success(), "the static build failed");
    target.join(triple).join("release/repmd")
}

#[test]
fn the_static_release_build_is_small_and_serves_from_an_empty_root() {
    let program = build();
    let size = std::fs::metadata(&program).unwrap().len();
    println!("{} has {size} bytes", program.display());
    assert!(size <= SIZE_MAX, "{size} bytes are more than {SIZE_MAX}");

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
