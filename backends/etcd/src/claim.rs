//! Registering one node.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join;
use repmd_backend_api::{BackendError, Claim, Creation, HostId, Instance, InstanceId, Lease, NodeName};

use crate::creation::Serial;
use crate::error::Fault;
use crate::proto::{Compare, KeyValue, RangeRequest, RangeResponse, TxnRequest, get, put};
use crate::record::{Numbered, Unreadable, decode_lease, encode_lease};
use crate::store::{Epoch, STEPS_MAX, Store, TRIES, read_epoch};

/// What a claim expects under its name.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    /// In which revision it was written; 0 for nothing.
    revision: i64,
    creation: Option<Creation>,
    /// A daemon that must not count as alive.
    dead: Option<InstanceId>,
}

/// What a claim that found something else is to do.
enum Found {
    /// It may be replaced.
    Replace(Expected),
    /// It is this claim's own.
    Own(Lease),
    Refused(BackendError),
}

impl Store {
    /// See [`RegistryBackend::register`](repmd_backend_api::RegistryBackend::register).
    pub(crate) async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        let started = Instant::now();
        let name = NodeName { alive: claim.node.name.clone(), host: self.holding.instance().host.clone() };
        let under_way = self.holding.under_way(&name.alive);
        let registered = match self.try_to_register(claim, &name).await {
            Ok(registered) => registered,
            Err(fault) => return Err(fault.when(started, || format!("register {name}"))),
        };
        // Whatever it is, it is known.
        under_way.done();
        registered
    }

    async fn try_to_register(
        &self,
        claim: &Claim,
        name: &NodeName,
    ) -> Result<Result<Lease, BackendError>, Fault> {
        let mut expected = Expected::default();
        let mut is_first = true;
        let mut must_write = false;
        self.mind_history();
        for _ in 0..TRIES {
            let (leases, epoch) = (self.appear().await?, self.epoch().await?);
            let instance = self.holding.instance();
            let serial = Serial::beside(epoch.base, &[claim.last, expected.creation]);
            let transaction = self.claim_step(claim, &instance, serial, epoch, leases, expected);
            let write = self.connection.transact(transaction);
            // The daemon counts as alive from now on, and the lease begins anew, whatever comes of the claim.
            let (are_there, written) = if is_first {
                let (renewed, written) = join(self.renew(leases), write).await;
                (renewed?, written)
            } else {
                (true, write.await)
            };
            if !are_there {
                self.lose(leases).await;
            } else {
                is_first = false;
            }
            let (answer, revision) = match written {
                Ok(answer) => answer,
                Err(fault) if fault.is_lost_lease() => {
                    self.lose(leases).await;
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            let has_turned = self.mind_history();
            if answer.succeeded {
                self.progress(serial, revision);
                let lease = claim.granted(Arc::clone(&instance), serial.creation(revision));
                self.holding.hold(&lease, Arc::clone(&instance), are_there.then_some(revision));
                if has_turned {
                    // What it made its creation of is not where the store is.
                    expected = Expected { revision, creation: Some(lease.creation()), dead: None };
                    must_write = true;
                    continue;
                }
                if !are_there {
                    self.appear().await?;
                }
                return Ok(Ok(lease));
            }
            let mut answers = answer.ranges();
            let [there, epoch_now, daemon, holder] = std::array::from_fn(|_| first(answers.next()));
            let epoch_now = epoch_now
                .and_then(|kv| Some(Epoch { base: read_epoch(&kv.value)?, revision: kv.mod_revision }));
            if epoch_now.map(|now| now.revision) != Some(epoch.revision) {
                // Known as far as it goes; a base that went back is raised again.
                self.set_epoch(epoch_now.filter(|now| epoch.base <= now.base));
            }
            if daemon.map(|daemon| daemon.lease) != Some(leases.life) {
                self.holding.set_standing(None);
            }
            let Some(there) = there else {
                expected = Expected::default();
                continue;
            };
            match self.look(claim, name, &instance, &there, holder.is_some(), expected) {
                Found::Own(_) if must_write => expected.revision = there.mod_revision,
                Found::Own(lease) => {
                    // It may be on a lease that nobody renews: the next round sees to that.
                    let revision = (there.lease == leases.names).then_some(there.mod_revision);
                    self.holding.hold(&lease, Arc::clone(&lease.registration.instance), revision);
                    return Ok(Ok(lease));
                }
                Found::Replace(next) => expected = next,
                Found::Refused(error) => return Ok(Err(error)),
            }
        }
        Err(Fault::Raced { tries: TRIES })
    }

    fn claim_step(
        &self,
        claim: &Claim,
        instance: &Arc<Instance>,
        serial: Serial,
        epoch: Epoch,
        leases: crate::holding::Leases,
        expected: Expected,
    ) -> TxnRequest {
        let (host, name) = (&instance.host, &claim.node.name);
        let (node, daemon) = (self.keys.node(host, name), self.keys.daemon(instance.id));
        let draft = claim.granted(Arc::clone(instance), Creation::FIRST);
        let record = encode_lease(&draft, instance, Numbered::By(serial));
        let mut compare = vec![
            Compare::unchanged(&node, expected.revision),
            Compare::unchanged(&self.keys.epoch(), epoch.revision),
            Compare::leased(&daemon, leases.life),
        ];
        let mut failure = vec![
            get(RangeRequest::key(&node)),
            get(RangeRequest::key(&self.keys.epoch())),
            get(RangeRequest::key(&daemon).keys_only()),
        ];
        if let Some(dead) = expected.dead {
            let dead = self.keys.daemon(dead);
            compare.push(Compare::absent(&dead));
            failure.push(get(RangeRequest::key(&dead).keys_only()));
        }
        debug_assert!(compare.len() < STEPS_MAX);
        let success =
            vec![put(&node, record, leases.names), put(&self.keys.name(host, name), "", leases.names)];
        TxnRequest { compare, success, failure }
    }

    /// What is under the name, seen from a claim. `holder_lives`: whether the daemon counts as alive that
    /// [`Expected::dead`] names.
    fn look(
        &self,
        claim: &Claim,
        name: &NodeName,
        instance: &Instance,
        there: &KeyValue,
        holder_lives: bool,
        expected: Expected,
    ) -> Found {
        let held = match self.read_holder(there, &name.host, &name.alive) {
            Ok(held) => held,
            Err(unreadable) => {
                let key = self.keys.node(&name.host, &name.alive);
                let source = repmd_backend_remote::short(&unreadable).into();
                return Found::Refused(BackendError::Corrupt { key, source });
            }
        };
        let holder = &held.registration.instance;
        let taken = || {
            let holder = holder.name.clone();
            Found::Refused(BackendError::NameTaken { name: name.clone(), holder })
        };
        let (revision, creation) = (there.mod_revision, Some(held.creation()));
        let replace = |dead| Found::Replace(Expected { revision, creation, dead });
        if held.token == claim.token(instance.id) {
            return Found::Own(held);
        }
        if holder.id == instance.id {
            // A claim that comes late, after a newer one of the same run, replaces nothing.
            return if claim.number < held.token.number { taken() } else { replace(None) };
        }
        if holder.name == instance.name {
            return replace(None);
        }
        let was_asked_for = expected.revision == revision && expected.dead == Some(holder.id);
        if was_asked_for && holder_lives { taken() } else { replace(Some(holder.id)) }
    }

    /// The registration that is there, whoever holds it.
    pub(crate) fn read_holder(
        &self,
        there: &KeyValue,
        host: &HostId,
        name: &repmd_backend_api::AliveName,
    ) -> Result<Lease, Unreadable> {
        // Nothing of ours is without an end, and what has none would be believed for ever.
        if there.lease == 0 {
            return Err(Unreadable::Endless);
        }
        decode_lease(&there.value, there.mod_revision, host, name)
    }
}

/// The one entry that a range of one key has read.
pub(crate) fn first(range: Option<RangeResponse>) -> Option<KeyValue> {
    range?.kvs.into_iter().next()
}
