//! Pages that name tests, held to the tests that there are.

use std::path::Path;

/// The rows of the table under a heading of a page, as their cells.
pub fn table<'a>(page: &'a str, heading: &str) -> impl Iterator<Item = Vec<&'a str>> {
    let (_, section) = page.split_once(heading).unwrap_or_else(|| panic!("the page has no '{heading}'"));
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// What stands between backticks.
pub fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// All of this project's sources.
#[derive(Debug)]
pub struct Sources(String);

impl Sources {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut text = String::new();
        for folder in ["src", "backends", "tests"] {
            read(&project.join(folder), &mut text);
        }
        Self(text)
    }

    /// Whether there is a test of this name.
    #[must_use]
    pub fn have_test(&self, name: &str) -> bool {
        self.0.contains(&format!("fn {name}("))
    }

    /// Whether something logs a line that starts so.
    #[must_use]
    pub fn log(&self, line: &str) -> bool {
        self.0.contains(&format!(", \"{line}")) || self.0.contains(&format!("(\"{line}"))
    }
}

fn read(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("the sources are here") {
        let path = entry.expect("the sources are here").path();
        if path.is_dir() {
            read(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("sources are text"));
        }
    }
}
