//! `repmd links`: which nodes are connected with each other, as their daemons see it.

use std::process::ExitCode;

use clap::ArgMatches;
use serde_json::Value;

use super::api::{Api, in_path};
use super::modern::{Environment, Failure, NOT_FOUND, say, settings};
use super::overview::in_columns;
use crate::printable::{escaped, escaped_json};

const HEAD: [&str; 6] = ["FROM", "TO", "RTT", "RESENT", "SEEN BY", "STATE"];

pub(super) fn main(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let settings = settings(matches, environment)?;
    let host = matches.get_one::<String>("of-host");
    let host = host.map(|host| format!("?host={}", in_path(host))).unwrap_or_default();
    let list = Api::of(&settings)?.get(&format!("/api/v1/links{host}"))?;
    if matches.get_flag("json") {
        say(escaped_json(&format!("{list}\n")).as_bytes())?;
    } else {
        say(table(&list).as_bytes())?;
    }
    let is_missing = items(&list, "missing").any(|pair| pair["is_confirmed"] == true);
    Ok(if is_missing { ExitCode::from(NOT_FOUND) } else { ExitCode::SUCCESS })
}

fn items<'a>(list: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    list[key].as_array().into_iter().flatten()
}

fn table(list: &Value) -> String {
    let rows = items(list, "missing").map(missing).chain(items(list, "links").map(link));
    let rows: Vec<_> = rows.map(|row| row.map(|cell| escaped(&cell).into_owned())).collect();
    let mut table = in_columns(HEAD, &rows);
    for node in items(list, "nodes") {
        if let (Some(name), Some(reason)) = (node["node"].as_str(), node["unseen"].as_str()) {
            table += &format!(
                "(the links of {} are seen from their other ends alone: {})\n",
                escaped(name),
                escaped(reason)
            );
        }
    }
    if let Some(trouble) = list["trouble"].as_str() {
        table += &format!("(this daemon sees no connections: {})\n", escaped(trouble));
    }
    let left_out =
        list["links_total"].as_u64().unwrap_or(0).saturating_sub(items(list, "links").count() as u64);
    if 0 < left_out {
        table += &format!("({left_out} more links: ask for those of a host by --host)\n");
    }
    table
}

fn missing(pair: &Value) -> [String; HEAD.len()] {
    let text = |key: &str| pair[key].as_str().unwrap_or("-").to_owned();
    let state = if pair["is_confirmed"] == true { "missing" } else { "missing since the last look" };
    [text("node"), text("peer"), "-".to_owned(), "-".to_owned(), "-".to_owned(), state.to_owned()]
}

fn link(link: &Value) -> [String; HEAD.len()] {
    let text = |key: &str| link[key].as_str().unwrap_or("-").to_owned();
    let texts = |key: &str| items(link, key).filter_map(Value::as_str).collect::<Vec<_>>();
    let from = match (link["from"].as_str(), &texts("one_of")[..]) {
        (Some(from), _) => from.to_owned(),
        (None, []) => format!("somebody at {}", text("from_address")),
        (None, several) => format!("one of {}", several.join(", ")),
    };
    let seen_by = match &texts("seen_by")[..] {
        ["from", "to"] => "both",
        ["from"] => "the first",
        ["to"] => "the second",
        _ => "-",
    };
    let state = match (&link["is_one_ended"], &link["is_unanswered"]) {
        (_, Value::Bool(true)) => "no answer",
        (Value::Bool(true), _) => "one end",
        _ => "up",
    };
    let number = |key: &str| link[key].as_u64();
    [
        from,
        text("to"),
        number("rtt_us").map_or("-".to_owned(), round_trip),
        number("retransmits").map_or("-".to_owned(), |count| count.to_string()),
        seen_by.to_owned(),
        state.to_owned(),
    ]
}

/// Microseconds in milliseconds, with as many digits as say something.
fn round_trip(microseconds: u64) -> String {
    let milliseconds = microseconds as f64 / 1000.0;
    if microseconds < 10_000 { format!("{milliseconds:.2} ms") } else { format!("{milliseconds:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_comes_first_and_what_is_not_known_is_said() {
        let link = |from: Value, one_of: Value, seen_by: Value| {
            json!({
                "from": from, "one_of": one_of, "from_address": "10.0.0.9:4000", "to": "b@y", "seen_by": seen_by,
                "is_one_ended": false, "rtt_us": 312, "retransmits": 0, "is_unanswered": false,
            })
        };
        let list = json!({
            "trouble": null, "links_total": 4,
            "nodes": [{ "node": "c@z", "unseen": "why" }, { "node": "a@x", "unseen": null }],
            "links": [
                link(json!("a@x"), json!([]), json!(["from", "to"])),
                link(json!(null), json!(["a@x", "d@x"]), json!(["from"])),
                link(json!(null), json!([]), json!(["to"])),
            ],
            "missing": [{ "node": "a@x", "peer": "c@z", "is_confirmed": true }],
        });
        assert_eq!(
            table(&list),
            "FROM                       TO   RTT      RESENT  SEEN BY     STATE\n\
             a@x                        c@z  -        -       -           missing\n\
             a@x                        b@y  0.31 ms  0       both        up\n\
             one of a@x, d@x            b@y  0.31 ms  0       the first   up\n\
             somebody at 10.0.0.9:4000  b@y  0.31 ms  0       the second  up\n\
             (the links of c@z are seen from their other ends alone: why)\n\
             (1 more links: ask for those of a host by --host)\n"
        );
    }

    #[test]
    fn a_round_trip_has_the_digits_that_say_something() {
        assert_eq!([89, 1234, 9_999, 123_456].map(round_trip), ["0.09 ms", "1.23 ms", "10.00 ms", "123 ms"]);
    }
}
