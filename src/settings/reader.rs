//! Reads values, a row of the table at a time.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::table::{Row, TABLE};
use super::values::{Origin, SettingError, Values};

/// A setting as it may be shown: without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The setting.
    pub key: &'static str,
    /// What it is set to; where nobody set it, what it comes to on this machine.
    pub value: String,
    /// By whom.
    pub origin: Origin,
}

/// Reads what was set, and notes what people are to hear of it.
pub(super) struct Reader<'a> {
    values: &'a Values,
    warnings: Vec<String>,
    /// What defaults come to on this machine, where the table has other words for them.
    defaults: BTreeMap<&'static str, String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(values: &'a Values) -> Self {
        Self { values, warnings: values.warnings().to_vec(), defaults: BTreeMap::new() }
    }

    /// What a setting was set to; `None` when nobody set it.
    pub(super) fn chosen<T>(&self, row: &Row<T>) -> Result<Option<T>, SettingError> {
        let (text, origin) = self.values.get(row.key);
        if *origin == Origin::Default {
            return Ok(None);
        }
        (row.form.parse)(text.trim()).map(Some).ok_or_else(|| self.wrong(row, row.form.expected))
    }

    /// What a setting is, set or by its default, which must be a value and no words.
    pub(super) fn value<T>(&self, row: &Row<T>) -> Result<T, SettingError> {
        let default = || (row.form.parse)(row.default).expect("the default is a value");
        Ok(self.chosen(row)?.unwrap_or_else(default))
    }

    /// What a setting is, set or else `here`, on this machine.
    pub(super) fn value_or<T: Display>(
        &mut self,
        row: &Row<T>,
        here: impl FnOnce() -> T,
    ) -> Result<T, SettingError> {
        if let Some(chosen) = self.chosen(row)? {
            return Ok(chosen);
        }
        let here = here();
        self.show_default(row, &here);
        Ok(here)
    }

    /// What a setting was set to, as it was written, and by whom.
    pub(super) fn text<T>(&self, row: &Row<T>) -> (&'a str, &'a Origin) {
        self.values.get(row.key)
    }

    /// Shows this for a setting that nobody set, in the place of the words of the table.
    pub(super) fn show_default<T>(&mut self, row: &Row<T>, here: impl Display) {
        self.defaults.insert(row.key, here.to_string());
    }

    /// Warns of what is allowed, but most likely not meant.
    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// That a setting is not what was expected.
    pub(super) fn wrong<T>(&self, row: &Row<T>, expected: &str) -> SettingError {
        self.values.wrong(row.key, expected)
    }

    /// The warnings, and every setting for people.
    pub(super) fn noted(self) -> (Vec<String>, Vec<Shown>) {
        let shown = TABLE.iter().map(|setting| {
            let (value, origin) = match self.values.shown(setting.key) {
                (_, Origin::Default) => {
                    let here = self.defaults.get(setting.key).map(String::as_str);
                    (here.unwrap_or(setting.default).to_owned(), Origin::Default)
                }
                chosen => chosen,
            };
            Shown { key: setting.key, value, origin }
        });
        (self.warnings, shown.collect())
    }
}
