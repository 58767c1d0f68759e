//! The page for operators, held to the tests and to the log.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use repmd_test_support::{Sources, quoted, table};

const PAGE: &str = include_str!("../../docs/failure-modes.md");

#[test]
fn each_row_of_the_page_names_its_test_and_each_test_has_its_row() {
    let mut named = BTreeSet::new();
    for heading in ["## The store\n", "### etcd\n", "## Daemons and networks\n", "## Without a failure\n"] {
        for row in table(PAGE, heading) {
            let tests: Vec<_> = quoted(row.last().unwrap()).map(str::to_owned).collect();
            assert!(!tests.is_empty(), "no test: {row:?}");
            named.extend(tests);
        }
    }
    let mut tests = BTreeSet::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files = fs::read_dir(folder.join("faults")).unwrap().map(|file| file.unwrap().path());
    let of_nodes = ["addresses.rs", "identity.rs", "partitions.rs", "rabbitmq.rs", "restart.rs"]
        .map(|file| folder.join("multi_host").join(file));
    for file in files.filter(|file| !file.ends_with("page.rs")).chain(of_nodes) {
        let source = fs::read_to_string(file).unwrap();
        let names = source.split("#[test]\nfn ").skip(1).map(|test| test.split_once('(').unwrap().0);
        tests.extend(names.map(str::to_owned));
    }
    let unnamed: Vec<_> = tests.difference(&named).collect();
    assert_eq!(unnamed, [""; 0], "no row of the page names them");
    // A row may also name a test of another program.
    let sources = Sources::read();
    let absent: Vec<_> = named.iter().filter(|test| !sources.have_test(test)).collect();
    assert_eq!(absent, [""; 0], "there are no such tests");
}

#[test]
fn each_row_about_the_daemons_surroundings_names_a_test_that_there_is() {
    let sources = Sources::read();
    for row in table(PAGE, "## Logs\n").chain(table(PAGE, "## Service managers\n")) {
        let test = quoted(row.last().unwrap()).next().unwrap();
        assert!(sources.have_test(test), "no test {test}");
    }
}

#[test]
fn the_log_has_the_lines_of_the_page() {
    let sources = Sources::read();
    for row in table(PAGE, "## Words of the log\n") {
        let line = quoted(row[0]).next().unwrap();
        assert!(sources.log(line), "nothing logs '{line}'");
    }
}
