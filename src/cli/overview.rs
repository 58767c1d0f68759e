//! The cluster as a daemon sees it: its nodes, and what happens to them.

use std::io::{self, IsTerminal};
use std::thread::sleep;
use std::time::Duration;

use clap::ArgMatches;
use serde_json::{Value, json};

use super::api::{Api, ApiError, in_path, items, read_object};
use super::modern::{Environment, Failure, complain, end_with_the_reader, json_line, say, settings};
use crate::printable::escaped;

/// Most nodes of one answer.
const PAGE: usize = 10_000;

/// Most answers of one list: whatever listens there, it must end.
const PAGES_MAX: usize = 100;

/// How often `--watch` looks again, and how soon a daemon that has gone is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

const HEAD: [&str; 8] = ["NODE", "PORT", "ADDRESS", "TYPE", "ALIVE", "DAEMON", "LEASE", "STATE"];

/// `repmd nodes`
pub(super) fn nodes(matches: &ArgMatches, environment: Environment<'_>) -> Result<(), Failure> {
    let settings = settings(matches, environment)?;
    let host = matches.get_one::<String>("of-host").map(String::as_str);
    let as_json = matches.get_flag("json");
    let show = || {
        let shown = |list: &Value| {
            if as_json { json_line(list) } else { table(list) }
        };
        // Anew each time: the next daemon may have its API elsewhere.
        Api::of(&settings).and_then(|api| list(&api, host)).map(|list| shown(&list))
    };
    if !matches.get_flag("watch") {
        return say(show()?.as_bytes());
    }
    end_with_the_reader()?;
    // The first look must succeed; later ones tell what fails, and go on: the daemon may be restarted.
    let (mut text, mut last) = (show()?, String::new());
    loop {
        if text != last {
            // Clears a terminal; elsewhere each change is a table of its own.
            let before = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            say(format!("{before}{text}").as_bytes())?;
            last = text;
        }
        sleep(AGAIN);
        text = show().unwrap_or_else(|error| format!("{}\n", escaped(&error.to_string())));
    }
}

/// All pages as one.
fn list(api: &Api, host: Option<&str>) -> Result<Value, ApiError> {
    let host = host.map(|host| format!("&host={}", in_path(host))).unwrap_or_default();
    let mut list = api.get(&format!("/api/v1/nodes?limit={PAGE}{host}"))?;
    for _ in 1..PAGES_MAX {
        let Some(next) = list["next"].as_str() else { break };
        let mut page = api.get(&format!("/api/v1/nodes?limit={PAGE}{host}&after={}", in_path(next)))?;
        if let Some(nodes) = list["nodes"].as_array_mut() {
            nodes.append(page["nodes"].as_array_mut().unwrap_or(&mut Vec::new()));
            page["nodes"] = nodes.drain(..).collect();
        }
        list = page;
    }
    if list["next"].is_string() {
        return Err(api.alien(&"its list of nodes has no end"));
    }
    Ok(list)
}

fn table(list: &Value) -> String {
    let nodes: Vec<_> = items(list, "nodes").map(row).collect();
    let mut table = if nodes.is_empty() { "no nodes\n".to_owned() } else { in_columns(HEAD, &nodes) };
    if list["is_stale"] == true {
        table +=
            "(the shared registry does not answer: nodes of other daemons are as they were last known)\n";
    }
    table
}

