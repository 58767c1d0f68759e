//! The recorded exchanges, as `README.md` describes them.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The file.
#[derive(Debug, Deserialize)]
struct Recording {
    schema: u32,
    vectors: Vec<Vector>,
}

/// One exchange, or several that belong together, with a fresh daemon.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vector {
    pub(crate) id: String,
    #[serde(rename = "level")]
    _level: Level,
    #[serde(rename = "description")]
    _description: String,
    #[serde(default)]
    pub(crate) flags: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) rlimit_nofile: Option<u32>,
    #[serde(default)]
    pub(crate) needs: Vec<Need>,
    /// Parsed when they are played, because `repeat` changes their text.
    pub(crate) steps: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Must,
    Should,
    Quirk,
}

/// What a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Need {
    /// An IPv4 address that is not loopback.
    HostIp,
    /// `::1`.
    Ipv6,
}

/// One step; the names and defaults are those of `README.md`. Times are in milliseconds.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Step {
    Open {
        c: String,
        to: Option<String>,
        from: Option<String>,
        count: Option<u32>,
        #[serde(default)]
        may_fail: bool,
    },
    Refused {
        to: String,
    },
    Send {
        c: String,
        hex: Option<String>,
        pieces: Option<Vec<String>>,
        #[serde(default)]
        gap_ms: u64,
        split_every: Option<usize>,
        #[serde(default)]
        may_fail: bool,
    },
    Expect {
        c: String,
        hex: String,
        #[serde(default = "three_seconds")]
        within_ms: u64,
        #[serde(default)]
        one_read: bool,
    },
    ExpectNames {
        c: String,
        names: Vec<(String, u16)>,
        #[serde(default)]
        ordered: bool,
        #[serde(default = "five_seconds")]
        within_ms: u64,
    },
    ExpectRegex {
        c: String,
        regex: String,
        #[serde(default = "five_seconds")]
        within_ms: u64,
    },
    ExpectClosed {
        c: String,
        #[serde(default = "three_seconds")]
        within_ms: u64,
        #[serde(default)]
        not_before_ms: u64,
        how: Option<How>,
    },
    ExpectOpen {
        c: String,
        for_ms: u64,
    },
    Close {
        c: String,
    },
    Reset {
        c: String,
    },
    ShutdownWrite {
        c: String,
    },
    Sleep {
        ms: u64,
    },
    Await {
        name_hex: String,
        listed: bool,
        #[serde(default = "three_seconds")]
        within_ms: u64,
    },
    Check(Check),
    Cli(Cli),
    DaemonExits {
        code: i32,
        #[serde(default = "three_seconds")]
        within_ms: u64,
    },
    DaemonRuns {
        #[serde(default = "two_tenths")]
        ms: u64,
    },
    RestartDaemon {},
    Repeat {
        times: u32,
        steps: serde_json::Value,
    },
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    Fin,
    Rst,
}

/// Compares a kept number.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Check {
    pub(crate) value: String,
    pub(crate) equals: Option<String>,
    #[serde(default)]
    pub(crate) plus: u64,
    pub(crate) differs_from: Option<String>,
    pub(crate) above: Option<String>,
    pub(crate) min: Option<u64>,
    pub(crate) max: Option<u64>,
    pub(crate) next_of_three: Option<String>,
    pub(crate) three_of: Option<String>,
    pub(crate) near_clock_s: Option<u64>,
}

/// Runs the client.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cli {
    pub(crate) args: Vec<String>,
    pub(crate) exit: i32,
    pub(crate) stdout: Option<String>,
    pub(crate) stderr: Option<String>,
    pub(crate) stdout_regex: Option<String>,
    pub(crate) stderr_regex: Option<String>,
    #[serde(default)]
    pub(crate) settle_ms: u64,
}

fn two_tenths() -> u64 {
    200
}

fn three_seconds() -> u64 {
    3000
}

fn five_seconds() -> u64 {
    5000
}

/// All recorded exchanges.
pub(crate) fn recorded() -> Vec<Vector> {
    let text = include_str!("epmd.json");
    let recording: Recording = serde_json::from_str(text).expect("epmd.json has the format of README.md");
    assert_eq!(recording.schema, 1, "the format of epmd.json");
    recording.vectors
}
