//! Which creation comes next for a name, in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::creation::Creation;

/// Departed names whose last creation is remembered.
const NAMES_MAX: usize = 4096;

/// Counts the lives of names so that no creation ever repeats for one of them.
///
/// A name that comes back gets its last creation plus one, as on the stock daemon, and a new name the
/// clock plus one. When too many names have departed the oldest is forgotten, but not its
/// creation: from then on new names start above the highest that was forgotten.
#[derive(Debug)]
pub struct Creations<Name> {
    spent: HashMap<Name, (u64, Creation)>,
    by_departure: BTreeMap<u64, Name>,
    departures: u64,
    highest_forgotten: Option<Creation>,
}

impl<Name> Default for Creations<Name> {
    fn default() -> Self {
        Self { spent: HashMap::new(), by_departure: BTreeMap::new(), departures: 0, highest_forgotten: None }
    }
}

impl<Name: Clone + Eq + Hash> Creations<Name> {
    /// The creation of the next life of `name`, above `remembered`, which is what somebody else knows of
    /// earlier lives. A name that is not known here starts above `clock`.
    pub fn next(&mut self, name: &Name, remembered: Option<Creation>, clock: Creation) -> Creation {
        let last = match self.spent.remove(name) {
            Some((departure, creation)) => {
                self.by_departure.remove(&departure);
                creation
            }
            None => clock.max(self.highest_forgotten.unwrap_or(Creation::FIRST)),
        };
        let remembered = remembered.filter(|creation| !creation.is_offline());
        last.max(remembered.unwrap_or(Creation::FIRST)).next()
    }

    /// The highest creation that `name` may have had, as far as is known.
    #[must_use]
    pub fn last(&self, name: &Name) -> Option<Creation> {
        self.spent.get(name).map(|(_, creation)| *creation).or(self.highest_forgotten)
    }

    /// Every name that departed with its last creation, the longest ago first.
    #[must_use]
    pub fn all(&self) -> Vec<(Name, Creation)> {
        let spent = |name: &Name| Some((name.clone(), self.spent.get(name)?.1));
        self.by_departure.values().filter_map(spent).collect()
    }

    /// The highest creation of the names that are forgotten.
    #[must_use]
    pub fn highest_forgotten(&self) -> Option<Creation> {
        self.highest_forgotten
    }

    /// Starts new names above `creation`, as if a name that had it were forgotten.
    pub fn forget_below(&mut self, creation: Option<Creation>) {
        self.highest_forgotten = self.highest_forgotten.max(creation);
    }

    /// Remembers that a life of `name` had `creation`, which may be below what is known of the name: a
    /// late renewal can bring an earlier life back. Those of daemons without their registry are not
    /// counted on from.
    pub fn spend(&mut self, name: &Name, creation: Creation) {
        if creation.is_offline() {
            return;
        }
        self.departures += 1;
        self.by_departure.insert(self.departures, name.clone());
        let spent = self.spent.entry(name.clone()).or_insert((self.departures, creation));
        if spent.0 != self.departures {
            self.by_departure.remove(&spent.0);
            *spent = (self.departures, creation.max(spent.1));
        }
        if NAMES_MAX < self.spent.len() {
            let oldest = self.by_departure.pop_first().and_then(|(_, name)| self.spent.remove(&name));
            self.highest_forgotten = self.highest_forgotten.max(oldest.map(|(_, creation)| creation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::time::Duration;

    fn clock() -> Creation {
        Creation::new(1_800_000_000).unwrap()
    }

    #[test]
    fn a_new_name_gets_the_clock_plus_one_and_its_next_life_one_more() {
        let mut creations = Creations::default();
        let first = creations.next(&"a", None, clock());
        assert_eq!(first.get(), 1_800_000_001);
        creations.spend(&"a", first);
        assert_eq!(creations.next(&"a", None, clock()), first.next());
    }

    #[test]
    fn a_creation_is_above_the_one_that_the_claimant_remembers() {
        let mut creations = Creations::default();
        let remembered = Creation::new(2_000_000_000).unwrap();
        assert_eq!(creations.next(&"a", Some(remembered), clock()), remembered.next());
    }

    #[test]
    fn a_creation_of_a_daemon_without_its_store_is_never_counted_on_from() {
        let mut creations = Creations::default();
        let offline = Creation::offline(Duration::from_secs(1), 7);
        creations.spend(&"a", offline);
        assert_eq!(creations.next(&"a", Some(offline), clock()).get(), 1_800_000_001);
    }

    #[test]
    fn an_earlier_life_that_ends_again_brought_its_successors_creations_back() {
        let mut creations = Creations::default();
        for creation in [9, 10, 9] {
            creations.spend(&"a", Creation::new(creation).unwrap());
        }
        assert_eq!(creations.next(&"a", None, clock()).get(), 11);
        assert!(creations.by_departure.is_empty());
    }

    #[test]
    fn a_name_that_was_forgotten_never_gets_a_creation_again() {
        let mut creations = Creations::default();
        let mut seen = HashSet::new();
        for _ in 0..3 {
            // Many lives in one second, then so many other names that this one is forgotten.
            for _ in 0..100 {
                let creation = creations.next(&"a", None, clock());
                assert!(seen.insert(creation), "{creation} came back");
                creations.spend(&"a", creation);
            }
            for other in 0..NAMES_MAX {
                let other = &*format!("other{other}").leak();
                let creation = creations.next(&other, None, clock());
                creations.spend(&other, creation);
            }
            assert!(creations.spent.len() <= NAMES_MAX && creations.by_departure.len() <= NAMES_MAX);
        }
    }
}
