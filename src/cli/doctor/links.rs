//! Links between nodes that should be there, and are not, as the daemons see them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpStream};

use serde_json::Value;

use super::finding::{LINK_BLOCKED, LINK_MISSING, LINK_SILENT};
use super::{CONNECT_TIME, Doctor, addresses_of, counted};
use crate::cli::api::{in_path, items};
use crate::printable::in_words;

/// Pairs that are looked at; more are counted. Each may take as long as a connection may.
const PAIRS_MAX: usize = 5;

impl Doctor<'_> {
    pub(super) fn examine_links(&mut self) {
        self.report.step("the links");
        let Some(list) = self.ask_api("/api/v1/links") else { return };
        if let Some(trouble) = list["trouble"].as_str() {
            return self.report.left_out("the links of this host's nodes", trouble);
        }
        let links = Links::of(&list);
        for (from, to) in links.silent.iter().take(PAIRS_MAX) {
            let saw =
                format!("what {from} and {to} send to each other was sent three times, and is not answered");
            self.report.found(LINK_SILENT, saw);
        }
        for (node, peer) in links.missing.iter().take(PAIRS_MAX) {
            self.examine_pair(&links, node, peer);
        }
        let more = links.missing.len().saturating_sub(PAIRS_MAX);
        if 0 < more {
            let pairs =
                if more == 1 { "1 more pair has".to_owned() } else { format!("{more} more pairs have") };
            self.report.found(LINK_MISSING, format!("{pairs} no link: `repmd links` lists them"));
        }
        if links.missing.len() < items(&list, "missing").count() {
            self.report
                .left_out("links that are missing since the last look", "run this again in some seconds");
        } else if links.missing.is_empty() && !links.neighbours.is_empty() {
            let total = list["links_total"].as_u64().unwrap_or_default();
            let links = counted(total, "link");
            self.report.fine(format!("{links} between nodes, and none is missing"));
        }
    }

    /// Two nodes that should have a link: can one of this host reach the other?
    fn examine_pair(&mut self, links: &Links, node: &str, peer: &str) {
        let is_here = |node: &str| node.rsplit_once('@').is_some_and(|(_, host)| self.is_here(host));
        let (own, other) = if is_here(node) { (node, peer) } else { (peer, node) };
        let between = links.between(own, other);
        let between =
            between.map_or(String::new(), |between| format!("{between} reaches {own} and {other}, "));
        let saw = format!("{between}{own} does not reach {other}");
        if !is_here(own) {
            let saw = format!("{saw}; both are elsewhere: run this on one of their hosts");
            return self.report.found(LINK_MISSING, saw);
        }
        let Some((port, addresses)) = self.place_of(other) else {
            return self.report.found(LINK_MISSING, saw);
        };
        let mut failed = None;
        for address in addresses.into_iter().take(2) {
            let place = SocketAddr::new(address, port);
            match TcpStream::connect_timeout(&place, CONNECT_TIME) {
                Ok(_) => {
                    let saw =
                        format!("{saw}; its port takes connections from here ({place}), and nobody dials");
                    return self.report.found(LINK_MISSING, saw);
                }
                Err(error) => failed = failed.or(Some((place, in_words(&error)))),
            }
        }
        match failed {
            Some((place, error)) => {
                self.report.found(LINK_BLOCKED, format!("{saw}: cannot connect to {place}: {error}"));
            }
            None => self.report.found(LINK_MISSING, saw),
        }
    }

    /// Where others reach a node, as its daemon tells it.
    fn place_of(&self, node: &str) -> Option<(u16, Vec<IpAddr>)> {
        let node = self.ask_api(&format!("/api/v1/nodes/{}", in_path(node)))?;
        let port = u16::try_from(node["advertised_port"].as_u64()?).ok()?;
        Some((port, addresses_of(&node)))
    }
}

/// Who is linked with whom.
struct Links<'a> {
    neighbours: BTreeMap<&'a str, BTreeSet<&'a str>>,
    /// Those that do not answer.
    silent: Vec<(&'a str, &'a str)>,
    missing: Vec<(&'a str, &'a str)>,
}

impl<'a> Links<'a> {
    fn of(list: &'a Value) -> Self {
        let mut links = Self { neighbours: BTreeMap::new(), silent: Vec::new(), missing: Vec::new() };
        for link in items(list, "links") {
            let (Some(from), Some(to)) = (link["from"].as_str(), link["to"].as_str()) else { continue };
            links.neighbours.entry(from).or_default().insert(to);
            links.neighbours.entry(to).or_default().insert(from);
            if link["is_unanswered"] == true {
                links.silent.push((from, to));
            }
        }
        let confirmed = items(list, "missing").filter(|pair| pair["is_confirmed"] == true);
        links.missing =
            confirmed.filter_map(|pair| Some((pair["node"].as_str()?, pair["peer"].as_str()?))).collect();
        links
    }

    /// A node that is linked with both.
    fn between(&self, one: &str, other: &str) -> Option<&'a str> {
        let of_one = self.neighbours.get(one)?;
        self.neighbours.get(other)?.iter().copied().find(|node| of_one.contains(node))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Links;

    #[test]
    fn who_reaches_both_is_found_and_what_is_not_settled_is_left_out() {
        let link = |from: &str, to: &str| json!({ "from": from, "to": to, "is_unanswered": to == "d@x" });
        let list = json!({
            "links": [link("a@x", "b@y"), link("c@z", "b@y"), link("a@x", "d@x"), { "from": null, "to": "a@x" }],
            "missing": [
                { "node": "a@x", "peer": "c@z", "is_confirmed": true }, { "node": "b@y", "peer": "d@x", "is_confirmed": false },
            ],
        });
        let links = Links::of(&list);
        assert_eq!((links.between("a@x", "c@z"), links.between("c@z", "d@x")), (Some("b@y"), None));
        assert_eq!((links.silent, links.missing), (vec![("a@x", "d@x")], vec![("a@x", "c@z")]));
        assert_eq!(Links::of(&json!({ "links": 7 })).missing, []);
    }
}