/// A line a row, each column as wide as its widest cell.
pub(super) fn in_columns<const COUNT: usize>(head: [&str; COUNT], rows: &[[String; COUNT]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default().max(head[column].len())
    };
    let widths: [usize; COUNT] = std::array::from_fn(width);
    let line = |cells: [&str; COUNT]| {
        let cells: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let rows = rows.iter().map(|row| line(std::array::from_fn(|column| &*row[column])));
    line(head) + &rows.collect::<String>()
}

fn row(node: &Value) -> [String; HEAD.len()] {
    let text = |key: &str| node[key].as_str().unwrap_or("-").to_owned();
    let number = |key: &str| node[key].as_u64();
    let addresses = node["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let addresses = addresses.collect::<Vec<_>>().join(",");
    let state = match (node["holder"].as_str(), node["reason"].as_str()) {
        (Some(holder), _) => format!("{} with {holder}", text("state")),
        (_, Some(reason)) => format!("{}: {reason}", text("state")),
        _ => text("state"),
    };
    let cells = [
        text("node"),
        number("advertised_port").map_or("-".to_owned(), |port| port.to_string()),
        if addresses.is_empty() { "-".to_owned() } else { addresses },
        text("type"),
        number("alive_seconds").map_or("-".to_owned(), age),
        text("daemon"),
        number("lease_left_ms").map_or("-".to_owned(), |left| format!("{}s", left.div_ceil(1000))),
        state,
    ];
    cells.map(|cell| escaped(&cell).into_owned())
}

/// A time with its largest unit, so that a table changes rarely.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `repmd events`
pub(super) fn events(matches: &ArgMatches, environment: Environment<'_>) -> Result<(), Failure> {
    let settings = settings(matches, environment)?;
    let as_json = matches.get_flag("json");
    end_with_the_reader()?;
    let (mut last, mut was_there) = (None, false);
    loop {
        let ended = Api::of(&settings).map_err(Failure::from).and_then(|api| {
            api.follow(last, |event| {
                was_there = true;
                let mut data = read_object(event.data.as_bytes())?;
                let line = if as_json {
                    data["event"] = json!(event.kind);
                    json_line(&data)
                } else {
                    describe(&event.kind, &data)
                };
                last = Some(event.id);
                say(line.as_bytes())
            })
        });
        match ended {
            Ok(()) => {
                complain(&"the daemon has ended; waiting for the next");
                was_there = true;
            }
            Err(error) if was_there && error.is::<ApiError>() => {}
            Err(error) => return Err(error),
        }
        sleep(AGAIN);
    }
}

pub(super) fn describe(kind: &str, data: &Value) -> String {
    let text = |key: &str| data[key].as_str().map(ToOwned::to_owned);
    let words = [
        text("at"),
        Some(kind.to_owned()),
        text("node"),
        text("peer").map(|peer| format!("- {peer}")),
        data["port"].as_u64().map(|port| format!("port {port}")),
        text("holder").map(|holder| format!("held by {holder}")),
        text("reason"),
        data["away_seconds"].as_u64().map(|seconds| format!("after {seconds}s")),
    ];
    let words: Vec<_> = words.into_iter().flatten().collect();
    escaped(&words.join(" ")).into_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let ages = [0, 59, 60, 3599, 3600, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "59s", "1m", "59m", "1h", "47h", "2d"]);
    }

    #[test]
    fn a_table_has_a_column_as_wide_as_its_widest_cell() {
        let node = json!({
            "node": "rabbit@hosta", "advertised_port": 9101, "addresses": ["10.0.0.1", "fd00::1"], "type": "normal",
            "alive_seconds": 61, "daemon": "hosta:4369", "lease_left_ms": 14_001, "state": "conflict",
            "holder": "c2", "reason": null,
        });
        assert_eq!(
            table(&json!({ "nodes": [node], "is_stale": false })),
            "NODE          PORT  ADDRESS           TYPE    ALIVE  DAEMON      LEASE  STATE\n\
             rabbit@hosta  9101  10.0.0.1,fd00::1  normal  1m     hosta:4369  15s    conflict with c2\n"
        );
    }

    #[test]
    fn that_there_are_no_nodes_is_said_and_how_far_it_can_be_known() {
        assert_eq!(table(&json!({ "nodes": [], "is_stale": false })), "no nodes\n");
        let stale = table(&json!({ "nodes": [], "is_stale": true }));
        assert!(stale.starts_with("no nodes\n(the shared registry does not answer: "), "{stale}");
    }

    #[test]
    fn an_event_is_a_line() {
        let data = json!({ "at": "2027-01-15T08:00:00.000Z", "node": "a@b", "port": null, "holder": "c" });
        assert_eq!(describe("refused", &data), "2027-01-15T08:00:00.000Z refused a@b held by c\n");
        let data = json!({ "at": "2027-01-15T08:00:00.000Z", "node": "a@b", "peer": "c@d" });
        assert_eq!(describe("link_lost", &data), "2027-01-15T08:00:00.000Z link_lost a@b - c@d\n");
    }
}
