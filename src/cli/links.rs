//! `repmd links`: which nodes are connected with each other, as their daemons see it.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use clap::ArgMatches;
use serde_json::Value;

use super::api::{Api, ApiError, in_path, items};
use super::link_changes::Standing;
use super::modern::{
    Environment, Failure, NOT_FOUND, complain, end_with_the_reader, say, say_json, settings,
};
use super::overview::in_columns;
use crate::printable::escaped;

const HEAD: [&str; 6] = ["FROM", "TO", "RTT", "RESENT", "SEEN BY", "STATE"];

/// How often `--watch` looks again: daemons look at what has changed so often.
const AGAIN: Duration = Duration::from_secs(2);

pub(super) fn main(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let settings = settings(matches, environment)?;
    let host = matches.get_one::<String>("of-host");
    let host = host.map(|host| format!("?host={}", in_path(host))).unwrap_or_default();
    // Anew each time: the next daemon may have its API elsewhere.
    let look = || Api::of(&settings)?.get(&format!("/api/v1/links{host}"));
    let as_json = matches.get_flag("json");
    if matches.get_flag("watch") {
        return watch(as_json, look);
    }
    let list = look()?;
    if as_json {
        say_json(&list)?;
    } else {
        say(table(&list).as_bytes())?;
    }
    let is_missing = items(&list, "missing").any(|pair| pair["is_confirmed"] == true);
    Ok(if is_missing { ExitCode::from(NOT_FOUND) } else { ExitCode::SUCCESS })
}

/// Tells what there is, and then what changes, until interrupted.
fn watch(as_json: bool, look: impl Fn() -> Result<Value, ApiError>) -> Result<ExitCode, Failure> {
    end_with_the_reader()?;
    let mut list = look()?;
    let mut before = Standing::default();
    if !as_json {
        say(table(&list).as_bytes())?;
        before = Standing::of(&list);
    }
    loop {
        if 0 < left_out(&list) {
            return Err("there are more links than one answer has: watch those of a host by --host".into());
        }
        let now = Standing::of(&list);
        let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        for change in now.since(&before) {
            if as_json {
                say_json(&change.object(&at))?;
            } else {
                say(change.line(&at).as_bytes())?;
            }
        }
        before = now;
        // The daemon may be restarted; what was known holds until it answers.
        let mut is_away = false;
        list = loop {
            sleep(AGAIN);
            match look() {
                Ok(list) => break list,
                Err(error) if !is_away => complain(&error),
                Err(_) => {}
            }
            is_away = true;
        };
    }
}

pub(super) fn text(of: &Value, key: &str) -> String {
    of[key].as_str().unwrap_or("-").to_owned()
}

/// Who dialled, as far as it is known.
pub(super) fn dialler(link: &Value) -> String {
    let one_of: Vec<_> = items(link, "one_of").filter_map(Value::as_str).collect();
    match link["from"].as_str() {
        Some(from) => from.to_owned(),
        None if one_of.is_empty() => format!("somebody at {}", text(link, "from_address")),
        None => format!("one of {}", one_of.join(", ")),
    }
}

/// How many links the answer has no room for.
fn left_out(list: &Value) -> u64 {
    list["links_total"].as_u64().unwrap_or(0).saturating_sub(items(list, "links").count() as u64)
}

fn table(list: &Value) -> String {
    let rows = items(list, "missing").map(missing).chain(items(list, "links").map(link));
    let rows: Vec<_> = rows.map(|row| row.map(|cell| escaped(&cell).into_owned())).collect();
    let mut table = if rows.is_empty() { "no links\n".to_owned() } else { in_columns(HEAD, &rows) };
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
    let left_out = left_out(list);
    if 0 < left_out {
        table += &format!("({left_out} more links: ask for those of a host by --host)\n");
    }
    table
}

fn missing(pair: &Value) -> [String; HEAD.len()] {
    let state = if pair["is_confirmed"] == true { "missing" } else { "missing since the last look" };
    [text(pair, "node"), text(pair, "peer"), "-".to_owned(), "-".to_owned(), "-".to_owned(), state.to_owned()]
}

fn link(link: &Value) -> [String; HEAD.len()] {
    let seen_by = match &items(link, "seen_by").filter_map(Value::as_str).collect::<Vec<_>>()[..] {
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
        dialler(link),
        text(link, "to"),
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
    fn that_there_are_no_links_is_said_and_how_far_it_can_be_known() {
        let mut list = json!({ "trouble": null, "links_total": 0, "nodes": [], "links": [], "missing": [] });
        assert_eq!(table(&list), "no links\n");
        list["nodes"] = json!([{ "node": "c@z", "unseen": "why" }]);
        list["trouble"] = "no netlink".into();
        assert_eq!(
            table(&list),
            "no links\n\
             (the links of c@z are seen from their other ends alone: why)\n\
             (this daemon sees no connections: no netlink)\n"
        );
    }

    #[test]
    fn a_round_trip_has_the_digits_that_say_something() {
        assert_eq!([89, 1234, 9_999, 123_456].map(round_trip), ["0.09 ms", "1.23 ms", "10.00 ms", "123 ms"]);
    }
}
