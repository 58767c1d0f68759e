//! How values are written.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use hickory_proto::rr::Name;
use repmd_backend_api::HostId;
use tracing::level_filters::LevelFilter;

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

/// One or more items separated by commas or spaces. None at all is nothing that anybody means: where a list narrows
/// something down, an empty one would not.
pub(super) fn list<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    list_of(|item| item.parse().ok())(text).filter(|items| !items.is_empty())
}

/// Items separated by commas or spaces, with a parser of the items; empty ones are passed over.
pub(super) fn list_of<T>(item: impl Fn(&str) -> Option<T>) -> impl Fn(&str) -> Option<Vec<T>> {
    move |text| text.split([',', ' ']).filter(|text| !text.is_empty()).map(&item).collect()
}

/// `key=value` items.
pub(super) fn pairs<K: Ord, V>(
    key: impl Fn(&str) -> Option<K>,
    value: impl Fn(&str) -> Option<V>,
) -> impl Fn(&str) -> Option<BTreeMap<K, V>> {
    let pair = move |text: &str| {
        let (left, right) = text.split_once('=')?;
        Some((key(left)?, value(right)?))
    };
    move |text| Some(list_of(&pair)(text)?.into_iter().collect())
}

/// A domain that names may be below of.
pub(super) fn zone(text: &str) -> Option<Name> {
    let zone = HostId::parse(text.trim_matches('.')).ok().filter(HostId::is_resolvable)?;
    Name::from_ascii(format!("{zone}.")).ok()
}

/// An address with or without a port, which else is that of DNS.
pub(super) fn name_server(text: &str) -> Option<SocketAddr> {
    let at_port_53 = || text.parse().ok().map(|address: IpAddr| SocketAddr::new(address, 53));
    text.parse().ok().or_else(at_port_53)
}

/// A bare word that is no level is refused: a filter takes it for the name of a part of a program, and logs nothing
/// but that.
pub(super) fn log_filter(text: &str) -> Option<String> {
    let is_word = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_known = |part: &str| !is_word(part) || !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_filter = text.parse::<tracing_subscriber::EnvFilter>().is_ok();
    (is_filter && text.split(',').map(str::trim).all(is_known)).then(|| text.to_owned())
}

/// `FROM-TO`, neither of them 0.
pub(super) fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

pub(super) fn cluster_name(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len());
    (fits && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))).then(|| text.to_owned())
}
