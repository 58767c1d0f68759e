//! Which part of the library uses which: as docs/ARCHITECTURE.md says, and never in a circle.
#![allow(clippy::unwrap_used)] // All of this is tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The parts that the library has: the files and folders of `src`.
fn parts() -> BTreeSet<String> {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let parts = names.map(|name| name.trim_end_matches(".rs").to_owned());
    parts.filter(|part| !["lib", "main"].contains(&&**part)).collect()
}

/// All source files below a path.
fn files(path: &Path) -> Vec<String> {
    if path.is_file() {
        return vec![fs::read_to_string(path).unwrap()];
    }
    fs::read_dir(path).unwrap().flat_map(|entry| files(&entry.unwrap().path())).collect()
}

/// The parts that a source names by `crate::`, outside of its tests.
fn used_by(source: &str, parts: &BTreeSet<String>) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for named in code.split("crate::").skip(1) {
        // One name, or several in braces, each with what is below it.
        let list = named.strip_prefix('{').map_or(named, |list| list.split('}').next().unwrap());
        let count = if named.starts_with('{') { usize::MAX } else { 1 };
        let words = list.split([',', ' ', '\n']).filter(|word| !word.is_empty()).take(count);
        let first =
            |word: &str| word.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
        used.extend(words.filter_map(first).filter(|name| parts.contains(name)));
    }
    used
}

fn of_the_code() -> Arrows {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let parts = parts();
    let arrows = |part: &String| {
        let (file, folder) = (source.join(format!("{part}.rs")), source.join(part));
        let path = if folder.is_dir() { folder } else { file };
        let mut used: BTreeSet<_> = files(&path).iter().flat_map(|text| used_by(text, &parts)).collect();
        used.remove(part);
        (part.clone(), used)
    };
    parts.iter().map(arrows).collect()
}

fn of_the_page() -> Arrows {
    let page = include_str!("../docs/ARCHITECTURE.md");
    let block = page.split("```text arrows\n").nth(1).unwrap().split("```").next().unwrap();
    let line = |line: &str| {
        let (part, used) = line.split_once("->").unwrap_or((line, ""));
        (part.trim().to_owned(), used.split_whitespace().map(str::to_owned).collect())
    };
    block.lines().map(line).collect()
}

#[test]
fn the_page_on_the_architecture_has_every_arrow_and_no_other() {
    let (code, page) = (of_the_code(), of_the_page());
    let written = |arrows: &Arrows| {
        let line = |(part, used): (&String, &BTreeSet<String>)| {
            format!("{part} -> {}", used.iter().cloned().collect::<Vec<_>>().join(" ")).trim_end().to_owned()
        };
        arrows.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    assert!(code == page, "the code has\n{}\nand the page\n{}", written(&code), written(&page));
}

#[test]
fn no_part_uses_itself_by_way_of_others() {
    let mut left = of_the_code();
    // Whoever uses nothing that is left cannot be part of a circle.
    while let Some(free) =
        left.keys().find(|part| left[*part].iter().all(|used| !left.contains_key(used))).cloned()
    {
        left.remove(&free);
    }
    assert!(left.is_empty(), "a circle is among {:?}", left.keys());
}
