//! The settings file that packages install, held to the table of settings.

use repmd::settings::TABLE;

/// Every setting as a comment: the file changes nothing until somebody does.
fn expected() -> String {
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
    text
}

#[test]
fn the_settings_file_of_the_packages_shows_every_setting_and_sets_none() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/repmd.toml");
    let expected = expected();
    let is_right = std::fs::read_to_string(path).is_ok_and(|text| text == expected);
    assert!(is_right, "{path} should be\n{expected}");
    assert!(toml::from_str::<toml::Table>(&expected).unwrap().is_empty());
}
