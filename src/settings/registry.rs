//! How the registry is used.

use std::time::Duration;

use super::parsing::{Form, TIME, duration, word};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;
use crate::registry::Lookup;

pub(super) const CLUSTER: Row<String> = Row {
    key: "cluster",
    variables: &["REPMD_CLUSTER"],
    form: Form {
        value: "NAME",
        expected: "1 to 64 letters, digits, `-`, `_` and `.`",
        parse: |text| word(text, "-_.", 64),
    },
    help: "The registry within the store; daemons of different clusters never see each other",
    default: "default",
};

pub(super) const LOOKUP: Row<Lookup> = Row {
    key: "lookup",
    variables: &["REPMD_LOOKUP"],
    form: Form {
        value: "SCOPE",
        expected: "`host` or `cluster`",
        parse: |text| match text {
            "host" => Some(Lookup::Host),
            "cluster" => Some(Lookup::Cluster),
            _ => None,
        },
    },
    help: "Where to look a name without a host up: on this `host`, or also in the `cluster`",
    default: "cluster",
};

pub(super) const LEASE_TTL: Row<Duration> = Row {
    key: "lease-ttl",
    variables: &["REPMD_LEASE_TTL"],
    form: Form {
        value: "TIME",
        expected: "a time from 1s to 1h, such as 15s",
        parse: |text| duration(text).filter(|ttl| (1..=3600).contains(&ttl.as_secs())),
    },
    help: "How long a shared store keeps a registration that is not renewed",
    default: "15s",
};

pub(super) const STALE_FOR: Row<Duration> = Row {
    key: "stale-for",
    variables: &["REPMD_STALE_FOR"],
    form: TIME,
    help: "How long to answer for nodes elsewhere from memory while the store is away",
    default: "lease-ttl",
};

/// `None`: as long as a lease lasts.
pub(super) fn stale_for(
    values: &mut Reader<'_>,
    lease_ttl: Duration,
) -> Result<Option<Duration>, SettingError> {
    values.show_default(&STALE_FOR, humantime::format_duration(lease_ttl));
    values.chosen(&STALE_FOR)
}
