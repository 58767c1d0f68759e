//! The name of this machine, by which its own nodes look for each other.

use std::time::Instant;

use super::finding::{OWN_NAME_ELSEWHERE, OWN_NAME_UNANSWERED};
use super::{CONNECT_TIME, Doctor, ask, is_repmd, strings};
use crate::cli::client::resolve;
use crate::listen::is_own;
use crate::printable::in_words;
use crate::protocol::{Request, decode_names_reply};
use crate::settings::machine_name;

impl Doctor<'_> {
    /// Both forms: nodes with `-sname` take the one before the first dot, and those with `-name` the full one.
    pub(super) fn examine_name(&mut self) {
        self.report.step("the name of this host");
        let machine = machine_name();
        let short = machine.split('.').next().unwrap_or_default();
        let aliases = self.daemon.iter().flat_map(|(_, status)| strings(&status["aliases"]));
        let full = aliases
            .chain([&*machine])
            .find(|name| name.strip_prefix(short).is_some_and(|rest| rest.starts_with('.')));
        let names: Vec<_> = [Some(short), full].into_iter().flatten().map(ToOwned::to_owned).collect();
        for name in names {
            self.examine_form(&name);
        }
    }

    fn examine_form(&mut self, name: &str) {
        let port = self.settings.port;
        let places = match resolve(name, port, Instant::now() + CONNECT_TIME) {
            Ok(places) => places,
            Err(error) => {
                // Nodes at `localhost`, and those that find each other without DNS, need none.
                self.report.fine(format!(
                    "{name} has no address here, for nodes that look it up: {}",
                    in_words(&error)
                ));
                return;
            }
        };
        // Nodes use IPv4 unless -proto_dist says otherwise.
        let Some(&place) = places.iter().find(|place| place.is_ipv4()).or(places.first()) else { return };
        let address = place.ip();
        let answers = || ask(place, &Request::Names).is_ok_and(|reply| decode_names_reply(&reply).is_ok());
        if is_own(address) {
            if answers() {
                self.report.fine(format!("{name} is {address}, where the daemon answers"));
            } else {
                let saw = format!("{name} is {address}, an address of this machine at which no EPMD answers");
                self.report.found(OWN_NAME_UNANSWERED, saw);
            }
        // An address that is translated to one of this machine leads back to its daemon.
        } else if !is_repmd(place, name) {
            let saw = format!("{name} is {address}, which is no address of this machine");
            self.report.found(OWN_NAME_ELSEWHERE, saw);
        }
    }
}
