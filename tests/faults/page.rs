//! The page of failure modes, held against the tests that it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex::Regex;

#[test]
fn each_row_of_the_page_names_its_test_and_each_test_has_its_row() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(project.join("docs/failure-modes.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what happens"));
    let name = Regex::new(r"`([a-z0-9_]+)` \|$").unwrap();
    let named: BTreeSet<String> = rows
        .map(|row| name.captures(row).unwrap_or_else(|| panic!("no test: {row}"))[1].to_owned())
        .collect();
    let test = Regex::new(r"#\[test\]\nfn ([a-z0-9_]+)\(").unwrap();
    let mut tests = BTreeSet::new();
    for file in fs::read_dir(project.join("tests/faults")).unwrap() {
        let file = file.unwrap().path();
        if file.file_name().is_some_and(|name| name != "page.rs") {
            let source = fs::read_to_string(file).unwrap();
            tests.extend(test.captures_iter(&source).map(|found| found[1].to_owned()));
        }
    }
    assert_eq!(named, tests, "named by the page, and there");
}
