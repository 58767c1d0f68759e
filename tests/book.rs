//! The pages that people read: what they link to is there, and the book has all of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use regex::Regex;

const CONTENTS: &str = "docs/SUMMARY.md";

/// Every page, by its path from the project's folder.
struct Pages(BTreeMap<PathBuf, String>);

impl Pages {
    fn read() -> Self {
        let mut pages = BTreeMap::new();
        let top = fs::read_dir(project()).unwrap().map(|entry| entry.unwrap().path());
        let top = top.filter(|path| path.is_file() && is_page(path));
        for path in
            top.chain(["docs", "deploy", "tests"].iter().flat_map(|folder| below(&project().join(folder))))
        {
            let text = fs::read_to_string(&path).unwrap();
            pages.insert(path.strip_prefix(project()).unwrap().to_owned(), text);
        }
        Self(pages)
    }

    /// What is wrong with a link of a page.
    fn fault(&self, page: &Path, link: &str) -> Option<&'static str> {
        let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
        let target = if path.is_empty() { page.to_owned() } else { resolve(page, path) };
        if !project().join(&target).exists() {
            return Some("leads nowhere");
        }
        if page.starts_with("docs") && !target.starts_with("docs") {
            return Some("leads out of the book, where only the source tree has it");
        }
        let is_there = |anchor| self.0.get(&target).is_some_and(|text| anchors(text).contains(&anchor));
        anchor.is_some_and(|anchor| !is_there(anchor.to_owned())).then_some("leads to no heading of its page")
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pages = entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] });
    pages.filter(|path| is_page(path)).collect()
}

/// The path of a link, from the project's folder.
fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().unwrap().to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{link} leads out of the project"),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

/// A page without its blocks of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Where a page links to, other machines left out.
fn links(page: &str) -> Vec<String> {
    let code = Regex::new("`[^`]*`").unwrap();
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    // Both may go over the end of a line.
    let text = prose(page).collect::<Vec<_>>().join("\n");
    let text = code.replace_all(&text, "");
    let links = link.captures_iter(&text).map(|found| found[1].to_owned());
    links.filter(|link| !link.contains("://")).collect()
}

/// What its headings are called in links.
fn anchors(page: &str) -> Vec<String> {
    let headings = prose(page).filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let pages = Pages::read();
    let links = pages.0.iter().flat_map(|(page, text)| links(text).into_iter().map(move |link| (page, link)));
    let faults: Vec<_> = links
        .filter_map(|(page, link)| Some(format!("{}: {link} {}", page.display(), pages.fault(page, &link)?)))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_books_contents_list_every_page_once() {
    let pages = Pages::read();
    let contents = Path::new(CONTENTS);
    let mut listed: Vec<_> = links(&pages.0[contents]).iter().map(|link| resolve(contents, link)).collect();
    listed.sort();
    let of_book = pages.0.into_keys().filter(|page| page.starts_with("docs") && page != contents);
    assert_eq!(listed, of_book.collect::<Vec<_>>(), "on the left what {CONTENTS} lists");
}

#[test]
fn links_and_headings_are_found_and_code_is_neither() {
    let page = "# A `b`, c\nto [`x`](a.md#b) and\n[y\nz](#c) of [web](https://x.y)\n\n```sh\n# no\n[](no)\n```\n`[](no)`\n";
    assert_eq!(links(page), ["a.md#b", "#c"]);
    assert_eq!(anchors(page), ["a-b-c"]);
    let pages = Pages(BTreeMap::from([(PathBuf::from("docs/doctor.md"), page.to_owned())]));
    let fault = |link| pages.fault(Path::new("docs/doctor.md"), link);
    assert_eq!(fault("#a-b-c"), None);
    for link in ["absent.md", "#absent", "../README.md"] {
        assert!(fault(link).is_some(), "{link}");
    }
}
