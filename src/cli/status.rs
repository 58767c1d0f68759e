//! `repmd status`: one daemon on one screen.

use std::process::ExitCode;

use clap::ArgMatches;
use serde_json::Value;

use super::api::{Api, items};
use super::modern::{Environment, Failure, say, say_json, settings};
use super::overview::{age, describe};
use crate::printable::escaped;

/// Exit status when not all is well.
const TROUBLED: u8 = 1;

/// What the daemon says of itself.
pub(super) fn main(matches: &ArgMatches, environment: Environment<'_>) -> Result<ExitCode, Failure> {
    let api = Api::of(&settings(matches, environment)?)?;
    let mut status = api.get("/api/v1/status")?;
    let config = api.get("/api/v1/config")?;
    // A node may be registered with several daemons; this is the list that `repmd nodes` shows.
    status["nodes_in_cluster"] = api.get("/api/v1/nodes?limit=1")?["total"].clone();
    status["admin"] = api.address().to_string().into();
    let settings = items(&config, "settings");
    let dns =
        settings.filter(|setting| setting["key"] == "dns").find_map(|setting| setting["value"].as_str());
    status["dns"] = dns.unwrap_or_default().into();
    if matches.get_flag("json") {
        say_json(&status)?;
    } else {
        say(screen(&status).as_bytes())?;
    }
    let is_well = status["reasons"].as_array().is_none_or(Vec::is_empty);
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(TROUBLED) })
}

fn screen(status: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "?".to_owned(),
        other => other.to_string(),
    };
    let of = |key: &str| text(&status[key]);
    let list = |key: &str| {
        let items = items(status, key);
        items.map(text).collect::<Vec<_>>()
    };
    let registry = &status["registry"];
    let store = if registry["is_shared"] == true {
        let answers = match registry["away"]["seconds"].as_u64() {
            Some(seconds) => format!("away for {}", age(seconds)),
            None => "answers".to_owned(),
        };
        format!("{}, cluster {}: {answers}", text(&registry["backend"]), of("cluster"))
    } else {
        "none: this host's nodes are known to this host alone".to_owned()
    };
    let nodes = match (&status["nodes"], &status["nodes_in_cluster"]) {
        (here, _) if registry["is_shared"] != true => text(here),
        (here, all) => format!("{} here, {} in the cluster", text(here), text(all)),
    };
    let zones: Vec<_> = list("dns_zones").iter().map(|zone| zone.trim_end_matches('.').to_owned()).collect();
    let dns = match &*of("dns") {
        _ if zones.is_empty() => "off".to_owned(),
        // The service manager has passed the sockets.
        "" | "off" => format!("zone {}", zones.join(", ")),
        places => format!("zone {} at {places}", zones.join(", ")),
    };
    let last = match &status["last_trouble"] {
        trouble @ Value::Object(_) => {
            let kind = text(&trouble["event"]);
            describe(&kind, trouble).trim_end().to_owned()
        }
        _ => "none since it started".to_owned(),
    };
    let uptime = age(status["uptime_ms"].as_u64().unwrap_or_default() / 1000);
    let mut lines = vec![
        ("daemon", format!("repmd {} on port {}, up for {uptime}", of("version"), of("port"))),
        ("host", [vec![of("host")], list("aliases")].concat().join(", ")),
        ("page", format!("http://{}/", of("admin"))),
        ("store", store),
        ("nodes", nodes),
        ("dns", dns),
    ];
    let wrong = [list("reasons"), list("notes")].concat();
    if wrong.is_empty() {
        lines.push(("now", "all is well".to_owned()));
    }
    lines.extend(wrong.into_iter().map(|reason| ("now", reason)));
    lines.push(("last trouble", last));
    lines
        .iter()
        .fold(String::new(), |screen, (what, words)| screen + &format!("{what:14}{}\n", escaped(words)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Value {
        json!({
            "version": "1.2.3", "port": 4369, "host": "hosta", "aliases": ["hosta.example"], "uptime_ms": 61_000,
            "cluster": "blue", "registry": {"backend": "redis://10.0.0.9", "is_shared": true, "away": null},
            "nodes": 2, "nodes_in_cluster": 5, "dns": "127.0.0.1:53", "dns_zones": ["repmd."], "reasons": [],
            "notes": [], "last_trouble": null, "admin": "127.0.0.1:4370",
        })
    }

    #[test]
    fn a_daemon_that_is_well_is_eight_lines() {
        assert_eq!(
            screen(&status()),
            "daemon        repmd 1.2.3 on port 4369, up for 1m\n\
             host          hosta, hosta.example\n\
             page          http://127.0.0.1:4370/\n\
             store         redis://10.0.0.9, cluster blue: answers\n\
             nodes         2 here, 5 in the cluster\n\
             dns           zone repmd at 127.0.0.1:53\n\
             now           all is well\n\
             last trouble  none since it started\n"
        );
    }

    #[test]
    fn what_is_wrong_is_there_word_for_word_and_nothing_that_a_terminal_obeys() {
        let mut status = status();
        status["registry"]["away"] = json!({"seconds": 130, "reason": "x"});
        status["reasons"] = json!(["the registry is away for 2m: x", "1 names are not published"]);
        status["last_trouble"] = json!({
            "event": "refused", "at": "2027-01-15T08:00:00.000Z", "node": "a\u{1b}@b", "holder": "c", "reason": null,
        });
        let screen = screen(&status);
        for line in [
            "store         redis://10.0.0.9, cluster blue: away for 2m\n",
            "now           the registry is away for 2m: x\n\
             now           1 names are not published\n\
             last trouble  2027-01-15T08:00:00.000Z refused a\\u{1b}@b held by c\n",
        ] {
            assert!(screen.contains(line), "{line}{screen}");
        }
    }
}
