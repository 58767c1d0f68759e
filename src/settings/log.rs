//! What is logged, and how.

use std::path::PathBuf;

use tracing::level_filters::LevelFilter;

use super::parsing::{Form, PATH};
use super::table::Row;
use crate::telemetry::LogFormat;

pub(super) const AUDIT_LOG: Row<PathBuf> = Row {
    key: "audit-log",
    variables: &["REPMD_AUDIT_LOG"],
    form: PATH,
    help: "Also append to this file who registered, was refused or stopped what, and from where, as JSON",
    default: "none",
};

pub(super) const LOG: Row<String> = Row {
    key: "log",
    variables: &["REPMD_LOG"],
    form: Form {
        value: "LEVEL",
        expected: "`off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,repmd::requests=debug`",
        parse: filter,
    },
    help: "What to log: `error`, `warn`, `info`, `debug` or `trace`, or a filter such as \
           `info,repmd::requests=debug`, which adds each request and its answer",
    default: "info",
};

pub(super) const LOG_FORMAT: Row<LogFormat> = Row {
    key: "log-format",
    variables: &["REPMD_LOG_FORMAT"],
    form: Form {
        value: "FORMAT",
        expected: "`text` or `json`",
        parse: |text| match text {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        },
    },
    help: "How to log: `text` or `json`",
    default: "text",
};

/// A bare word that is no level is refused: a filter takes it for the name of a part of a program, and logs nothing
/// but that.
fn filter(text: &str) -> Option<String> {
    let is_word = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_known = |part: &str| !is_word(part) || !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let is_filter = text.parse::<tracing_subscriber::EnvFilter>().is_ok();
    (is_filter && text.split(',').map(str::trim).all(is_known)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn a_word_that_is_no_level_of_the_log_is_an_error_that_lists_them() {
        let parse = |text: &str| check(&[("log", text)], &[], "").map(|settings| settings.log);
        for text in ["warning", "chatty", "", "info,verbose", ",", "repmd=loud"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("expected `off`, `error`, `warn`, `info`"), "{text:?}: {error}");
        }
        for text in
            ["off", "WARN", "trace", "info,repmd::requests=debug", "repmd::requests", "info,hickory=off"]
        {
            assert_eq!(parse(text).unwrap(), text);
        }
    }
}
