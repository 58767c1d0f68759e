//! The pages in `docs/` against the program.

use std::collections::BTreeMap;

use repmd::admin::{ROUTES, metrics};
use repmd_test_support::http::get;
use serde_json::Value;

use crate::{register, serve};

fn document(name: &str) -> String {
    std::fs::read_to_string(format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_measured() {
    let page = document("metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
        (cells[0].clone(), (cells[1].clone(), cells[2].clone(), cells[3].clone()))
    });
    let documented: BTreeMap<_, _> = rows.collect();
    let measured: BTreeMap<_, _> = metrics::TABLE
        .iter()
        .map(|metric| {
            let row = (metric.kind().as_str().to_owned(), metric.label.to_owned(), metric.help.to_owned());
            (metric.name.to_owned(), row)
        })
        .collect();
    assert_eq!(documented, measured);
}

#[test]
fn metrics_are_named_by_the_conventions_and_all_of_them_are_on_the_page() {
    let (_daemon, admin) = serve(&[]);
    let page = get(admin, "/metrics", &[]).body;
    for metric in metrics::TABLE {
        let kind = metric.kind();
        let kind = kind.as_str();
        assert_eq!(metric.name.ends_with("_total"), kind == "counter", "{}", metric.name);
        assert!(metric.name.starts_with("repmd_") || metric.name.starts_with("process_"), "{}", metric.name);
        assert!(metric.help.ends_with('.'), "{}", metric.name);
        let family = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        assert!(page.contains(&format!("# TYPE {family} {kind}\n")), "{family}:\n{page}");
        assert!(page.lines().any(|line| line.starts_with(metric.name)), "{} has no value", metric.name);
    }
}

#[test]
fn every_path_is_documented_and_every_documented_one_answers_as_described() {
    let api: Value = serde_json::from_str(&document("openapi.json")).unwrap();
    let paths = api["paths"].as_object().unwrap();
    let mut documented: Vec<_> = paths.keys().map(String::as_str).collect();
    let mut routes = ROUTES.to_vec();
    documented.sort_unstable();
    routes.sort_unstable();
    assert_eq!(documented, routes);

    let (daemon, admin) = serve(&[]);
    let _node = register(daemon.port(), "rabbit");
    for (path, item) in paths {
        let responses = item["get"]["responses"].as_object().unwrap();
        let mut asked: Vec<_> = [
            ("{node}", "rabbit@here"),
            ("{node}", "hare@here"),
            ("{node}", "hare"),
            ("{name}", "rabbit"),
            ("{name}", "hare"),
        ]
        .map(|(part, node)| path.replace(part, node))
        .to_vec();
        asked.extend(
            item["get"]["x-examples"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|example| format!("{path}{}", example.as_str().unwrap())),
        );
        asked.dedup();
        for path in asked.iter().filter(|path| !path.ends_with("/events")) {
            let reply = get(admin, path, &[]);
            let described = responses.get(&reply.status.to_string());
            let described = described.unwrap_or_else(|| panic!("{path}: {} is not described", reply.status));
            let kind = reply.header("content-type").unwrap().split(';').next().unwrap().to_owned();
            let content = &resolve(&api, described)["content"][&kind];
            assert!(content.is_object(), "{path}: {} as {kind} is not described", reply.status);
            if kind == "application/json" {
                let body = serde_json::from_str(&reply.body).unwrap();
                check(&api, &content["schema"], &body, path);
            }
        }
    }
}

#[test]
fn every_kind_of_event_is_documented() {
    let api: Value = serde_json::from_str(&document("openapi.json")).unwrap();
    let text = api["paths"]["/api/v1/events"]["get"]["description"].as_str().unwrap();
    for kind in [
        "registered",
        "released",
        "expired",
        "refused",
        "conflict",
        "store_lost",
        "store_back",
        "link_lost",
        "link_back",
        "mesh_partial",
        "missed",
    ] {
        assert!(text.contains(&format!("`{kind}`")), "{kind}");
    }
}

/// What a reference stands for.
fn resolve<'a>(api: &'a Value, described: &'a Value) -> &'a Value {
    match described["$ref"].as_str() {
        Some(reference) => api.pointer(reference.strip_prefix('#').unwrap()).expect(reference),
        None => described,
    }
}

/// Holds a value against the part of JSON Schema that the document uses.
fn check(api: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolve(api, schema);
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = &schema["type"];
    let allowed = kinds == kind || kinds.as_array().is_some_and(|kinds| kinds.iter().any(|one| one == kind));
    assert!(allowed, "{at}: {value} is not of the type {kinds}");
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at}: {value} is not among {values:?}");
    }
    if let Some(items) = value.as_array() {
        items.iter().for_each(|item| check(api, &schema["items"], item, &format!("{at}[]")));
    }
    if let Some(fields) = value.as_object() {
        let described = schema["properties"].as_object().unwrap_or_else(|| panic!("{at} has no properties"));
        let names = |fields: &serde_json::Map<String, Value>| fields.keys().cloned().collect::<Vec<_>>();
        let (mut has, mut should) = (names(fields), names(described));
        has.sort_unstable();
        should.sort_unstable();
        assert_eq!(has, should, "{at}");
        fields.iter().for_each(|(name, value)| check(api, &described[name], value, &format!("{at}.{name}")));
    }
}
