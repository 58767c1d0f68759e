//! Which creation comes next for a name.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use repmd_backend_api::{AliveName, Creation, HostId};

/// Departed names whose last creation is remembered.
const NAMES_MAX: usize = 4096;

/// Gives out creations so that none ever repeats for one name of one host, in bounded memory.
///
/// A name that comes back gets its last creation plus one, as on the stock daemon, and a new name the
/// clock in seconds plus one. When too many names have departed the oldest is forgotten, but not its
/// creation: from then on new names start above the highest that was forgotten.
#[derive(Debug, Default)]
pub(crate) struct Creations {
    spent: HashMap<(HostId, AliveName), (u64, Creation)>,
    by_departure: BTreeMap<u64, (HostId, AliveName)>,
    departures: u64,
    highest_forgotten: Option<Creation>,
}

impl Creations {
    /// The creation of the next life of `name`, above `remembered`, which is what the claimant knows of
    /// earlier lives; `now` is the time since the Unix epoch.
    pub(crate) fn next(
        &mut self,
        host: &HostId,
        name: &AliveName,
        remembered: Option<Creation>,
        now: Duration,
    ) -> Creation {
        let last = match self.spent.remove(&(host.clone(), name.clone())) {
            Some((departure, creation)) => {
                self.by_departure.remove(&departure);
                creation
            }
            None => Creation::from_clock(now).max(self.highest_forgotten.unwrap_or(Creation::FIRST)),
        };
        let remembered = remembered.filter(|creation| !creation.is_offline());
        last.max(remembered.unwrap_or(Creation::FIRST)).next()
    }

    /// Remembers that a life of `name` had `creation`.
    pub(crate) fn spend(&mut self, host: &HostId, name: &AliveName, creation: Creation) {
        if creation.is_offline() {
            return;
        }
        let key = (host.clone(), name.clone());
        self.departures += 1;
        self.by_departure.insert(self.departures, key.clone());
        if let Some((departure, _)) = self.spent.insert(key, (self.departures, creation)) {
            self.by_departure.remove(&departure);
        }
        if NAMES_MAX < self.spent.len() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.by_departure.pop_first().and_then(|(_, key)| self.spent.remove(&key));
        self.highest_forgotten = self.highest_forgotten.max(oldest.map(|(_, creation)| creation));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn host() -> HostId {
        HostId::parse("h").unwrap()
    }

    fn name(text: &str) -> AliveName {
        AliveName::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_new_name_gets_the_clock_plus_one_and_its_next_life_one_more() {
        let mut creations = Creations::default();
        let first = creations.next(&host(), &name("a"), None, NOW);
        assert_eq!(first.get(), 1_800_000_001);
        creations.spend(&host(), &name("a"), first);
        assert_eq!(creations.next(&host(), &name("a"), None, NOW), first.next());
    }

    #[test]
    fn a_creation_is_above_the_one_that_the_claimant_remembers() {
        let mut creations = Creations::default();
        let remembered = Creation::new(2_000_000_000).unwrap();
        assert_eq!(creations.next(&host(), &name("a"), Some(remembered), NOW), remembered.next());
    }

    #[test]
    fn a_creation_of_a_daemon_without_its_store_is_never_counted_on_from() {
        let mut creations = Creations::default();
        let offline = Creation::offline(NOW, 7);
        creations.spend(&host(), &name("a"), offline);
        assert_eq!(creations.next(&host(), &name("a"), Some(offline), NOW).get(), 1_800_000_001);
    }

    #[test]
    fn a_name_that_was_forgotten_never_gets_a_creation_again() {
        let mut creations = Creations::default();
        let mut seen = HashSet::new();
        for _ in 0..3 {
            // Many lives in one second, then so many other names that this one is forgotten.
            for _ in 0..100 {
                let creation = creations.next(&host(), &name("a"), None, NOW);
                assert!(seen.insert(creation), "{creation} came back");
                creations.spend(&host(), &name("a"), creation);
            }
            for other in 0..NAMES_MAX {
                let other = name(&format!("other{other}"));
                let creation = creations.next(&host(), &other, None, NOW);
                creations.spend(&host(), &other, creation);
            }
            assert!(creations.spent.len() <= NAMES_MAX && creations.by_departure.len() <= NAMES_MAX);
        }
    }
}
