//! The bounds of the server.

use std::time::Duration;

use super::parsing::{Form, TIME};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;
use crate::server::Limits;

pub(super) const REQUEST_RATE: Row<usize> = Row {
    key: "request-rate",
    variables: &["REPMD_REQUEST_RATE"],
    form: Form::COUNT,
    help: "Most requests a second of one address that is not this machine's; more are closed unanswered",
    default: "any number",
};

pub(super) const PACKET_TIMEOUT: Row<Duration> = Row {
    key: "packet-timeout",
    variables: &["REPMD_PACKET_TIMEOUT"],
    form: TIME,
    help: "Close a connection that makes no progress for this long",
    default: "60s",
};

pub(super) const WAITING_MAX: Row<usize> = Row {
    key: "waiting-max",
    variables: &["REPMD_WAITING_MAX"],
    form: Form::COUNT,
    help: "Most connections at once whose request is not whole",
    default: "a quarter of the open-file limit",
};

pub(super) const WAITING_PER_PEER_MAX: Row<usize> = Row {
    key: "waiting-per-peer-max",
    variables: &["REPMD_WAITING_PER_PEER_MAX"],
    form: Form::COUNT,
    help: "The same for one address that is not loopback",
    default: "a quarter of waiting-max",
};

pub(super) const DRAIN_TIME: Row<Duration> = Row {
    key: "drain-time",
    variables: &["REPMD_DRAIN_TIME"],
    form: TIME,
    help: "How long a stopping daemon waits for requests on their way",
    default: "5s",
};

pub(super) const EXIT_WHEN_EMPTY: Row<Duration> = Row {
    key: "exit-when-empty",
    variables: &["REPMD_EXIT_WHEN_EMPTY"],
    form: TIME,
    help: "End this long after the last node has left, unless another comes; a daemon that no node has come to goes on",
    default: "never",
};

pub(super) const DELAY_ACCEPT: Row<Duration> = Row {
    key: "delay-accept",
    variables: &["REPMD_DELAY_ACCEPT"],
    form: TIME,
    help: "Sleep before accepting, to test clients",
    default: "0s",
};

pub(super) const DELAY_WRITE: Row<Duration> = Row {
    key: "delay-write",
    variables: &["REPMD_DELAY_WRITE"],
    form: TIME,
    help: "Sleep before answering, to test clients",
    default: "0s",
};

/// The bounds of a server that may have `descriptors` open files, but for those that `others` need; and how long it goes
/// on without nodes, `None`: for ever.
pub(super) fn read(
    values: &mut Reader<'_>,
    descriptors: usize,
    others: usize,
) -> Result<(Limits, Option<Duration>), SettingError> {
    let mut limits = Limits::for_descriptors(descriptors);
    limits.nodes_max = limits.nodes_max.saturating_sub(others).max(1);
    limits.packet_timeout = values.value(&PACKET_TIMEOUT)?;
    limits.waiting_max = values.value_or(&WAITING_MAX, || limits.waiting_max)?;
    let a_quarter = (limits.waiting_max / 4).max(1);
    limits.waiting_per_peer_max = values.value_or(&WAITING_PER_PEER_MAX, || a_quarter)?;
    let rate = values.chosen(&REQUEST_RATE)?;
    limits.requests_per_peer_rate = rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
    limits.drain_time = values.value(&DRAIN_TIME)?;
    let exit_when_empty = values.chosen(&EXIT_WHEN_EMPTY)?;
    limits.delay_accept = values.value(&DELAY_ACCEPT)?;
    limits.delay_write = values.value(&DELAY_WRITE)?;
    Ok((limits, exit_when_empty))
}
