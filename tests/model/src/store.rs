//! The registry, reduced to what leases need of it: each verb is one atomic step.

use std::collections::{BTreeMap, BTreeSet};

/// A daemon, by its place in [`crate::HOSTS`]: what an instance name is to a real one.
pub(crate) type Daemon = u8;

/// One run of a daemon: what an instance id is to a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Run {
    pub(crate) daemon: Daemon,
    /// Which of its runs. No rule compares two of them: the ids of real runs are random.
    pub(crate) number: u8,
}

/// Unique to one life of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) run: Run,
    /// Which of its claims.
    pub(crate) number: u8,
}

/// Host and alive name.
pub(crate) type Key = (u8, u8);

/// A creation. Those that daemons hand out without the store are in a half of the numbers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Creation {
    Counted(u8),
    Offline(Token),
}

/// A registration: it says where the life of its token listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) token: Token,
    pub(crate) creation: Creation,
}

/// The rules of the contract that can be taken out, to see that the model needs them.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// A release ends the lease of its own token alone.
    pub token_test: bool,
    /// Neither a claim nor a renewal takes a name from another daemon that counts as alive.
    pub owner_test: bool,
    /// A renewal replaces what an earlier life left behind: an older claim of the same run, or one of
    /// another run of the same daemon that does not count as alive.
    pub own_past: bool,
    /// No counter is below the clock, so that one which was lost gives nothing out again.
    pub clock: bool,
}

impl Rules {
    /// All of them.
    pub const ALL: Self = Self { token_test: true, owner_test: true, own_past: true, clock: true };
}

/// What the store says to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Renewal {
    Held,
    Conflict(Daemon),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) records: BTreeMap<Key, Record>,
    /// The runs that count as alive.
    pub(crate) alive: BTreeSet<Run>,
    counters: BTreeMap<Key, u8>,
}

impl Store {
    /// Registers the claim `token`; `clock` is later at each claim. `Err` names the holder.
    pub(crate) fn register(
        &mut self,
        key: Key,
        token: Token,
        clock: u8,
        rules: Rules,
    ) -> Result<Creation, Daemon> {
        self.alive.insert(token.run);
        let previous = self.records.get(&key).copied();
        if let Some(Record { token: held, creation }) = previous {
            if held == token {
                return Ok(creation);
            }
            let is_another = held.run.daemon != token.run.daemon && self.alive.contains(&held.run);
            if is_another && rules.owner_test {
                return Err(held.run.daemon);
            }
        }
        let known = match previous.map(|record| record.creation) {
            Some(Creation::Counted(last)) => last,
            _ => 0,
        };
        let last = self.counter(key, clock, rules).max(known) + 1;
        self.counters.insert(key, last);
        let creation = Creation::Counted(last);
        self.records.insert(key, Record { token, creation });
        Ok(creation)
    }

    fn counter(&self, key: Key, clock: u8, rules: Rules) -> u8 {
        let counted = self.counters.get(&key).copied().unwrap_or_default();
        if rules.clock { counted.max(clock) } else { counted }
    }

    /// Writes what is absent or its own.
    pub(crate) fn renew(&mut self, key: Key, record: Record, clock: u8, rules: Rules) -> Renewal {
        self.alive.insert(record.token.run);
        if let Some(Record { token: held, .. }) = self.records.get(&key)
            && *held != record.token
        {
            let is_past = if held.run == record.token.run {
                held.number < record.token.number
            } else {
                held.run.daemon == record.token.run.daemon && !self.alive.contains(&held.run)
            };
            if rules.owner_test && !(is_past && rules.own_past) {
                return Renewal::Conflict(held.run.daemon);
            }
        }
        // A store that lost its counters must not count from below what is known to have been given out.
        if let Creation::Counted(creation) = record.creation {
            self.counters.insert(key, self.counter(key, clock, rules).max(creation));
        }
        self.records.insert(key, record);
        Renewal::Held
    }

    /// Ends the lease of `token` and no other.
    pub(crate) fn release(&mut self, key: Key, token: Token, rules: Rules) {
        if self.records.get(&key).is_some_and(|held| held.token == token || !rules.token_test) {
            self.records.remove(&key);
        }
    }
}
