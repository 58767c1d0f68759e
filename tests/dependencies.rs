//! What the workspace is built of: `deny.toml` says which licences and sources may be, and the release says which
//! there are. cargo-deny knows more, and takes a minute or two to be had.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All packages, of the workspace and of others, as Cargo describes them.
fn packages() -> Vec<Value> {
    let target = format!("--filter-platform={}-unknown-linux-gnu", std::env::consts::ARCH);
    let text = run(env!("CARGO"), &["metadata", "--locked", "--format-version=1", &target]);
    serde_json::from_str::<Value>(&text).unwrap()["packages"].as_array().unwrap().clone()
}

fn rules() -> toml::Table {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    text.parse().unwrap()
}

fn list(rules: &toml::Table, section: &str, key: &str) -> BTreeSet<String> {
    let values = rules[section][key].as_array().unwrap().iter();
    values.map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// The smallest sets of licences that an SPDX expression can be met with.
fn ways(expression: &str) -> Vec<BTreeSet<String>> {
    // The old form of a choice, and brackets that stand by themselves.
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    let ways = choice(&mut words);
    assert_eq!(words.next(), None, "{expression}");
    ways
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn choice(words: &mut Words<'_>) -> Vec<BTreeSet<String>> {
    let mut ways = sum(words);
    while words.next_if_eq(&"OR").is_some() {
        ways.extend(sum(words));
    }
    ways
}

fn sum(words: &mut Words<'_>) -> Vec<BTreeSet<String>> {
    let mut ways = licence(words);
    while words.next_if_eq(&"AND").is_some() {
        let others = licence(words);
        ways = ways.iter().flat_map(|way| others.iter().map(move |other| way | other)).collect();
    }
    ways
}

fn licence(words: &mut Words<'_>) -> Vec<BTreeSet<String>> {
    if words.next_if_eq(&"(").is_some() {
        let ways = choice(words);
        assert_eq!(words.next(), Some(")"));
        return ways;
    }
    let mut name = words.next().unwrap().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", words.next().unwrap());
    }
    vec![BTreeSet::from([name])]
}

#[test]
fn every_crate_is_of_crates_io_and_has_a_licence_that_may_be() {
    let rules = rules();
    let allowed = list(&rules, "licenses", "allow");
    let (mut used, mut faults) = (BTreeSet::new(), Vec::new());
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        let ways: Vec<_> = ways(licence).into_iter().filter(|way| way.is_subset(&allowed)).collect();
        used.extend(ways.iter().flatten().cloned());
        let is_ours = package["source"].is_null();
        if ways.is_empty() || !is_ours && package["source"] != CRATES_IO {
            faults.push(format!(
                "{} {}, {licence}, {}",
                package["name"], package["version"], package["source"]
            ));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert_eq!(used, allowed, "on the right what deny.toml allows");
    let registries = list(&rules, "sources", "allow-registry");
    assert!(registries.iter().eq([CRATES_IO.strip_prefix("registry+").unwrap()]), "{registries:?}");
}

#[test]
fn no_crate_is_banned() {
    let banned = list(&rules(), "bans", "deny");
    let packages = packages();
    let mut names = packages.iter().map(|package| package["name"].as_str().unwrap());
    assert!(!banned.is_empty() && names.all(|name| !banned.contains(name)), "{banned:?}");
}

#[test]
fn the_release_tells_of_every_crate_that_the_program_calls_by_name() {
    let text = run("deploy/third-party", &[]);
    let packages = packages();
    let ours = packages.iter().find(|package| package["name"] == "repmd").unwrap();
    let named = ours["dependencies"].as_array().unwrap().iter().filter(|dependency| {
        // A macro's code is not in the program, and our own crates are told of as repmd.
        dependency["kind"].is_null() && dependency["path"].is_null()
    });
    for dependency in named {
        let name = dependency["name"].as_str().unwrap();
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}:\n{text}");
    }
    for part in ["\nOf tokio, tokio-stream, tokio-util\n", "\nOf ring\n", "GNU LESSER GENERAL PUBLIC LICENSE"]
    {
        assert!(text.contains(part), "{part}");
    }
    let folder = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME")).unwrap();
    assert!(!text.contains(&folder) && !text.contains(env!("CARGO_MANIFEST_DIR")), "it names a folder");
}

#[test]
fn an_expression_of_licences_is_met_by_one_of_its_choices() {
    for (expression, expected) in [
        ("MIT", vec![vec!["MIT"]]),
        ("MIT/A OR B", vec![vec!["MIT"], vec!["A"], vec!["B"]]),
        ("(A OR B) AND C", vec![vec!["A", "C"], vec!["B", "C"]]),
        ("A WITH x OR A AND B", vec![vec!["A WITH x"], vec!["A", "B"]]),
    ] {
        let ways: Vec<Vec<_>> = ways(expression).into_iter().map(|way| way.into_iter().collect()).collect();
        assert_eq!(ways, expected, "{expression}");
    }
}
