//! Where the daemon listens.

use std::net::IpAddr;

use super::parsing::{Form, list, positive};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;

pub(super) const PORT: Row<u16> = Row {
    key: "port",
    variables: &["REPMD_PORT", "ERL_EPMD_PORT"],
    form: Form { value: "PORT", expected: "a number from 1 to 65535", parse: positive },
    help: "Listen on this port",
    default: "4369",
};

pub(super) const ADDRESS: Row<Vec<IpAddr>> = Row {
    key: "address",
    variables: &["REPMD_ADDRESS", "ERL_EPMD_ADDRESS"],
    form: Form {
        value: "ADDRESS,...",
        expected: "one or more IP addresses, separated by commas",
        parse: list,
    },
    help: "Listen on these addresses, and on loopback",
    default: "every address",
};

/// The port, and whether somebody chose it.
pub(super) fn port(values: &Reader<'_>) -> Result<(u16, bool), SettingError> {
    Ok((values.value(&PORT)?, values.chosen(&PORT)?.is_some()))
}

/// None: every address.
pub(super) fn addresses(values: &mut Reader<'_>) -> Result<Vec<IpAddr>, SettingError> {
    values.show_default(&ADDRESS, "0.0.0.0,::");
    Ok(values.chosen(&ADDRESS)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use crate::protocol::DEFAULT_PORT;

    #[test]
    fn nodes_find_a_daemon_that_was_told_no_port() {
        assert_eq!(check(&[], &[], "").unwrap().port, DEFAULT_PORT);
    }
}
