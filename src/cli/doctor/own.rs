//! The daemon of this host, and who else is on its port.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use serde_json::Value;

use super::finding::{
    API_OTHER, API_TOKEN, DAEMON_ABSENT, DAEMON_DEGRADED, DAEMON_NO_ADDRESS, DAEMON_SILENT, DAEMON_STOCK,
    ENTRY_UNREADABLE, NODE_CONFLICT, NODE_UNPUBLISHED, PORT_FOREIGN, PORT_SHARED, PORT_SYSTEMD,
    SETTINGS_DIFFER, Severity,
};
use super::{CONNECT_TIME, Doctor, ask, counted, is_repmd};
use crate::cli::api::{Api, ApiError, items};
use crate::cli::client::{ANSWER_TIME, AskError};
use crate::listeners::{Listeners, Process};
use crate::protocol::{Request, decode_names_reply};
use crate::registry::NO_ADDRESS;
use crate::settings::machine_name;

/// What a daemon without an API does not tell.
const OF_API: &str = "what only the admin API tells: conflicts, names that are not published, unreadable entries, \
     missing links";

impl Doctor<'_> {
    pub(super) fn examine_own(&mut self) {
        self.report.step("the daemon of this host");
        // Before anybody connects: that might start what a socket of the service manager stands for.
        let listeners = Listeners::on(self.settings.port);
        if !listeners.addresses.is_empty() && listeners.processes.is_empty() {
            let port = self.settings.port;
            self.report.left_out(format!("which program has port {port}"), "run this as root to see it");
        }
        if self.examine_port(&listeners) {
            self.examine_daemon();
            // Whoever else is on the port would be found again.
            if self.report.severity() < Severity::Failure {
                return self.examine_name();
            }
        } else {
            self.report.left_out(OF_API, "no repmd answers on that port");
        }
        self.report.left_out("the name of this host", "what is wrong with its daemon comes first");
    }

    /// Whether repmd answers there.
    fn examine_port(&mut self, listeners: &Listeners) -> bool {
        let (port, who) = (self.settings.port, listeners.who());
        let processes = &listeners.processes;
        if !processes.is_empty() && processes.iter().all(Process::is_systemd) {
            self.report
                .found(PORT_SYSTEMD, format!("{who} holds port {port} for a daemon that does not run"));
            return false;
        }
        let places = [SocketAddr::from((Ipv6Addr::LOCALHOST, port)), (Ipv4Addr::LOCALHOST, port).into()];
        let connects = |place: &SocketAddr| TcpStream::connect_timeout(place, CONNECT_TIME).is_ok();
        let Some(place) = places.into_iter().find(connects) else {
            let elsewhere = if listeners.addresses.is_empty() {
                format!("nothing listens on port {port}")
            } else {
                format!("{who} listens on port {port}, but not at loopback, where nodes register")
            };
            self.report.found(DAEMON_ABSENT, elsewhere);
            return false;
        };
        let names = match ask(place, &Request::Names) {
            Ok(reply) => reply,
            Err(AskError::Read { reply, .. } | AskError::Silent { reply, .. }) if !reply.is_empty() => reply,
            Err(AskError::Silent { .. }) => {
                let saw = format!("{who} listens on port {port} and gives no answer within {ANSWER_TIME:?}");
                self.report.found(DAEMON_SILENT, saw);
                return false;
            }
            Err(error) => {
                self.report.found(
                    DAEMON_SILENT,
                    format!("{who} listens on port {port} and gives no answer: {error}"),
                );
                return false;
            }
        };
        let Some(count) = node_count(&names, port) else {
            self.report.found(PORT_FOREIGN, format!("{who} listens on port {port} and is no EPMD"));
            return false;
        };
        self.find_api();
        let shown = self.daemon.as_ref().and_then(|(_, status)| status["host"].as_str());
        let machine = machine_name();
        let short = machine.split('.').next().unwrap_or_default();
        let names = [shown.unwrap_or_default(), self.settings.host.as_str(), &machine, short];
        let known_as = names.into_iter().find(|name| is_repmd(place, name)).map(ToOwned::to_owned);
        let is_seen = processes.iter().any(Process::is_repmd);
        if known_as.is_none() && !is_seen {
            let saw = format!("{who} answers on port {port}: an EPMD that is not repmd");
            self.report.found(DAEMON_STOCK, saw);
            return false;
        }
        let other = processes.iter().find(|process| !process.is_repmd() && !process.is_systemd());
        if is_seen && let Some(other) = other {
            self.report.found(PORT_SHARED, format!("beside repmd, {other} listens on port {port} too"));
        }
        let host = known_as.map(|host| format!(" as {host}")).unwrap_or_default();
        self.report
            .fine(format!("repmd answers on port {port}{host}, with {}", counted(count as u64, "node")));
        true
    }

    fn find_api(&mut self) {
        let port = self.settings.port;
        let asked = Api::of(&self.settings).and_then(|api| Ok((api.get("/api/v1/status")?, api)));
        let error = match asked {
            Ok((status, api)) if status["port"] == port => {
                self.daemon = Some((api, status));
                return;
            }
            Ok((status, api)) => {
                let (place, other) = (api.address(), &status["port"]);
                let saw = format!(
                    "the admin API at {place} is that of the daemon on port {other}, not on port {port}"
                );
                self.report.found(API_OTHER, saw);
                return self.report.left_out(OF_API, "it is another daemon's");
            }
            Err(error) => error,
        };
        self.report.left_out(OF_API, error.to_string());
        match error {
            // The stock command line has none.
            ApiError::Off
            | ApiError::Connect { .. }
            | ApiError::Tls { .. }
            | ApiError::Without { .. }
            | ApiError::NoDaemon(_) => {}
            ApiError::TokenFile(_) | ApiError::TokenNeeded { .. } | ApiError::TokenWrong { .. } => {
                self.report.found(API_TOKEN, error.to_string());
            }
            ApiError::Status { .. } | ApiError::Alien { .. } | ApiError::Silent { .. } => {
                self.report.found(API_OTHER, error.to_string());
            }
        }
    }

    /// What it says of itself.
    fn examine_daemon(&mut self) {
        let Some((_, status)) = &self.daemon else { return };
        for reason in super::strings(&status["reasons"]) {
            self.report.found(DAEMON_DEGRADED, reason);
        }
        for note in super::strings(&status["notes"]) {
            let finding = if note == NO_ADDRESS { DAEMON_NO_ADDRESS } else { ENTRY_UNREADABLE };
            self.report.found(finding, note);
        }
        let shown = self.settings.shown.iter().find(|shown| shown.key == "backend");
        let (own, its) = (shown.map_or("memory", |shown| &shown.value), &status["registry"]["backend"]);
        let its = its.as_str().unwrap_or_default();
        // The default is shown in words, which are its value too.
        if own != its {
            let saw =
                format!("the daemon's registry is {its}, and these settings say {own}: {own} is looked at");
            self.report.found(SETTINGS_DIFFER, saw);
        }
        let Some(list) = self.ask_api("/api/v1/nodes?limit=10000") else { return };
        for node in items(&list, "nodes") {
            let text = |key: &str| node[key].as_str().unwrap_or_default();
            match text("state") {
                "conflict" => {
                    let saw = format!("{} is also held by the daemon {}", text("node"), text("holder"));
                    self.report.found(NODE_CONFLICT, saw);
                }
                state @ ("unpublished" | "failed") => {
                    let reason = node["reason"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
                    self.report.found(NODE_UNPUBLISHED, format!("{} is {state}{reason}", text("node")));
                }
                _ => {}
            }
        }
        if let Some(total) = list["total"].as_u64() {
            let cluster = text_of(&status["cluster"]);
            self.report.fine(format!("it knows {} in the cluster {cluster}", counted(total, "node")));
        }
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// How many nodes a NAMES reply lists. `None`: it is none.
fn node_count(reply: &[u8], port: u16) -> Option<usize> {
    let names = decode_names_reply(reply).ok()?;
    let lines = names.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    // A stranger's words may be as long. Behind a translation, the port is another one.
    (names.nodes().count() == lines && (names.port == u32::from(port) || names.port <= 65_535))
        .then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_node_is_said_as_one() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "node")), ["0 nodes", "1 node", "2 nodes"]);
    }
}
