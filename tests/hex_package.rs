//! The Erlang application as a package of hex.pm: it says what is wanted there, and all of it agrees.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use regex::Regex;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file(name: &str) -> String {
    std::fs::read_to_string(project().join("erlang/repmd").join(name)).unwrap()
}

/// A string of the application's file.
fn said(key: &str) -> String {
    let pattern = Regex::new(&format!(r#"\{{{key}, "([^"]*)"\}}"#)).unwrap();
    pattern.captures(&file("src/repmd.app.src")).unwrap_or_else(|| panic!("no {key}"))[1].to_owned()
}

#[test]
fn the_package_says_what_hex_wants_to_know() {
    let description = said("description");
    assert!(!description.is_empty() && description.len() <= 300, "{description}");
    let app = file("src/repmd.app.src");
    assert!(app.contains(r#"{licenses, ["Apache-2.0"]}"#), "{app}");
    let links = Regex::new(r#"\{"\w+", "https://[^"]+"\}"#).unwrap();
    assert!(app.contains("{links, [") && links.is_match(&app), "{app}");
}

#[test]
fn the_package_has_the_version_of_the_daemon_and_says_so_everywhere() {
    let version = said("vsn");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let newest = Regex::new(r"(?m)^## (.+)$").unwrap();
    assert_eq!(newest.captures(&file("CHANGELOG.md")).unwrap()[1], version);
    let (series, _) = version.rsplit_once('.').unwrap();
    let readme = file("README.md");
    for line in [format!("{{:repmd, \"~> {series}\"}}"), format!("{{repmd, \"~> {series}\"}}")] {
        assert!(readme.contains(&line), "README.md of the package has no {line}");
        let page = std::fs::read_to_string(project().join("docs/erlang.md")).unwrap();
        assert!(page.contains(&line), "docs/erlang.md has no {line}");
    }
}

#[test]
fn the_package_has_every_file_that_it_names_and_the_projects_licence() {
    let files = Regex::new(r"files: ~w\(([^)]+)\)").unwrap();
    let mix = file("mix.exs");
    for name in files.captures(&mix).unwrap()[1].split(' ') {
        assert!(project().join("erlang/repmd").join(name).exists(), "{name}");
    }
    assert_eq!(file("LICENSE"), std::fs::read_to_string(project().join("LICENSE")).unwrap());
    // It is read where nothing else of the project is.
    assert!(!file("README.md").contains("](../") && !file("CHANGELOG.md").contains("](../"));
}
