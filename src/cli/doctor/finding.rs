//! What can be found, how bad it is, and what fixes it. docs/doctor.md has the same table.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Value, json};

use crate::printable::escaped;

/// How bad a finding is. The exit status of `repmd doctor` is that of the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// It works, but most likely not as it is meant, or not for long.
    Warning,
    /// It does not work.
    Failure,
}

impl Severity {
    /// The exit status for it.
    #[must_use]
    pub fn exit(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Warning => 1,
            Self::Failure => 2,
        }
    }

    /// Its word in JSON and in docs/doctor.md.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl From<repmd_backend_api::Severity> for Severity {
    fn from(of_store: repmd_backend_api::Severity) -> Self {
        match of_store {
            repmd_backend_api::Severity::Warning => Self::Warning,
            repmd_backend_api::Severity::Failure => Self::Failure,
        }
    }
}

/// One kind of finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What fixes it.
    pub fix: Cow<'static, str>,
}

macro_rules! kinds {
    ($($name:ident = $severity:ident $id:literal $fix:literal;)*) => {
        $(pub(super) const $name: Kind =
            Kind { id: $id, severity: Severity::$severity, fix: Cow::Borrowed($fix) };)*
        /// Every kind of finding, in the order of the steps, but for those that backends word.
        pub const KINDS: &[Kind] = &[$($name),*];
    };
}

