//! The macro runs every case that there is, and a broken registry fails it.

#[test]
fn every_case_is_in_the_macro_and_has_a_broken_registry() {
    let listed = include_str!("../src/lib.rs");
    let mut cases = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        let source = std::fs::read_to_string(&path).unwrap();
        for line in source.lines() {
            let Some(rest) = line.strip_prefix("pub async fn ") else { continue };
            let case = rest.split('(').next().unwrap();
            let list = listed.split(&format!(", {module}:\n")).nth(1).and_then(|rest| rest.split(')').next());
            let list = list.unwrap_or_else(|| panic!("no module {module} in the macro"));
            assert!(list.split_whitespace().any(|word| word == case), "{module}::{case} never runs");
            let broken = include_str!("broken.rs").contains(&format!(" {module}::{case};"));
            assert!(broken, "no broken registry shows that {module}::{case} can fail");
            cases += 1;
        }
    }
    assert!(40 < cases, "only {cases} cases found");
}
