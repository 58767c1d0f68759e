//! Which name of a zone is asked for.

use hickory_proto::rr::Name;
use ipnet::IpNet;
use repmd_backend_api::AliveName;

/// The label below a zone under which nodes are found.
const NODES: &str = "nodes";

/// What a name means, before it is known what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A zone itself.
    Apex(&'a Name),
    /// What is below a zone.
    Below(Below<'a>),
    /// No host or node is called so, whatever there is, but it is in a zone.
    Nothing(&'a Name),
    /// An address or a network, as PTR has it.
    Reverse(IpNet),
    /// Of another zone.
    Foreign,
}

/// A name below a zone: of a host, by one of two names, or of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Below<'a> {
    pub(super) zone: &'a Name,
    /// The whole name, in lower case without the last dot: a host may be called so.
    pub(super) full: String,
    /// The same without the zone.
    pub(super) prefix: String,
    /// The alive name, where a node is asked for.
    pub(super) node: Option<AliveName>,
    /// It is the name below which the nodes are.
    pub(super) is_nodes: bool,
}

/// What `name` means, where these zones are ours.
pub(super) fn meaning<'a>(zones: &'a [Name], name: &Name) -> Meaning<'a> {
    // Of zones within each other the inner one counts.
    let ours = zones.iter().filter(|zone| zone.zone_of(name)).max_by_key(|zone| zone.num_labels());
    let Some(zone) = ours else {
        return name.parse_arpa_name().map_or(Meaning::Foreign, Meaning::Reverse);
    };
    let labels = usize::from(name.num_labels() - zone.num_labels());
    if labels == 0 {
        return Meaning::Apex(zone);
    }
    let texts: Option<Vec<_>> = name.iter().map(text).collect();
    let Some(texts) = texts else { return Meaning::Nothing(zone) };
    let node = match &texts[..labels] {
        [node, nodes] if nodes == NODES => AliveName::parse(node.as_bytes()).ok(),
        _ => None,
    };
    Meaning::Below(Below {
        zone,
        full: texts.join("."),
        prefix: texts[..labels].join("."),
        node,
        is_nodes: labels == 1 && texts[0] == NODES,
    })
}

/// A label in lower case, unless no name of ours has such a one.
fn text(label: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(label).ok()?;
    (text.is_ascii() && !text.contains('.')).then(|| text.to_ascii_lowercase())
}

/// The name of `host` in `zone`; that of a host which itself is called by a name in one of our zones is this. `None`:
/// it is too long for any.
#[must_use]
pub fn host_name(zones: &[Name], zone: &Name, host: &str) -> Option<Name> {
    let itself = Name::from_ascii(format!("{host}.")).ok()?;
    if zones.iter().any(|zone| zone.zone_of(&itself) && zone.num_labels() < itself.num_labels()) {
        return Some(itself);
    }
    in_zone(itself, zone)
}

/// The name of the hosts that have a node of this alive name. `None`: DNS cannot have such a name.
#[must_use]
pub fn node_name(alive: &str, zone: &Name) -> Option<Name> {
    let is_its = text(alive.as_bytes()).is_some_and(|text| text == alive);
    let node = Name::from_labels([alive.as_bytes(), NODES.as_bytes()]).ok().filter(|_| is_its)?;
    in_zone(node, zone)
}

/// A name with a zone behind it. `None`: that is too long.
fn in_zone(mut name: Name, zone: &Name) -> Option<Name> {
    name.set_fqdn(false);
    name.append_domain(zone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn below(zones: &[Name], text: &str) -> (String, String, Option<String>) {
        match meaning(zones, &name(text)) {
            Meaning::Below(Below { full, prefix, node, .. }) => {
                (full, prefix, node.map(|node| node.as_str().to_owned()))
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn names_are_told_apart_without_case() {
        let zones = [name("repmd.")];
        assert_eq!(meaning(&zones, &name("RePmD.")), Meaning::Apex(&zones[0]));
        let node = Some("my_app".to_owned());
        assert_eq!(
            below(&zones, "My_App.NODES.rEpmd."),
            ("my_app.nodes.repmd".into(), "my_app.nodes".into(), node)
        );
        assert_eq!(below(&zones, "HostA.repmd."), ("hosta.repmd".into(), "hosta".into(), None));
        assert!(matches!(
            meaning(&zones, &name("nodes.repmd.")),
            Meaning::Below(Below { is_nodes: true, node: None, .. })
        ));
        assert_eq!(meaning(&zones, &name("repmd.example.")), Meaning::Foreign);
        assert_eq!(meaning(&zones, &name("xrepmd.")), Meaning::Foreign);
        assert_eq!(meaning(&zones, &name("a\\.b.repmd.")), Meaning::Nothing(&zones[0]));
        let net = "10.0.0.1/32".parse().unwrap();
        assert_eq!(meaning(&zones, &name("1.0.0.10.in-addr.arpa.")), Meaning::Reverse(net));
        let net = "10.0.0.0/8".parse().unwrap();
        assert_eq!(meaning(&zones, &name("10.IN-ADDR.arpa.")), Meaning::Reverse(net));
    }

    #[test]
    fn a_node_has_a_name_unless_dns_cannot_have_it() {
        let named = |alive: &str| node_name(alive, &name("repmd.")).map(|name| name.to_ascii());
        assert_eq!(named("my_app").as_deref(), Some("my_app.nodes.repmd."));
        for alive in ["MyApp", "a.b", "é", &"a".repeat(64)] {
            assert_eq!(named(alive), None, "{alive}");
        }
    }

    #[test]
    fn a_host_that_is_called_by_a_name_of_a_zone_keeps_it() {
        let zones = [name("repmd."), name("cluster.example.")];
        let named = |host| host_name(&zones, &zones[0], host).map(|name| name.to_ascii());
        assert_eq!(named("hosta").as_deref(), Some("hosta.repmd."));
        assert_eq!(named("hosta.site").as_deref(), Some("hosta.site.repmd."));
        assert_eq!(named("hosta.cluster.example").as_deref(), Some("hosta.cluster.example."));
        assert_eq!(named("hosta.repmd").as_deref(), Some("hosta.repmd."));
        assert_eq!(named("repmd").as_deref(), Some("repmd.repmd."));
        assert_eq!(named(&"a".repeat(64)), None);
    }
}
