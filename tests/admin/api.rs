//! What a daemon alone answers.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use repmd_test_support::http::{get, request};
use repmd_test_support::{Daemon, free_port, lookup_port, wait_until};

use crate::{json, names, register, serve};

#[test]
fn a_daemon_that_is_well_is_live_and_ready() {
    let (_daemon, admin) = serve(&[]);
    assert_eq!(json(admin, "/livez")["live"], true);
    let ready = json(admin, "/readyz");
    assert_eq!((&ready["ready"], &ready["reasons"]), (&true.into(), &serde_json::json!([])));
}

#[test]
fn a_node_is_shown_with_all_that_it_said_and_gone_when_it_has_left() {
    let (daemon, admin) = serve(&["--advertise", "10.0.0.1", "--advertise-port", "1234=4321"]);
    let node = register(daemon.port(), "rabbit");
    let list = json(admin, "/api/v1/nodes");
    assert_eq!((&list["total"], &list["is_stale"], &list["next"]), (&1.into(), &false.into(), &().into()));
    let shown = json(admin, "/api/v1/nodes/rabbit@here");
    assert_eq!(shown["node"], "rabbit@here");
    let expected: [(&str, serde_json::Value); 12] = [
        ("name", "rabbit".into()),
        ("host", "here".into()),
        ("port", 1234.into()),
        ("advertised_port", 4321.into()),
        ("addresses", ["10.0.0.1"][..].into()),
        ("type", "normal".into()),
        ("lowest_version", 5.into()),
        ("highest_version", 6.into()),
        ("is_here", true.into()),
        ("state", "published".into()),
        ("lease_left_ms", ().into()),
        ("holder", ().into()),
    ];
    for (key, value) in expected {
        assert_eq!(shown[key], value, "{key}");
    }
    assert!(shown["alive_seconds"].as_u64().unwrap() < 10, "{shown}");
    drop(node);
    wait_until("the node is gone", crate::SOON, || {
        get(admin, "/api/v1/nodes/rabbit@here", &[]).status == 404
    });
    assert_eq!(json(admin, "/api/v1/nodes")["total"], 0);
}

#[test]
fn nodes_are_found_by_host_and_name_and_come_in_pages() {
    let (daemon, admin) = serve(&["--alias", "here.example"]);
    let _nodes: Vec<_> =
        ["e", "d", "c c", "b", "a@x"].iter().map(|name| register(daemon.port(), name)).collect();
    let listed = |query: &str| json(admin, &format!("/api/v1/nodes{query}"));
    assert_eq!(names(&listed("?name=d")), ["d@here"]);
    assert_eq!(names(&listed("?name=D")), [""; 0]);
    assert_eq!(listed("?host=HERE")["total"], 5);
    assert_eq!(listed("?host=here.example&name=b")["total"], 1);
    assert_eq!(listed("?host=there")["total"], 0);
    assert_eq!(listed("?host=no%20host")["total"], 0);

    let (mut all, mut query) = (Vec::new(), "?limit=2".to_owned());
    let mut sizes = Vec::new();
    loop {
        let page = listed(&query);
        sizes.push(names(&page).len());
        all.extend(names(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?limit=2&after={}", next.replace(' ', "%20"));
    }
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(all, ["a@x@here", "b@here", "c c@here", "d@here", "e@here"]);
    assert_eq!(json(admin, "/api/v1/nodes/a@x@here")["name"], "a@x");
}

#[test]
fn what_is_asked_wrongly_is_refused_with_what_was_expected() {
    let (_daemon, admin) = serve(&[]);
    for (path, status, said) in [
        ("/api/v1/nodes?limit=0", 400, "expected 1 to 10000"),
        ("/api/v1/nodes?limit=10001", 400, "expected 1 to 10000"),
        ("/api/v1/nodes?limit=x", 400, "limit"),
        ("/api/v1/nodes?hots=a", 400, "hots"),
        ("/api/v1/nodes?after=x", 400, "after"),
        ("/api/v1/nodes/rabbit", 400, "NAME@HOST"),
        ("/api/v1/nodes/rabbit@here", 404, "no such node"),
        ("/api/v2", 404, "nothing here"),
        ("/favicon.ico", 404, "nothing here"),
    ] {
        let reply = get(admin, path, &[]);
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (status, Some("application/json")),
            "{path}"
        );
        let error: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert!(error["error"].as_str().unwrap().contains(said), "{path}: {error}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_eq!(request(method, admin, "/api/v1/nodes", &[], "").status, 405, "{method}");
    }
    assert_eq!(request("HEAD", admin, "/api/v1/nodes", &[], "").status, 200);
}

#[test]
fn the_status_says_who_answers_and_counts_look_ups() {
    let (daemon, admin) = serve(&["--cluster", "blue"]);
    let _node = register(daemon.port(), "rabbit");
    let before = json(admin, "/api/v1/status")["lookups"].as_u64().unwrap();
    (0..3).for_each(|_| assert!(lookup_port(daemon.port(), "rabbit").is_some()));
    assert!(lookup_port(daemon.port(), "hare").is_none());
    let status = json(admin, "/api/v1/status");
    assert_eq!(status["lookups"].as_u64().unwrap() - before, 4);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["host"], &status["cluster"]), (&"here".into(), &"blue".into()));
    assert_eq!((&status["nodes"], &status["port"]), (&1.into(), &daemon.port().into()));
    assert_eq!(status["registry"]["is_shared"], false);
}

