//! Where operators look.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::parsing::{Form, PATH};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;

pub(super) const ADMIN: Row<Admin> = Row {
    key: "admin",
    variables: &["REPMD_ADMIN"],
    form: Form {
        value: "ADDRESS:PORT",
        expected: "an address and port such as 127.0.0.1:4370, or `off`",
        parse: |text| match text {
            "off" => Some(Admin::Off),
            _ => https_place(text).or_else(|| address(text).map(Admin::At)),
        },
    },
    help: "Show the cluster by HTTP at this address: a page, an API, metrics, probes; or `off`",
    default: "127.0.0.1:4370, or a free port of 127.0.0.1 if that is taken; off with the stock command line",
};

pub(super) const ADMIN_TOKEN_FILE: Row<PathBuf> = Row {
    key: "admin-token-file",
    variables: &["REPMD_ADMIN_TOKEN_FILE"],
    form: PATH,
    help: "Demand the token in this file of those who look; without one `admin` must be a loopback address",
    default: "none",
};

/// Where operators look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// Where nobody said otherwise: at [`ADMIN_ADDRESS`], or at a free port if that is taken; nowhere with the stock
    /// command line.
    Default,
    /// Nowhere.
    Off,
    /// Here and nowhere else.
    At(SocketAddr),
    /// For commands that ask: at a proxy of this name and port, which speaks TLS.
    Https(String, u16),
}

/// Where operators look for a daemon that was told nothing else.
pub const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4370);

/// Where operators look, and the file with the token that they must have.
pub(super) fn read(values: &mut Reader<'_>) -> Result<(Admin, Option<PathBuf>), SettingError> {
    let token_file = values.chosen(&ADMIN_TOKEN_FILE)?;
    let admin = values.chosen(&ADMIN)?;
    values.show_default(&ADMIN, ADMIN_ADDRESS);
    if let Some(Admin::At(address)) = admin
        && !address.ip().to_canonical().is_loopback()
        && token_file.is_none()
    {
        return Err(values.wrong(&ADMIN, "a loopback address, unless admin-token-file is set"));
    }
    Ok((admin.unwrap_or(Admin::Default), token_file))
}

/// An address and port, also as a browser shows them: `http://localhost:4370/`.
fn address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().ok(),
    }
}

/// `https://NAME:PORT/`, where a proxy is.
fn https_place(text: &str) -> Option<Admin> {
    let place = text.strip_prefix("https://")?.trim_end_matches('/');
    let is_port = |port: &str| !port.contains(']');
    let (host, port) = match place.rsplit_once(':').filter(|(_, port)| is_port(port)) {
        Some((host, port)) => (host, port.parse().ok().filter(|port| 0 < *port)?),
        None => (place, 443),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host).is_ok().then(|| Admin::Https(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn the_admin_api_may_be_named_as_a_browser_shows_it() {
        let there = Admin::At(SocketAddr::from(([127, 0, 0, 1], 4371)));
        for text in ["127.0.0.1:4371", "localhost:4371", "http://127.0.0.1:4371", "http://localhost:4371/"] {
            assert_eq!(check(&[("admin", text)], &[], "").unwrap().admin, there, "{text}");
        }
        for text in ["localhost", "https://", "https://a:0", "https://a b", "http://", "localhost:70000"] {
            assert!(check(&[("admin", text)], &[], "").is_err(), "{text}");
        }
    }

    #[test]
    fn operators_are_served_beyond_loopback_only_with_a_token() {
        for address in ["0.0.0.0:4370", "[::]:4370", "10.0.0.1:4370", "[::ffff:10.0.0.1]:4370"] {
            let error = check(&[("admin", address)], &[], "").unwrap_err().to_string();
            let text = "is wrong: expected a loopback address, unless admin-token-file is set";
            assert_eq!(error, format!("admin: {address:?} (from flag) {text}"));
            let file = [("REPMD_ADMIN_TOKEN_FILE", "/run/token")];
            let admin = Admin::At(address.parse().unwrap());
            assert_eq!(check(&[("admin", address)], &file, "").unwrap().admin, admin);
        }
        for address in ["127.0.0.1:4370", "127.1.2.3:1", "[::1]:4370", "[::ffff:127.0.0.1]:4370"] {
            let admin = Admin::At(address.parse().unwrap());
            assert_eq!(check(&[], &[("REPMD_ADMIN", address)], "").unwrap().admin, admin);
        }
        assert_eq!(check(&[], &[], "admin = \"off\"").unwrap().admin, Admin::Off);
    }
}
