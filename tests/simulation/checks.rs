//! The promises, as checks on the world.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use repmd::registry::Question;
use repmd_backend_api::{AliveName, Found, HostId, Lease, RegistryBackend, Scope, Search};
use repmd_history::{Sight, Span, Told};
use tokio::time::Instant;

use crate::node::Life;
use crate::world::{INTERVAL, Running, Slot, TTL, World};

/// What a daemon may need beside the promised time: a deadline of a call, and a pause between two tries.
pub(crate) const SLACK: Duration = Duration::from_millis(1600);

/// Between two steps.
const LONGEST_PAUSE: Duration = Duration::from_secs(6);

impl World {
    /// After each step: the first promise that is broken.
    pub(crate) async fn check(&self) -> Option<String> {
        self.check_conflicts();
        self.check_complaints();
        self.check_published().await;
        self.compare_mirror().await;
        self.broken.borrow().clone()
    }

    /// Since when nothing has been wrong between a running daemon and a store that remembers.
    fn sound_since(&self, running: &Running) -> Option<Instant> {
        let since = running.program().since;
        Some(running.sound_since.get()?.max(self.store_lost.get()).max(since))
    }

    fn running(&self, slot: usize) -> Option<Rc<Running>> {
        self.daemons[slot].running.borrow().clone()
    }

    /// No name of a live connection is missing once the store has been reachable for one TTL.
    async fn check_published(&self) {
        let lives: Vec<_> = self.nodes.borrow().values().cloned().collect();
        for life in lives {
            let (Some(held_since), None) = (life.held_since.get(), life.died.get()) else { continue };
            let host = self.daemons[life.slot].host.clone();
            let stored = self.stored(&life.name, &host).await;
            if !self.was_hidden(&host, &life.name) {
                let asked = Span::at(self.recorder.now());
                let holder = stored.first().map(|found| found.registration.node.port);
                let node = format!("{}@{host}", life.name);
                self.recorder.history().sights.push(Sight { node, asked, holder });
            }
            let Some(running) = self.running(life.slot) else { continue };
            let Some(sound_since) = self.sound_since(&running) else { continue };
            let settled_since =
                held_since.max(sound_since).max(self.rival_until(&life).unwrap_or(self.started));
            if settled_since.elapsed() < TTL {
                continue;
            }
            if self.is_hidden(&life, TTL) {
                continue;
            }
            if stored.is_empty() {
                self.breaks(format!("{life} is registered and its store well, but it is not published"));
            } else if stored.iter().all(|found| found.registration.node.port != life.port) {
                self.breaks(format!(
                    "{life} is registered and its store well, but another port is published"
                ));
            }
        }
    }

    /// Whether something that not everybody can read has stood in the place of a life of late.
    fn is_hidden(&self, life: &Life, of_late: Duration) -> bool {
        let key = (self.daemons[life.slot].host.clone(), life.name.clone());
        self.store.last_unreadable(&key).is_some_and(|met| met.elapsed() < of_late)
    }

    /// A conflict is reported only where another daemon of the host has had a node of that name of late, or where
    /// the last run of the same daemon may still count as alive.
    fn check_complaints(&self) {
        for (at, slot) in self.daemons.iter().enumerate() {
            let Some(running) = self.running(at) else { continue };
            let readiness = running.registry().readiness();
            let conflicts: BTreeSet<_> = {
                let complaints = &readiness.borrow().complaints;
                complaints.iter().filter(|complaint| complaint.contains("also held")).cloned().collect()
            };
            for conflict in conflicts.difference(&running.conflicts.borrow()) {
                // Since the last look at it.
                let of_late = TTL + INTERVAL + SLACK + LONGEST_PAUSE;
                let name = conflict.split('@').next().unwrap();
                // Also one that has not had its answer: the store may have given it the name.
                let is_rival = |life: &&Rc<Life>| {
                    let lives = life.died.get().is_none_or(|died| died.elapsed() < of_late);
                    let is_here = self.daemons[life.slot].host == slot.host && life.slot != at;
                    is_here && life.name.as_str() == name && lives
                };
                let has_rival = self.nodes.borrow().values().any(|life| is_rival(&life));
                let has_last_run = conflict.ends_with(slot.name)
                    && slot.last_end.get().is_some_and(|ended| ended.elapsed() < of_late);
                if !has_rival && !has_last_run {
                    self.breaks(format!("{} says that {conflict}, and nobody else has it", slot.name));
                }
            }
            *running.conflicts.borrow_mut() = conflicts;
        }
    }

    /// No list of a host shows a node of an earlier run of the daemon that is asked.
    pub(crate) async fn check_list(&self, asker: usize, running: &Running) {
        let slot = &self.daemons[asker];
        let called = self.recorder.now();
        let nodes = running.registry().nodes(&slot.host).await;
        let seen = nodes.iter().map(|found| &found.registration);
        let seen = seen.filter(|seen| !self.was_hidden(&seen.instance.host, &seen.node.name));
        let named = seen.map(|seen| (seen.node_name().to_string(), seen.node.port)).collect();
        self.recorder.answered(asker, called, Told::Names(named));
        for found in &*nodes {
            if found.registration.instance.name == slot.name {
                let name = found.registration.node_name();
                self.breaks(format!("{} lists {name}, which nobody has proved alive", slot.name));
            }
        }
    }

    /// What the store itself says of a name on a host.
    pub(crate) async fn stored(&self, name: &AliveName, host: &HostId) -> Vec<Found> {
        let scope = Scope::Host(host.clone());
        self.store.seen.find(&Search { name, scope: &scope, near: host, most: 9 }).await.unwrap().items
    }