#[test]
fn the_configuration_is_shown_with_origins_and_without_secrets() {
    let (_daemon, admin) = serve(&["--backend", "redis://user:sesame@127.0.0.1:1", "--drain-time", "1s"]);
    let reply = get(admin, "/api/v1/config", &[]);
    assert!(!reply.body.contains("sesame"), "{}", reply.body);
    let config = json(admin, "/api/v1/config");
    let settings = config["settings"].as_array().unwrap();
    let setting = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(setting("backend")["value"], "redis://user:***@127.0.0.1:1");
    assert_eq!(
        (&setting("drain-time")["value"], &setting("drain-time")["origin"]),
        (&"1s".into(), &"flag".into())
    );
    assert_eq!(setting("packet-timeout")["origin"], "default");
    assert_eq!(settings.len(), repmd::settings::TABLE.len());
    assert!(!json(admin, "/api/v1/status").to_string().contains("sesame"));
}

#[test]
fn metrics_count_what_is_asked() {
    let (daemon, admin) = serve(&[]);
    let node = register(daemon.port(), "rabbit");
    assert!(lookup_port(daemon.port(), "rabbit").is_some());
    assert!(lookup_port(daemon.port(), "hare").is_none());
    assert_eq!(repmd_test_support::names(daemon.port()).len(), 1);
    let reply = get(admin, "/metrics", &[]);
    assert_eq!(
        reply.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    for line in [
        "repmd_lookups_total{answer=\"here\"} 1",
        "repmd_lookups_total{answer=\"none\"} 1",
        "repmd_registrations_total{result=\"granted\"} 1",
        "repmd_other_requests_total{request=\"names\"} 1",
        "repmd_nodes 1.0",
        "repmd_ready 1.0",
        "repmd_registry_up 1.0",
        "repmd_registry_call_seconds_count{verb=\"register\"} 1",
        "repmd_registry_call_seconds_bucket{le=\"+Inf\",verb=\"register\"} 1",
    ] {
        assert!(reply.body.lines().any(|shown| shown == line), "{line}:\n{}", reply.body);
    }
    assert!(reply.body.ends_with("# EOF\n"));
    let value = |name: &str| {
        let line = reply.body.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<f64>().unwrap()
    };
    assert!(1e6 < value("process_resident_memory_bytes "));
    assert!(4.0 < value("process_open_fds ") && value("process_open_fds ") < value("process_max_fds "));
    drop(node);
    wait_until("the end is counted", crate::SOON, || {
        get(admin, "/metrics", &[]).body.contains("\nrepmd_unregistrations_total 1\n")
    });
}

#[test]
fn the_page_is_served_with_a_policy_and_known_by_its_tag() {
    let (_daemon, admin) = serve(&[]);
    for (path, kind) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/links.js", "text/javascript"),
        ("/history.js", "text/javascript"),
        ("/style.css", "text/css"),
    ] {
        let reply = get(admin, path, &[]);
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.header("content-type").unwrap().starts_with(kind), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert!(!reply.body.contains("http://") && !reply.body.contains("https://"), "{path} asks elsewhere");
        let tag = reply.header("etag").unwrap();
        let again = get(admin, path, &[("If-None-Match", tag)]);
        assert_eq!((again.status, &*again.body), (304, ""), "{path}");
        assert_eq!(get(admin, path, &[("If-None-Match", "\"other\"")]).status, 200, "{path}");
    }
}

