//! `repmd policy`: who may ask a daemon of these settings what, and what the internet can reach.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use clap::ArgMatches;

use super::modern::{Environment, Failure, say, settings_of_daemon};
use crate::kinds::Kinds;
use crate::printable::escaped;
use crate::server::{Networks, Verb};
use crate::settings::{ADMIN_ADDRESS, Admin, Settings};

/// What a verb is called, and the setting that says who may.
fn named(verb: Verb) -> (&'static str, &'static str) {
    match verb {
        Verb::LookUp => ("look a name up", "allow-lookups-from"),
        Verb::List => ("list names", "allow-lists-from"),
        Verb::Register => ("register a node", "register-from"),
        Verb::Command => ("end, stop, dump", "command-from"),
        Verb::Dns => ("ask by DNS", "allow-dns-from"),
        Verb::Operate => ("page, API, metrics", "allow-admin-from"),
    }
}

pub(super) fn main(
    matches: &ArgMatches,
    environment: Environment<'_>,
    kinds: Kinds<'_>,
) -> Result<ExitCode, Failure> {
    let settings = settings_of_daemon(matches, environment, kinds)?;
    say(in_words(&settings).as_bytes()).map(|()| ExitCode::SUCCESS)
}

/// A table, and warnings below it.
fn in_words(settings: &Settings) -> String {
    let policy = settings.policy.clone().listing_to_a_site();
    let rows: Vec<_> = Verb::ALL
        .iter()
        .map(|verb| {
            let ((what, key), who) = (named(*verb), policy.from(*verb).to_string());
            let origin = settings.shown.iter().find(|shown| shown.key == key).map(|shown| &shown.origin);
            let setting = format!("{key} ({})", origin.map(ToString::to_string).unwrap_or_default());
            // A file may be called anything.
            (what, who, escaped(&setting).into_owned())
        })
        .collect();
    let width = rows.iter().map(|(_, who, _)| who.len()).max().unwrap_or_default();
    let mut text = format!("{:18}  {:width$}  SETTING\n", "WHAT", "WHO");
    for (what, who, setting) in rows {
        text += &format!("{what:18}  {who:width$}  {setting}\n");
    }
    for verb in Verb::ALL {
        let (what, key) = named(verb);
        if let Some(port) = open_to_the_internet(settings, verb, policy.from(verb)) {
            text += &format!(
                "warning: the internet may {what} at port {port}, unless a firewall is before it: {key}\n"
            );
        }
    }
    text
}

/// The port at which the internet may do it, as far as this machine is concerned.
fn open_to_the_internet(settings: &Settings, verb: Verb, from: &Networks) -> Option<u16> {
    if !from.reach_the_internet() {
        return None;
    }
    match verb {
        Verb::LookUp | Verb::List | Verb::Register | Verb::Command => {
            let everywhere = settings.addresses.is_empty();
            (everywhere || settings.addresses.iter().any(is_open)).then_some(settings.port)
        }
        Verb::Dns => {
            let open = settings.dns.addresses.iter().find(|address| is_open(&address.ip()));
            open.map(SocketAddr::port)
        }
        Verb::Operate => {
            let address = match &settings.admin {
                Admin::Off | Admin::Https(..) => return None,
                Admin::Default => ADMIN_ADDRESS,
                Admin::At(address) => *address,
            };
            is_open(&address.ip()).then_some(address.port())
        }
    }
}

/// Whether the internet might come to an address of this machine.
fn is_open(address: &IpAddr) -> bool {
    address.is_unspecified() || Networks::from_address(*address).reach_the_internet()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Values;

    fn said(flags: &[(&str, &str)]) -> String {
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let values = Values::merge(&flags, &|_| None, None).unwrap();
        in_words(&Settings::check(&values, 1000, &|_| Ok(false)).unwrap())
    }

    #[test]
    fn by_itself_the_internet_may_look_up_and_nothing_else() {
        let said = said(&[]);
        let warnings: Vec<_> = said.lines().filter(|line| line.starts_with("warning")).collect();
        let of_look_ups = "warning: the internet may look a name up at port 4369, unless a firewall is before it: \
                           allow-lookups-from";
        assert_eq!(warnings, [of_look_ups], "{said}");
        assert!(
            said.contains("this machine, private networks, hosts of the cluster  allow-lists-from (default)")
        );
    }

    #[test]
    fn what_listens_inside_alone_is_not_warned_of() {
        assert!(!said(&[("address", "10.0.0.7,fd00::7")]).contains("warning"));
        assert!(!said(&[("allow-lookups-from", "private")]).contains("warning"));
        assert!(said(&[("address", "203.0.113.7")]).contains("at port 4369"));
        let dns = said(&[("dns", "203.0.113.7:53"), ("address", "10.0.0.7")]);
        assert!(dns.contains("may ask by DNS at port 53"), "{dns}");
    }

    #[test]
    fn who_may_look_up_may_list_unless_somebody_says_otherwise() {
        let said = said(&[("allow-lookups-from", "203.0.113.0/24")]);
        assert_eq!(said.matches("this machine, 203.0.113.0/24").count(), 3, "{said}");
    }
}