    /// Until when a life of the same name, with another daemon of the same host, may have been in the way: its
    /// lease may have outlived it.
    fn rival_until(&self, life: &Life) -> Option<Instant> {
        let host = &self.daemons[life.slot].host;
        let nodes = self.nodes.borrow();
        let rivals = nodes.values().filter(|rival| {
            rival.name == life.name && rival.slot != life.slot && self.daemons[rival.slot].host == *host
        });
        let until = |rival: &Rc<Life>| {
            let now = rival.held_since.get().map(|_| Instant::now());
            now.max(rival.last_held.get().map(|held| held + TTL))
        };
        rivals.filter_map(until).max()
    }

    /// Two daemons of one host hold one name for a renewal interval at most before it is reported.
    fn check_conflicts(&self) {
        let nodes = self.nodes.borrow();
        let is_held = |life: &&Rc<Life>| life.held_since.get().is_some() && life.died.get().is_none();
        let held: Vec<_> = nodes.values().filter(is_held).collect();
        for one in &held {
            for other in held.iter().filter(|other| one.port < other.port) {
                let hosts = [one, other].map(|life| &self.daemons[life.slot].host);
                if one.name != other.name || hosts[0] != hosts[1] {
                    continue;
                }
                let running = [one, other].map(|life| self.running(life.slot));
                let [Some(one_runs), Some(other_runs)] = running else { continue };
                let sound = [&one_runs, &other_runs].map(|running| self.sound_since(running));
                let [Some(one_sound), Some(other_sound)] = sound else { continue };
                let held = [one, other].iter().filter_map(|life| life.held_since.get()).max();
                let both_since = held.unwrap_or(self.started).max(one_sound).max(other_sound);
                // What was written over was nobody's, and who has it now is known with the next renewals.
                let hidden = self.store.last_unreadable(&(hosts[0].clone(), one.name.clone()));
                let both_since = both_since.max(hidden.unwrap_or(self.started));
                let is_reported = [&one_runs, &other_runs].iter().any(|running| {
                    let readiness = running.registry().readiness();
                    readiness.borrow().complaints.iter().any(|complaint| {
                        complaint.contains("also held") || complaint.contains("cannot be published")
                    })
                });
                if is_reported {
                    self.tell(&format!("conflict of {one} and {other} is reported"));
                } else if INTERVAL + INTERVAL / 2 + SLACK < both_since.elapsed() {
                    self.breaks(format!("{one} and {other} live on one host, and nobody says so"));
                }
            }
        }
    }

    /// A name is granted beside another owner only where one of the two could not know.
    pub(crate) fn check_grant(&self, life: &Life, lease: &Lease) {
        let host = &self.daemons[life.slot].host;
        for other in self.nodes.borrow().values() {
            let is_other = other.port != life.port && other.name == life.name && other.died.get().is_none();
            let Some(held_since) = other.held_since.get().filter(|_| is_other && other.slot != life.slot)
            else {
                continue;
            };
            if self.daemons[other.slot].host != *host {
                continue;
            }
            let Some(running) = self.running(other.slot) else { continue };
            let Some(sound_since) = self.sound_since(&running) else { continue };
            // A third may have had it until now.
            let rival_until = self.rival_until(other).unwrap_or(self.started);
            let could_know = TTL < held_since.max(sound_since).max(rival_until).elapsed();
            let could_know = could_know && !self.is_hidden(other, TTL + TTL);
            if could_know && !lease.creation().is_offline() {
                self.breaks(format!("{life} is granted what {other} holds in a store that is well"));
            }
        }
    }

    /// Only a daemon that has been alive on the same host of late can have the name.
    pub(crate) fn check_refusal(&self, life: &Life) {
        let same_host = |slot: &&Slot| slot.host == self.daemons[life.slot].host;
        if self.daemons.iter().filter(same_host).count() == 1 {
            self.breaks(format!("{life} is refused, and its host has one daemon"));
        }
        let of_others = |other: &&Rc<Life>| {
            let of_late = other.died.get().is_none_or(|died| died.elapsed() <= TTL + SLACK);
            other.name == life.name && other.slot != life.slot && of_late
        };
        if !self.nodes.borrow().values().any(|other| of_others(&other)) {
            self.breaks(format!("{life} is refused, and nobody has its name"));
        }
    }

    /// No dead name is answered after one TTL, and another one while the store is away.
    pub(crate) fn check_answer(&self, running: &Running, asker: &str, port: u16) {
        let Some(died) = self.nodes.borrow().get(&port).and_then(|life| life.died.get()) else { return };
        let has_been_sound = running.sound_since.get().is_some_and(|since| SLACK < since.elapsed());
        let is_hidden = self.nodes.borrow().get(&port).is_some_and(|life| self.is_hidden(life, TTL + TTL));
        let most = if has_been_sound && !is_hidden { TTL } else { TTL + TTL };
        if most + SLACK / 2 < died.elapsed() {
            self.breaks(format!("{asker} answers for port {port}, dead for {:?}", died.elapsed()));
        }
    }

    /// A name that is published is found by every daemon whose store is well.
    pub(crate) async fn check_absence(&self, asker: usize, running: &Running, question: &Question) {
        let Question::On(host, name) = question else { return };
        let Some(sound_since) = self.sound_since(running) else { return };
        if sound_since.elapsed() < TTL {
            return;
        }
        for Found { registration, .. } in self.stored(name, host).await {
            let Some(life) = self.nodes.borrow().get(&registration.node.port).cloned() else { continue };
            let is_settled = life.held_since.get().is_some_and(|since| TTL < since.elapsed());
            // What the asker holds itself is in its table, which is asked first.
            let can_read = !self.is_hidden(&life, SLACK);
            if is_settled && can_read && life.died.get().is_none() && life.slot != asker {
                self.breaks(format!(
                    "{life} is published, and {} does not find it",
                    self.daemons[asker].name
                ));
            }
        }
    }
}