kinds! {
    DAEMON_ABSENT = Failure "daemon-absent"
        "start it: `systemctl start epmd`, or `repmd serve`";
    PORT_FOREIGN = Failure "port-foreign"
        "stop that program, or move it to another port: EPMD's is fixed for all hosts of a cluster";
    PORT_SYSTEMD = Warning "port-systemd"
        "if the unit is repmd's, its first connection starts it; else `systemctl disable --now` that socket (stock has epmd.socket), and start repmd's";
    DAEMON_STOCK = Failure "daemon-stock"
        "stop it (`epmd -kill`, or `systemctl disable --now epmd.socket epmd.service`), start repmd, and let it start before Erlang nodes: their start brings a stock epmd up when nobody listens";
    PORT_SHARED = Failure "port-shared"
        "stop the other one: nodes register with whichever answers at loopback";
    DAEMON_SILENT = Failure "daemon-silent"
        "see what it does (`systemctl status`, its log, its processor time), and restart it: nodes register again by themselves";
    API_TOKEN = Warning "api-token"
        "name the daemon's token file by --admin-token-file, or run this as a user who may read it";
    API_OTHER = Warning "api-other"
        "name the admin API of the daemon on this port by --admin, or leave that out";
    DAEMON_DEGRADED = Warning "daemon-degraded"
        "what the reasons say; docs/failure-modes.md has each of them";
    NODE_CONFLICT = Failure "node-conflict"
        "stop one of the two nodes, or give each daemon a --host of its own if they are on different hosts";
    NODE_UNPUBLISHED = Warning "node-unpublished"
        "see the findings on the store; the daemon publishes it as soon as the store lets it";
    ENTRY_UNREADABLE = Warning "entry-unreadable"
        "update the daemons that are older than the one which wrote it, or delete what is not repmd's: it costs its own name alone";
    DAEMON_NO_ADDRESS = Warning "daemon-no-address"
        "set `advertise` of the daemon, or give this machine a route; nodes elsewhere that dial by addresses do not reach those of this host";
    OWN_NAME_ELSEWHERE = Failure "own-name-elsewhere"
        "correct the line of this machine's name in /etc/hosts, or in DNS: nodes of this host look for each other there";
    OWN_NAME_UNANSWERED = Warning "own-name-unanswered"
        "let the daemon listen at that address too (`address`), or let the name lead to one where it listens; else only nodes at localhost find each other";
    SETTINGS_DIFFER = Warning "settings-differ"
        "give this command the settings of the daemon: the same --config, flags and variables";
    LINK_SILENT = Warning "link-silent"
        "see the way between the two hosts (routes, firewalls, security groups): each of them takes the other for gone when its net_ticktime is over";
    LINK_BLOCKED = Failure "link-blocked"
        "open this port in the firewall of that host, and on the way to it; then dial, as in net_kernel:connect_node('c@hostc'), for nodes do not by themselves";
    LINK_MISSING = Warning "link-missing"
        "let either of the two dial the other, as in net_kernel:connect_node('c@hostc'), and see their logs for why the link was given up; run this on the other host too, for the way back";
    DNS_SILENT = Failure "dns-silent"
        "see the daemon's log: another program may have that port, or it runs with other settings";
    DNS_UNASKED = Warning "dns-unasked"
        "let this machine's resolver ask the daemon for names of its zone: docs/dns.md has the ways";
    DNS_SECOND = Warning "dns-second"
        "name the daemon alone, with dns-forward set, or have that server forward the zone to it: a resolver believes whoever answers first";
    DNS_SEARCH = Warning "dns-search"
        "add the zone to the search list, so that the host parts of -sname are found; not needed where all nodes have full names";
    DNS_NAMELESS = Warning "dns-nameless"
        "give the node a name of lower-case letters, digits, - and _ if it is to be found by DNS; nodes that dial it do not need that";
    STORE_AWAY = Failure "store-away"
        "start the store, or mend the way to it; nodes of this host are served meanwhile, and published when it is back";
    STORE_DENIED = Failure "store-denied"
        "correct the login in `backend` (user, password, database), or the rights of that user in the store";
    STORE_SLOW = Warning "store-slow"
        "put the store nearer, or see what keeps it busy (its slow log, other users of the same server): answers for other hosts wait for it, up to 500 ms";
    CLOCK_SKEW = Warning "clock-skew"
        "set the clocks (chrony, systemd-timesyncd); repmd decides nothing by them, but times in its lists are wrong";
    HOST_UNRESOLVABLE = Failure "host-unresolvable"
        "put the host into DNS or /etc/hosts of this machine, or find nodes without DNS: docs/erlang.md";
    HOST_IS_LOOPBACK = Failure "host-is-loopback"
        "remove the line from /etc/hosts (installers write 127.0.1.1 beside the machine's name), and give the host's real address";
    HOST_ELSEWHERE = Failure "host-elsewhere"
        "correct DNS or /etc/hosts; or, if the address is right, --advertise of the daemon of that host";
    HOST_UNREACHABLE = Failure "host-unreachable"
        "mend the route: this machine has none to that address";
    EPMD_ABSENT = Failure "epmd-absent"
        "start EPMD on that host, and let it listen on that address (`address`, ERL_EPMD_ADDRESS)";
    EPMD_FILTERED = Failure "epmd-filtered"
        "open this port in the firewall of that host, and on the way to it (security groups, network policies)";
    EPMD_FOREIGN = Failure "epmd-foreign"
        "free that port on that host for EPMD; if it is one, see whether it lets this machine ask (`allow-lookups-from`)";
    NAME_UNKNOWN = Failure "name-unknown"
        "start the node; if it runs, see that it is distributed (-sname or -name), and with which EPMD port (ERL_EPMD_PORT)";
    NAME_ELSEWHERE = Failure "name-elsewhere"
        "ask for it by the host that it is on";
    REGISTRY_DISAGREES = Failure "registry-disagrees"
        "see which daemon answers at that address: a stock epmd beside it, another cluster's, or another host's behind that address";
    HOST_NOT_SHARED = Warning "host-not-shared"
        "give all daemons the same `backend` and `cluster`; a stock epmd shares nothing";
    NAME_NOT_SHARED = Warning "name-not-shared"
        "see `repmd doctor` on that host: its daemon could not publish the node";
    DIST_REFUSED = Failure "dist-refused"
        "see whether the node lives; if it does, which address it listens on (-kernel inet_dist_use_interface)";
    DIST_FILTERED = Failure "dist-filtered"
        "open this port too; fix the range by -kernel inet_dist_listen_min and inet_dist_listen_max, and open that";
    DIST_TLS = Warning "dist-tls"
        "nothing, if all nodes use -proto_dist inet_tls: this step ends where TLS begins";
    DIST_FOREIGN = Failure "dist-foreign"
        "see what listens there: not a node that speaks the handshake of OTP 23 and later. Published ports (`advertise-port`) may lead elsewhere";
    NODE_REFUSES = Failure "node-refuses"
        "see net_kernel:allow/1 on that node: it takes connections of some nodes only";
    NAME_DIFFERS = Failure "name-differs"
        "connect to it by the name that it has, or start it with that host part: both names must be the same, letter by letter";
    NAME_FORM = Failure "name-form"
        "start all nodes with -sname, or all with -name: short and long names never connect";
}

