//! How values are written.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How a value is written.
pub(super) struct Form<T> {
    /// What it is called in help texts.
    pub(super) value: &'static str,
    /// What is expected, for whoever wrote something else.
    pub(super) expected: &'static str,
    /// Reads it, without the space around it. `None`: it is written in another way.
    pub(super) parse: fn(&str) -> Option<T>,
}

impl<T: FromStr + Default + PartialOrd> Form<T> {
    /// A number that is not 0.
    pub(super) const COUNT: Self =
        Form { value: "NUMBER", expected: "a number from 1 up", parse: positive::<T> };
}

pub(super) const TIME: Form<Duration> = Form {
    value: "TIME",
    expected: "a time such as 60s or 500ms, or a number of seconds, of 30 days at most",
    parse: duration,
};

pub(super) const BOOL: Form<bool> =
    Form { value: "BOOL", expected: "`true` or `false`", parse: |text| text.parse().ok() };

pub(super) const PATH: Form<PathBuf> = Form {
    value: "PATH",
    expected: "an absolute path",
    parse: |text| Some(PathBuf::from(text)).filter(|path| path.is_absolute()),
};

/// The longest time that any setting takes: 30 days. Clocks reckon with much more, but not with all that fits a
/// number.
const TIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// `60s`, `1m 30s`, or a bare number of seconds as the stock flags take them; at most [`TIME_MAX`].
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let time = match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    time.filter(|time| *time <= TIME_MAX)
}

/// A number that is not 0.
pub(super) fn positive<T: FromStr + Default + PartialOrd>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number| T::default() < *number)
}

/// One or more items separated by commas or spaces. None at all is nothing that anybody means: where a list narrows
/// something down, an empty one would not.
pub(super) fn list<T: FromStr>(text: &str) -> Option<Vec<T>> {
    some_of(text, |item| item.parse().ok())
}

/// The same with a parser of the items.
pub(super) fn some_of<T>(text: &str, item: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    list_of(text, item).filter(|items| !items.is_empty())
}

/// Items separated by commas or spaces, if any; empty ones are passed over.
pub(super) fn list_of<T>(text: &str, item: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    text.split([',', ' ']).filter(|text| !text.is_empty()).map(item).collect()
}

/// `key=value` items.
pub(super) fn pairs<K: Ord, V>(
    text: &str,
    key: impl Fn(&str) -> Option<K>,
    value: impl Fn(&str) -> Option<V>,
) -> Option<BTreeMap<K, V>> {
    let pair = |text: &str| {
        let (left, right) = text.split_once('=')?;
        Some((key(left)?, value(right)?))
    };
    Some(list_of(text, pair)?.into_iter().collect())
}

/// `FROM-TO`, neither of them 0.
pub(super) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

/// Letters, digits and some other characters, up to so many.
pub(super) fn word(text: &str, others: &str, length_max: usize) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    ((1..=length_max).contains(&text.len()) && text.chars().all(fits)).then(|| text.to_owned())
}
