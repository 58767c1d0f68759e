//! What `repmd links --watch` tells: how links differ from those of the look before.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::api::items;
use super::links::{dialler, text};
use crate::printable::escaped;

/// A pair of nodes, and where the first one's end of the link is; empty for a link that is missing.
type Key = [String; 3];

/// The links of one look, and those that are missing, each with how it is.
#[derive(Debug, Default)]
pub(super) struct Standing(BTreeMap<Key, (&'static str, Value)>);

/// One link that differs.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    what: &'static str,
    /// The link, or the pair that has none, as the API has it.
    of: Value,
}

impl Standing {
    /// Of an answer of `/api/v1/links`. Whether both ends see a link is left out: one of them looks first.
    pub(super) fn of(list: &Value) -> Self {
        let mut standing = BTreeMap::new();
        for link in items(list, "links") {
            let state = if link["is_unanswered"] == true { "no answer" } else { "up" };
            let key = [dialler(link), text(link, "to"), text(link, "from_address")];
            standing.insert(key, (state, link.clone()));
        }
        for pair in items(list, "missing").filter(|pair| pair["is_confirmed"] == true) {
            let key = [text(pair, "node"), text(pair, "peer"), String::new()];
            standing.insert(key, ("missing", pair.clone()));
        }
        Self(standing)
    }

    /// What has changed since: what is over comes first.
    pub(super) fn since(&self, before: &Self) -> Vec<Change> {
        let is_over = before.0.iter().filter(|(key, _)| !self.0.contains_key(*key));
        let over = is_over.map(|(_, (state, of))| Change {
            what: if *state == "missing" { "no longer missing" } else { "gone" },
            of: of.clone(),
        });
        let state = |key: &Key| before.0.get(key).map(|(state, _)| *state);
        let is_new = self.0.iter().filter(|(key, (now, _))| state(key) != Some(*now));
        over.chain(is_new.map(|(_, (what, of))| Change { what, of: of.clone() })).collect()
    }
}

impl Change {
    pub(super) fn line(&self, at: &str) -> String {
        let of = &self.of;
        let (node, peer) = match of["to"].as_str() {
            Some(to) => (dialler(of), to.to_owned()),
            None => (text(of, "node"), text(of, "peer")),
        };
        escaped(&format!("{at} {} {node} - {peer}", self.what)).into_owned() + "\n"
    }

    /// The same members whatever it is; `null` where it has none.
    pub(super) fn object(&self, at: &str) -> Value {
        let of = &self.of;
        let either =
            |one: &str, other: &str| if of[one].is_null() { of[other].clone() } else { of[one].clone() };
        json!({
            "at": at, "change": self.what.replace(' ', "_"), "node": either("from", "node"), "peer": either("to", "peer"),
            "one_of": of["one_of"], "from_address": of["from_address"], "rtt_us": of["rtt_us"],
            "retransmits": of["retransmits"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: Value, address: &str, to: &str, is_unanswered: bool) -> Value {
        json!({
            "from": from, "one_of": [], "from_address": address, "to": to, "is_unanswered": is_unanswered, "rtt_us": 7,
            "retransmits": 0, "is_one_ended": is_unanswered,
        })
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|change| change.line("now").trim_end().to_owned()).collect()
    }

    #[test]
    fn what_differs_is_told_and_nothing_else() {
        let before = json!({
            "links": [
                link(json!("a@x"), "10.0.0.1:1", "b@y", false), link(json!("a@x"), "10.0.0.1:2", "c@z", false),
                link(json!(null), "10.0.0.9:3", "c@z", false),
            ],
            "missing": [{ "node": "b@y", "peer": "c@z", "is_confirmed": true }],
        });
        let now = json!({
            "links": [
                link(json!("a@x"), "10.0.0.1:1", "b@y", true), link(json!("b@y"), "10.0.0.2:4", "c@z", false),
                link(json!(null), "10.0.0.9:3", "c@z", false),
            ],
            "missing": [
                { "node": "a@x", "peer": "c@z", "is_confirmed": true },
                { "node": "a@x", "peer": "d@z", "is_confirmed": false },
            ],
        });
        let (before, now) = (Standing::of(&before), Standing::of(&now));
        let changes = now.since(&before);
        assert_eq!(
            lines(&changes),
            [
                "now gone a@x - c@z",
                "now no longer missing b@y - c@z",
                "now no answer a@x - b@y",
                "now missing a@x - c@z",
                "now up b@y - c@z",
            ]
        );
        assert_eq!(lines(&now.since(&now)), [""; 0]);
        let first = Standing::of(&json!({ "links": [link(json!(null), "10.0.0.9:3", "c@z", false)] }));
        assert_eq!(lines(&first.since(&Standing::default())), ["now up somebody at 10.0.0.9:3 - c@z"]);
    }

    #[test]
    fn each_line_of_json_has_the_same_members() {
        let list = json!({
            "links": [link(json!("a@x"), "10.0.0.1:1", "b@y", true)],
            "missing": [{ "node": "a@x", "peer": "c@z", "is_confirmed": true }],
        });
        let objects: Vec<_> = Standing::of(&list)
            .since(&Standing::default())
            .iter()
            .map(|change| change.object("now"))
            .collect();
        assert_eq!(
            objects,
            [
                json!({
                    "at": "now", "change": "no_answer", "node": "a@x", "peer": "b@y", "one_of": [],
                    "from_address": "10.0.0.1:1", "rtt_us": 7, "retransmits": 0,
                }),
                json!({
                    "at": "now", "change": "missing", "node": "a@x", "peer": "c@z", "one_of": null,
                    "from_address": null, "rtt_us": null, "retransmits": null,
                }),
            ]
        );
    }
}
