//! What is written down of the settings, held to their table.

use std::fs;
use std::path::Path;

use repmd::settings::TABLE;

/// `path` says what the table says; with the variable BLESS it is made to.
#[track_caller]
fn says(path: &str, expected: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, expected).expect("the file can be written");
    }
    let is_right = fs::read_to_string(file).is_ok_and(|text| text == expected);
    assert!(
        is_right,
        "{path} is not what the table of settings says. This writes it anew:\n\
         BLESS=1 cargo test --test written_settings"
    );
}

/// Every setting is a comment: the file changes nothing until somebody does.
#[test]
fn the_settings_file_of_the_packages_shows_every_setting_and_sets_none() {
    let mut text = "\
# Settings of repmd. Each is also a flag of `repmd serve` and a variable: `repmd serve --help`.
# `repmd check-config` checks them and shows each with where it comes from.
# The service runs as a user of its own, which must be able to read this file.
"
    .to_owned();
    for setting in TABLE {
        text += &format!("\n# {}.\n", setting.help);
        text += &format!("# Default: {}\n# {} = \"{}\"\n", setting.default, setting.key, setting.value);
    }
    says("deploy/repmd.toml", &text);
    assert!(toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.is_empty()));
}

/// Above the heading the page is written by hand.
#[test]
fn the_page_on_settings_shows_every_setting() {
    const PAGE: &str = "docs/settings.md";
    const HEADING: &str = "\n## Every setting\n";
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).expect("the page is there");
    let (by_hand, _) = page.split_once(HEADING).unwrap_or_else(|| panic!("{PAGE} has no{HEADING}"));
    let mut text = format!("{by_hand}{HEADING}");
    for setting in TABLE {
        let variables: Vec<_> = setting.variables.iter().map(|name| format!("`{name}`")).collect();
        text += &format!("\n### {}\n\n{}.\n\n", setting.key, setting.help);
        text += &format!("- flag: `--{} {}`\n", setting.key, setting.value);
        text += &format!("- variable: {}\n- default: {}\n", variables.join(", else "), setting.default);
    }
    says(PAGE, &text);
}
