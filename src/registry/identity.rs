//! Whether this daemon is the only one that is it: cloned machines come with each other's names.
//!
//! A daemon that restarts takes the place of its own last run, which it knows by its instance name. Two that live and
//! have one name take each other's nodes for their own past. What differs between machines is part of the default
//! name; where nothing does, only that both go on renewing gives them away.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use repmd_backend_api::{HostId, Instance, InstanceId};
use tokio::time::Instant;
use tracing::warn;

use super::daemons::Daemons;

/// Digits of a machine's tag.
const TAG_DIGITS: usize = 8;

/// The default instance name of a daemon that serves `host`, on the machine that calls itself `machine` and has this
/// machine-id, if it has one. The machine is named beside the host where they differ, as they do for containers behind
/// one address.
#[must_use]
pub fn default_instance_name(machine: &HostId, machine_id: Option<&str>, host: &HostId, port: u16) -> String {
    // No instance name that somebody sets has a `~`.
    let tag =
        machine_id.map(|id| format!("~{:0width$x}", tag_of(id), width = TAG_DIGITS)).unwrap_or_default();
    if machine == host { format!("{machine}{tag}:{port}") } else { format!("{machine}{tag}/{host}:{port}") }
}

/// A machine-id is a secret of its machine. These 32 bits (FNV-1a) of it are enough to tell two apart, and too few to
/// know it by.
fn tag_of(machine_id: &str) -> u32 {
    machine_id.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The tag of the machine that calls itself as its daemon's host, if the daemon has its default name.
fn machine_of(daemon: &Instance) -> Option<&str> {
    let (machine, _port) = daemon.name.rsplit_once(':')?;
    let (machine, tag) = machine.rsplit_once('~')?;
    (tag.len() == TAG_DIGITS && HostId::parse(machine).is_ok_and(|machine| machine == daemon.host))
        .then_some(tag)
}

/// Looks for other daemons that have this one's identity.
#[derive(Debug, Default)]
pub(super) struct Identity {
    seen: Mutex<Seen>,
    /// Somebody else has registered a name of this host since the last look.
    has_company: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the first look was, and the daemons of this one's name then: its own past, as far as they end.
    first: Option<(Instant, HashSet<InstanceId>)>,
    complaints: Vec<String>,
}

impl Identity {
    /// Takes a look at the daemons that count as alive. `past_for`: how long those of an earlier run may count so.
    pub(super) fn look(&self, me: &Instance, daemons: &Daemons, past_for: Duration) {
        let mut seen = self.lock();
        let of_host =
            || daemons.of(&me.host).iter().filter(|other| other.host == me.host && other.id != me.id);
        let (since, past) = seen.first.get_or_insert_with(|| {
            let past = of_host().filter(|other| other.name == me.name).map(|other| other.id).collect();
            (Instant::now(), past)
        });
        let past_is_over = past_for <= since.elapsed();
        let complaints: Vec<_> = of_host()
            .filter_map(|other| {
                if other.name == me.name && (past_is_over || !past.contains(&other.id)) {
                    Some(format!("two daemons are called {}: {}", me.name, both(me, other)))
                } else {
                    let machines = (machine_of(me)?, machine_of(other)?);
                    let differ = machines.0 != machines.1;
                    differ.then(|| format!("two machines are called {}: {}", me.host, both(me, other)))
                }
            })
            .collect();
        for complaint in complaints.iter().filter(|complaint| !seen.complaints.contains(complaint)) {
            warn!("{complaint}");
        }
        seen.complaints = complaints;
    }

    /// Somebody else has registered a name of this host: worth a look.
    pub(super) fn found_company(&self) {
        self.has_company.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_company(&self) -> bool {
        self.has_company.load(Ordering::Relaxed)
    }

    /// The same, for whoever looks then.
    pub(super) fn take_company(&self) -> bool {
        self.has_company.swap(false, Ordering::Relaxed)
    }

    /// What is wrong, in words for an operator.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.lock().complaints.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn both(me: &Instance, other: &Instance) -> String {
    let at = |daemon: &Instance| match &*daemon.addresses {
        [] => "an address that it does not know".to_owned(),
        addresses => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    format!(
        "this one at {}, and another at {}; give each machine a name of its own, or each daemon by --host, and daemons \
         that serve one host together each an --instance-name",
        at(me),
        at(other)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const PAST_FOR: Duration = Duration::from_secs(20);

    fn host(name: &str) -> HostId {
        HostId::parse(name).unwrap()
    }

    fn daemon(name: &str, of: &str, address: [u8; 4]) -> Arc<Instance> {
        Arc::new(Instance {
            id: InstanceId::random(),
            name: name.to_owned(),
            host: host(of),
            aliases: Vec::new(),
            addresses: vec![address.into()],
            port: 4369,
        })
    }

    fn look(identity: &Identity, me: &Instance, others: &[&Arc<Instance>]) -> usize {
        let daemons = Daemons::new(others.iter().map(|other| Arc::clone(other)).collect());
        identity.look(me, &daemons, PAST_FOR);
        identity.complaints().len()
    }

    #[test]
    fn the_default_name_is_the_same_at_each_start_and_another_on_each_machine() {
        let [pi, other] = ["raspberrypi", "other"].map(host);
        let name = |id| default_instance_name(&pi, id, &pi, 4369);
        assert_eq!(name(None), "raspberrypi:4369");
        let [one, two] =
            ["3d1219c7c4c5404aaa1f6d2a48adfda4", "7f0b4c5d7c2f4b1f9d6f0b0d7c2a4e11"].map(|id| name(Some(id)));
        assert_eq!(one, name(Some("3d1219c7c4c5404aaa1f6d2a48adfda4")));
        assert_ne!(one, two);
        // As FNV's authors have it for 32 bits. Another hash would make a daemon a new one to its store.
        assert_eq!(name(Some("a")), "raspberrypi~e40c292c:4369");
        let front_door = default_instance_name(&pi, Some("x"), &other, 4369);
        assert!(
            front_door.starts_with("raspberrypi~") && front_door.ends_with("/other:4369"),
            "{front_door}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_run_is_no_rival_until_it_should_have_ended_and_a_later_one_is_at_once() {
        let (me, past) = (daemon("pi:4369", "pi", [10, 0, 0, 1]), daemon("pi:4369", "pi", [10, 0, 0, 2]));
        let identity = Identity::default();
        assert_eq!(look(&identity, &me, &[&me, &past]), 0);
        assert_eq!(look(&identity, &me, &[&me]), 0);
        let later = daemon("pi:4369", "pi", [10, 0, 0, 3]);
        assert_eq!(look(&identity, &me, &[&me, &later]), 1);
        assert_eq!(look(&identity, &me, &[&me]), 0, "it is gone");
        tokio::time::advance(PAST_FOR).await;
        assert_eq!(look(&identity, &me, &[&me, &past]), 1);
        let said = identity.complaints().join("");
        assert!(said.contains("10.0.0.1") && said.contains("10.0.0.2"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn two_machines_of_one_name_are_told_apart_from_daemons_that_serve_one_host_on_purpose() {
        let identity = Identity::default();
        let me = daemon("pi~0000000a:4369", "pi", [10, 0, 0, 1]);
        let fine = [
            daemon("pi~0000000a:5000", "pi", [10, 0, 0, 1]),
            daemon("first", "pi", [10, 0, 0, 2]),
            daemon("c1~0000000b/pi:4369", "pi", [10, 0, 0, 3]),
            daemon("other~0000000c:4369", "other", [10, 0, 0, 4]),
        ];
        assert_eq!(look(&identity, &me, &fine.each_ref()), 0);
        let clone = daemon("pi~0000000b:4369", "pi", [10, 0, 0, 5]);
        assert_eq!(look(&identity, &me, &[&clone]), 1);
    }
}
