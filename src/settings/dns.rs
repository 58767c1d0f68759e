//! What is asked by DNS.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;
use repmd_backend_api::HostId;

use super::parsing::{Form, TIME, list, some_of};
use super::reader::Reader;
use super::table::Row;
use super::values::SettingError;
use crate::dns::Options;

pub(super) const DNS: Row<Vec<SocketAddr>> = Row {
    key: "dns",
    variables: &["REPMD_DNS"],
    form: Form {
        value: "ADDRESS:PORT,...",
        expected: "addresses with ports such as 127.0.0.1:53, separated by commas",
        parse: list,
    },
    help: "Answer by DNS here, UDP and TCP: HOST.ZONE is where a host is, NAME.nodes.ZONE which hosts have a node",
    default: "off",
};

pub(super) const DNS_ZONE: Row<Vec<Name>> = Row {
    key: "dns-zone",
    variables: &["REPMD_DNS_ZONE"],
    form: Form {
        value: "ZONE,...",
        expected: "domains such as repmd or cluster.example, separated by commas",
        parse: |text| some_of(text, zone),
    },
    help: "The zones whose names are the registry's",
    default: "repmd",
};

pub(super) const DNS_TTL: Row<Duration> = Row {
    key: "dns-ttl",
    variables: &["REPMD_DNS_TTL"],
    form: TIME,
    help: "How long resolvers may remember what they were told",
    default: "1s",
};

pub(super) const DNS_NEGATIVE_TTL: Row<Duration> = Row {
    key: "dns-negative-ttl",
    variables: &["REPMD_DNS_NEGATIVE_TTL"],
    form: TIME,
    help: "How long they may remember that there is nothing",
    default: "1s",
};

pub(super) const DNS_FORWARD: Row<Vec<SocketAddr>> = Row {
    key: "dns-forward",
    variables: &["REPMD_DNS_FORWARD"],
    form: Form {
        value: "ADDRESS,...",
        expected: "addresses of name servers, separated by commas",
        parse: |text| some_of(text, name_server),
    },
    help: "Ask these name servers for names of all other zones, for this machine and for allow-lookups-from",
    default: "none: those names are refused",
};

pub(super) const DNS_RATE: Row<u32> = Row {
    key: "dns-rate",
    variables: &["REPMD_DNS_RATE"],
    form: Form::COUNT,
    help: "Most answers a second by UDP to one network (/24 or /56) that is not this machine",
    default: "1000",
};

pub(super) fn read(values: &mut Reader<'_>) -> Result<Options, SettingError> {
    let dns = Options {
        addresses: values.chosen(&DNS)?.unwrap_or_default(),
        zones: values.value(&DNS_ZONE)?,
        ttl: values.value(&DNS_TTL)?,
        negative_ttl: values.value(&DNS_NEGATIVE_TTL)?,
        forward: values.chosen(&DNS_FORWARD)?.unwrap_or_default(),
        rate: values.value(&DNS_RATE)?,
    };
    values.show_default(&DNS_FORWARD, "none");
    if dns.forward.iter().any(|server| dns.answers_at(*server)) {
        return Err(values.wrong(&DNS_FORWARD, "other name servers than this daemon itself"));
    }
    Ok(dns)
}

/// A domain that names may be below of.
fn zone(text: &str) -> Option<Name> {
    let zone = HostId::parse(text.trim_matches('.')).ok().filter(HostId::is_resolvable)?;
    Name::from_ascii(format!("{zone}.")).ok()
}

/// An address with or without a port, which else is that of DNS.
fn name_server(text: &str) -> Option<SocketAddr> {
    let at_port_53 = || text.parse().ok().map(|address: IpAddr| SocketAddr::new(address, 53));
    text.parse().ok().or_else(at_port_53)
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn names_of_other_zones_are_never_asked_of_the_daemon_itself() {
        for (dns, forward) in
            [("127.0.0.1:53", "127.0.0.1"), ("0.0.0.0:53", "127.0.0.1"), ("[::1]:5353", "[::1]:5353")]
        {
            let error = check(&[("dns", dns), ("dns-forward", forward)], &[], "").unwrap_err().to_string();
            assert!(error.ends_with("expected other name servers than this daemon itself"), "{error}");
        }
        let settings =
            check(&[("dns", "127.0.0.1:53"), ("dns-forward", "127.0.0.11,[2001:db8::1]:5353")], &[], "");
        let forward = settings.unwrap().dns.forward;
        assert_eq!(forward, ["127.0.0.11:53", "[2001:db8::1]:5353"].map(|text| text.parse().unwrap()));
    }
}