/// Something that was seen.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Of which step.
    pub step: &'static str,
    /// `None`: it is as it should be.
    pub kind: Option<Kind>,
    /// What was seen.
    pub saw: String,
}

/// All that was seen, in order.
#[derive(Debug, Default)]
pub struct Report {
    step: &'static str,
    findings: Vec<Finding>,
    left_out: Vec<LeftOut>,
}

/// Something that was not looked at.
#[derive(Clone, Debug)]
struct LeftOut {
    what: String,
    why: String,
}

impl Report {
    /// What follows belongs to this step.
    pub(super) fn step(&mut self, step: &'static str) {
        self.step = step;
    }

    pub(super) fn fine(&mut self, saw: impl Into<String>) {
        self.findings.push(Finding { step: self.step, kind: None, saw: saw.into() });
    }

    pub(super) fn found(&mut self, kind: Kind, saw: impl Into<String>) {
        self.findings.push(Finding { step: self.step, kind: Some(kind), saw: saw.into() });
    }

    /// The first reason for it counts.
    pub(super) fn left_out(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let what = what.into();
        if self.left_out.iter().all(|known| known.what != what) {
            self.left_out.push(LeftOut { what, why: why.into() });
        }
    }

    /// The worst of all.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.findings.iter().map(Finding::severity).max().unwrap_or(Severity::Fine)
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let findings = self.findings.iter().map(|finding| {
            json!({
                "step": finding.step,
                "severity": finding.severity().word(),
                "id": finding.kind.as_ref().map(|kind| kind.id),
                "saw": finding.saw,
                "fix": finding.kind.as_ref().map(|kind| &*kind.fix),
            })
        });
        let left_out = self.left_out.iter().map(|LeftOut { what, why }| json!({ "what": what, "why": why }));
        json!({
            "severity": self.severity().word(),
            "findings": findings.collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
        })
    }
}

impl Finding {
    fn severity(&self) -> Severity {
        self.kind.as_ref().map_or(Severity::Fine, |kind| kind.severity)
    }
}

/// For people: what is wrong, the worst first; what is as it should be; and what was not looked at.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_first = true;
        let mut begin = |f: &mut fmt::Formatter<'_>| {
            if !std::mem::take(&mut is_first) { writeln!(f) } else { Ok(()) }
        };
        for severity in [Severity::Failure, Severity::Warning, Severity::Fine] {
            let mut step = "";
            for finding in self.findings.iter().filter(|finding| finding.severity() == severity) {
                if step.is_empty() {
                    begin(f)?;
                }
                if finding.step != step {
                    step = finding.step;
                    writeln!(f, "{step}")?;
                }
                let saw = escaped(&finding.saw);
                match &finding.kind {
                    None => writeln!(f, "  ok       {saw}")?,
                    Some(kind) => {
                        writeln!(f, "  {:7}  {}: {saw}", kind.severity.word(), kind.id)?;
                        writeln!(f, "           fix: {}", escaped(&kind.fix))?;
                    }
                }
            }
        }
        if !self.left_out.is_empty() {
            begin(f)?;
            writeln!(f, "not looked at")?;
        }
        for LeftOut { what, why } in &self.left_out {
            writeln!(f, "  {}: {}", escaped(what), escaped(why))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_comes_first_and_what_was_left_out_last() {
        let mut report = Report::default();
        report.step("one");
        report.left_out("the rest of one", "it is not there");
        report.left_out("the rest of one", "another reason");
        report.fine("a");
        report.found(CLOCK_SKEW, "b");
        report.step("two");
        report.fine("c");
        report.found(STORE_AWAY, "d\u{1b}");
        assert_eq!(
            report.to_string(),
            format!(
                "two\n  failure  store-away: d\\u{{1b}}\n           fix: {}\n\n\
                 one\n  warning  clock-skew: b\n           fix: {}\n\n\
                 one\n  ok       a\ntwo\n  ok       c\n\n\
                 not looked at\n  the rest of one: it is not there\n",
                STORE_AWAY.fix, CLOCK_SKEW.fix
            )
        );
    }

    #[test]
    fn a_report_of_nothing_but_what_was_left_out_begins_with_it() {
        let mut report = Report::default();
        report.left_out("all", "nobody asked");
        assert_eq!(report.to_string(), "not looked at\n  all: nobody asked\n");
    }
}