/// Two daemons on one machine. `tests/cli/which_daemon.rs` has the free port that it takes.
#[test]
fn a_default_address_in_use_does_not_stop_the_wire_but_a_chosen_one_does() {
    // Whoever has it: this test or a daemon of another one.
    let _default = TcpListener::bind("127.0.0.1:4370");
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
    command.args(["serve", "--port", &port.to_string()]).stderr(Stdio::null());
    let daemon = Daemon::spawn(command, port);
    let _node = register(daemon.port(), "rabbit");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for stock in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
        let port = free_port().to_string();
        if stock {
            command.args(["epmd", "-port", &port])
        } else {
            command.args(["serve", "--port", &port])
        };
        let output = command.env("REPMD_ADMIN", &address).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("admin: {address} is taken: ")), "{said}");
    }
}

#[test]
fn the_stock_command_line_shows_nothing_unless_it_is_told_to() {
    let start = |admin: Option<u16>| {
        let port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_repmd"));
        command.args(["epmd", "-port", &port.to_string()]).stderr(Stdio::null());
        if let Some(admin) = admin {
            command.env("REPMD_ADMIN", format!("127.0.0.1:{admin}"));
        }
        Daemon::spawn(command, port)
    };
    // Operators have a thread of their own.
    let has_thread = |daemon: &Daemon| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid().as_raw_nonzero())).unwrap();
        let name = |task: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
        };
        tasks.filter_map(name).any(|name| name == "admin\n")
    };
    assert!(!has_thread(&start(None)));
    let admin = free_port();
    let shows = start(Some(admin));
    wait_until("it has one", crate::SOON, || has_thread(&shows));
    assert_eq!(json(admin, "/livez")["live"], true);
}

#[test]
fn names_alone_are_told_a_line_each_and_a_link_leads_to_the_rest() {
    let (daemon, admin) = serve(&[]);
    let _nodes = ["a", "b b", "c\u{1b}", "d@e"].map(|name| register(daemon.port(), name));
    let all = get(admin, "/api/v1/nodes?format=names", &[]);
    assert_eq!(all.body, "a@here\nb b@here\nc\u{1b}@here\nd@e@here\n");
    assert_eq!((all.header("content-type"), all.header("link")), (Some("text/plain; charset=utf-8"), None));

    let (mut path, mut pages) = ("/api/v1/nodes?format=names&host=here&limit=1".to_owned(), Vec::new());
    loop {
        let page = get(admin, &path, &[]);
        assert_eq!(page.status, 200, "{path}");
        pages.push(page.body.clone());
        let Some(link) = page.header("link") else { break };
        path = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        assert!(path.ends_with("&host=here"), "{path}");
    }
    assert_eq!(pages, ["a@here\n", "b b@here\n", "c\u{1b}@here\n", "d@e@here\n"]);
}
