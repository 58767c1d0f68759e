//! What ships for Prometheus in `deploy/`, held to what a daemon measures: every metric that it names is there, with
//! the labels and values that it asks for.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use repmd::admin::metrics;
use repmd_test_support::http::get;
use serde_json::Value;

use crate::serve;

/// What Prometheus knows by itself: a metric of each target, and the labels that say which target it is.
const UP: &str = "up";
const OF_TARGET: [&str; 2] = ["job", "instance"];

/// The metrics of a daemon: each one's labels, with their values.
#[derive(Debug)]
struct Measured(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Measured {
    fn read() -> Self {
        let (_daemon, admin) = serve(&[]);
        Self::parse(&get(admin, "/metrics", &[]).body)
    }

    fn parse(page: &str) -> Self {
        let sample = Regex::new(r"^(\w+)(?:\{(.*)\})? ").unwrap();
        let label = Regex::new(r#"(\w+)="([^"]*)""#).unwrap();
        let mut metrics = BTreeMap::from([(UP.to_owned(), BTreeMap::new())]);
        for found in page.lines().filter_map(|line| sample.captures(line)) {
            let labels: &mut BTreeMap<_, BTreeSet<_>> = metrics.entry(found[1].to_owned()).or_default();
            for found in label.captures_iter(found.get(2).map_or("", |labels| labels.as_str())) {
                labels.entry(found[1].to_owned()).or_default().insert(found[2].to_owned());
            }
        }
        Self(metrics)
    }

    /// What an expression, or what is written of its result, asks for and nobody measures.
    fn faults(&self, expression: &str, written: &[String]) -> Vec<String> {
        let mut faults = Vec::new();
        let (asked, grouped) = names(expression);
        if asked.is_empty() {
            faults.push(format!("{expression}: asks for no metric"));
        }
        let mut known: BTreeSet<_> = OF_TARGET.into_iter().collect();
        for (metric, matchers) in asked {
            let Some(labels) = self.0.get(&metric) else {
                faults.push(format!("{metric}: no such metric"));
                continue;
            };
            known.extend(labels.keys().map(String::as_str));
            for (label, operator, value) in matchers {
                let values = match labels.get(&label) {
                    Some(values) => values,
                    None if OF_TARGET.contains(&&*label) => continue,
                    None => {
                        faults.push(format!("{metric}: no label {label}"));
                        continue;
                    }
                };
                let alternatives: Vec<_> =
                    if operator.ends_with('~') { value.split('|') } else { value.split('\0') }
                        .map(|value| Regex::new(&format!("^(?:{value})$")).unwrap())
                        .collect();
                let absent =
                    alternatives.iter().filter(|one| !values.iter().any(|value| one.is_match(value)));
                faults.extend(absent.map(|one| format!("{metric}: no {label} is {one}")));
            }
        }
        let unknown = grouped.iter().chain(written).filter(|label| !known.contains(&***label));
        faults.extend(unknown.map(|label| format!("{expression}: no label {label}")));
        faults
    }
}

type Matcher = (String, String, String);

/// The metrics of an expression, each with what it asks of their labels, and the labels that it groups by.
fn names(expression: &str) -> (Vec<(String, Vec<Matcher>)>, Vec<String>) {
    let grouping = Regex::new(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)").unwrap();
    let range = Regex::new(r"\[[^\]]*\]").unwrap();
    let metric = Regex::new(r"\b([a-zA-Z_:]\w*)\b(\s*\()?(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)""#).unwrap();
    const WORDS: [&str; 9] =
        ["and", "or", "unless", "bool", "offset", "by", "without", "group_left", "group_right"];

    let labels = grouping
        .captures_iter(expression)
        .flat_map(|found| found[1].split(',').map(|label| label.trim().to_owned()).collect::<Vec<_>>());
    let labels = labels.collect();
    let rest = grouping.replace_all(expression, " ");
    let rest = range.replace_all(&rest, "");
    let metrics = metric.captures_iter(&rest).filter(|found| {
        let is_function = found.get(2).is_some();
        !is_function && !WORDS.contains(&&found[1])
    });
    let metrics = metrics.map(|found| {
        let matchers = matcher.captures_iter(found.get(3).map_or("", |matchers| matchers.as_str()));
        let matchers = matchers.map(|found| (found[1].to_owned(), found[2].to_owned(), found[3].to_owned()));
        (found[1].to_owned(), matchers.collect())
    });
    (metrics.collect(), labels)
}

fn project_file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// An alert, as far as it matters here.
#[derive(Debug)]
struct Alert {
    name: String,
    expression: String,
    severity: String,
    runbook: String,
    /// Labels that its texts have.
    written: Vec<String>,
}

/// The alerts, from the lines of their file; each expression is one line.
fn alerts() -> Vec<Alert> {
    let text = project_file("deploy/prometheus/repmd.rules.yml");
    let field =
        |text: &str, pattern: &str| Regex::new(pattern).unwrap().captures(text).unwrap()[1].to_owned();
    let label = Regex::new(r"\$labels\.(\w+)").unwrap();
    let alerts = text.split("- alert: ").skip(1).map(|text| Alert {
        name: text.lines().next().unwrap().to_owned(),
        expression: field(text, "\n *expr: (.*)\n"),
        severity: field(text, r"severity: (\w+)"),
        runbook: field(text, "\n *runbook: docs/(.*)\n"),
        written: label.captures_iter(text).map(|found| found[1].to_owned()).collect(),
    });
    alerts.collect()
}

#[test]
fn alerts_ask_for_what_a_daemon_measures() {
    let measured = Measured::read();
    let alerts = alerts();
    let faults: Vec<_> =
        alerts.iter().flat_map(|one| measured.faults(&one.expression, &one.written)).collect();
    assert!(!alerts.is_empty() && faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_page_on_metrics_lists_every_alert_with_where_to_read_on() {
    let page = project_file("docs/metrics.md");
    let row = Regex::new(r"(?m)^\| (Repmd\w+) \| (\w+) \| .* \| \[.*\]\((.*)\) \|$").unwrap();
    let rows = row.captures_iter(&page).map(|row| [1, 2, 3].map(|cell| row[cell].to_owned()));
    let expected = alerts().into_iter().map(|alert| {
        // On its own page a section is named alone.
        let runbook = alert.runbook.strip_prefix("metrics.md").unwrap_or(&alert.runbook).to_owned();
        [alert.name, alert.severity, runbook]
    });
    assert_eq!(rows.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

/// The panels of the dashboard.
fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&project_file("deploy/grafana/repmd.json")).unwrap();
    dashboard["panels"].as_array().unwrap().clone()
}

/// The expressions of the dashboard, each with the labels of its legend.
fn queries() -> Vec<(String, Vec<String>)> {
    let label = Regex::new(r"\{\{(\w+)\}\}").unwrap();
    let panels = panels();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.map(|target| {
        let legend = target["legendFormat"].as_str().unwrap();
        let labels = label.captures_iter(legend).map(|found| found[1].to_owned()).collect();
        (target["expr"].as_str().unwrap().to_owned(), labels)
    });
    queries.collect()
}

#[test]
fn the_dashboard_asks_for_what_a_daemon_measures() {
    let measured = Measured::read();
    let faults: Vec<_> =
        queries().iter().flat_map(|(expression, legend)| measured.faults(expression, legend)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_dashboard_shows_every_metric() {
    let asked: BTreeSet<_> = queries()
        .into_iter()
        .flat_map(|(expression, _)| names(&expression).0)
        .map(|(metric, _)| metric)
        .collect();
    let left_out = metrics::TABLE.iter().map(|metric| metric.name).filter(|name| {
        // A histogram is shown by one of its series.
        !["", "_bucket", "_sum", "_count"].iter().any(|part| asked.contains(&format!("{name}{part}")))
    });
    assert_eq!(left_out.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn the_dashboards_panels_have_numbers_and_places_of_their_own() {
    let (mut numbers, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{title}");
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(0 < width && x + width <= 24, "{title}");
        for place in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(places.insert(place), "{title} lies upon another panel");
        }
        let is_row = panel["type"] == "row";
        assert!(is_row || panel["datasource"]["uid"] == "${datasource}", "{title}");
        assert!(is_row || !panel["description"].as_str().unwrap().is_empty(), "{title}");
    }
}

#[test]
fn what_nobody_measures_is_found_in_an_expression() {
    let page = "a_total{to=\"x\"} 1\na_total{to=\"y\"} 1\nb 2.0\n";
    let measured = Measured::parse(page);
    for good in [
        r#"sum by (job, to) (rate(a_total{to=~"x|y", job="j"}[5m])) > 1e3 and on (instance) b == 0"#,
        r#"histogram_quantile(0.9, rate(b[$__rate_interval])) unless up{instance=~"$instance"} * 2"#,
    ] {
        assert_eq!(
            measured.faults(good, &["to".to_owned()][..usize::from(good.contains("a_total"))]),
            [""; 0]
        );
    }
    for bad in
        ["c", "rate(a[5m])", r#"a_total{form="x"}"#, r#"a_total{to="z"}"#, r#"a_total{to=~"x|z"}"#, "1"]
    {
        assert_eq!(measured.faults(bad, &[]).len(), 1, "{bad}");
    }
    assert_eq!(measured.faults("sum by (to) (b)", &[]).len(), 1);
    assert_eq!(measured.faults("b", &["to".to_owned()]).len(), 1);
}
