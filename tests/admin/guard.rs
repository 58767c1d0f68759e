//! Who may look, and who may not.

use std::io::Write;
use std::process::{Command, Stdio};

use repmd_test_support::http::get;
use repmd_test_support::{Daemon, free_port, wait_until};

use crate::{SOON, serve};

const TOKEN: &str = "open-sesame-0123456789";

fn token_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn with_a_token_only_its_bearer_sees_the_cluster() {
    let file = token_file(&format!("{TOKEN}\n"));
    let (_daemon, admin) = serve(&["--admin-token-file", file.path().to_str().unwrap()]);
    let bearer = format!("Bearer {TOKEN}");
    for path in [
        "/metrics",
        "/api/v1/nodes",
        "/api/v1/status",
        "/api/v1/config",
        "/api/v1/nodes/a@b",
        "/api/v1/history",
        "/x",
    ] {
        for wrong in ["", "Bearer", "Bearer ", "Bearer wrong", TOKEN, "Basic b3BlbjpzZXNhbWU="] {
            let reply = get(admin, path, &[("Authorization", wrong)]);
            assert_eq!(
                (reply.status, reply.header("www-authenticate")),
                (401, Some("Bearer")),
                "{path} {wrong}"
            );
        }
        assert_eq!(get(admin, path, &[]).status, 401, "{path}");
        assert_ne!(get(admin, path, &[("Authorization", &bearer)]).status, 401, "{path}");
    }
    for path in ["/livez", "/readyz", "/", "/app.js", "/links.js", "/history.js", "/style.css"] {
        assert_eq!(get(admin, path, &[]).status, 200, "{path}");
    }
}

#[test]
fn why_a_daemon_is_not_ready_is_told_to_the_bearer_alone() {
    let file = token_file(TOKEN);
    let path = file.path().to_str().unwrap();
    let store = format!("redis://127.0.0.1:{}", free_port());
    let (_daemon, admin) = serve(&["--admin-token-file", path, "--backend", &store]);
    let bearer = format!("Bearer {TOKEN}");
    wait_until("the store is missed", SOON, || get(admin, "/readyz", &[]).status == 503);
    let body = |headers: &[(&str, &str)]| get(admin, "/readyz", headers).body;
    assert_eq!(body(&[]), r#"{"ready":false,"reasons":[],"notes":[]}"#);
    assert!(body(&[("Authorization", &bearer)]).contains("the registry is away"));
}

#[test]
fn beyond_loopback_a_token_is_demanded_at_the_start() {
    let start = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
        let port = free_port().to_string();
        let output = command.args(["serve", "--port", &port]).args(flags).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (exit, said) = start(&["--admin", "0.0.0.0:4370"]);
    assert_eq!(exit, Some(1));
    assert!(
        said.contains("admin: \"0.0.0.0:4370\" (from flag) is wrong: expected a loopback address, unless")
    );
    let short = token_file("too-short");
    for path in ["/nowhere", short.path().to_str().unwrap()] {
        let (exit, said) = start(&["--admin", "0.0.0.0:0", "--admin-token-file", path]);
        assert_eq!(exit, Some(1), "{said}");
        assert!(said.contains("admin-token-file: ") && said.contains(path), "{said}");
    }
}

#[test]
fn with_a_token_every_address_may_be_served() {
    let file = token_file(TOKEN);
    let (port, admin) = (free_port(), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
    command.args(["serve", "--port", &port.to_string(), "--admin", &format!("0.0.0.0:{admin}")]);
    command.args(["--admin-token-file", file.path().to_str().unwrap()]).stderr(Stdio::null());
    let _daemon = Daemon::spawn(command, port);
    wait_until("it shows what it does", SOON, || std::net::TcpStream::connect(("127.0.0.1", admin)).is_ok());
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", &*bearer), ("Host", "cluster.example.com")];
    assert_eq!(get(admin, "/api/v1/nodes", &headers).status, 200);
}

/// A page of another site whose name leads to loopback.
#[test]
fn without_a_token_nobody_is_led_here_under_another_name() {
    let (_daemon, admin) = serve(&[]);
    for host in ["evil.example.com", "evil.example.com:4370", "localhost.evil.example.com"] {
        assert_eq!(get(admin, "/api/v1/nodes", &[("Host", host)]).status, 421, "{host}");
    }
    for host in ["localhost", "localhost:4370", "127.0.0.1", "[::1]:4370"] {
        assert_eq!(get(admin, "/api/v1/nodes", &[("Host", host)]).status, 200, "{host}");
    }
}
