//! Writing what the daemon holds: all of it, or what has changed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join;
use repmd_backend_api::{BackendError, Holdings, Instance, InstanceId, Lease, Renewal, Renewed};

use crate::claim::first;
use crate::error::Fault;
use crate::holding::{Leases, LeftOut};
use crate::proto::{Compare, KeyValue, RangeRequest, TxnRequest, delete, get, put};
use crate::record::{Numbered, encode_instance, encode_lease};
use crate::store::{STEPS_MAX, Store, TRIES};

/// Leases that are looked at in one step, and written in another: each is two keys.
const CHUNK: usize = STEPS_MAX / 2;

/// Bytes of one step. etcd takes 1.5 MiB, unless it is told otherwise.
const CHUNK_BYTES: usize = 512 << 10;

/// Leases that are taken before others have a turn on this thread.
const BATCH: usize = 500;

/// What is to be done with a lease.
enum Step {
    /// It is there, as it is to be.
    There(i64),
    /// It is to be written in the place of what this revision wrote; 0 for nothing.
    Write {
        over: i64,
        past: Option<InstanceId>,
    },
    /// The same, unless that run of the daemon counts as alive.
    Ask {
        over: i64,
        past: InstanceId,
        holder: String,
    },
    Over(Renewal),
}

impl Store {
    /// See [`RegistryBackend::renew`](repmd_backend_api::RegistryBackend::renew).
    pub(crate) async fn renew_all(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        let started = Instant::now();
        let renewed = self.try_to_renew(held).await;
        renewed.map_err(|fault| {
            fault.when(started, || format!("renew the names of {}", self.holding.instance().name))
        })
    }

    async fn try_to_renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, Fault> {
        let leases = self.stay_whole().await?;
        self.holding.begin_round();
        let (mut renewed, mut changed) = (Vec::new(), Vec::new());
        while !held.is_empty() {
            for lease in held.take(BATCH) {
                if self.holding.keep(&lease) {
                    changed.push(lease);
                } else {
                    renewed.push(Renewed { lease, renewal: Renewal::Held });
                }
            }
            tokio::task::yield_now().await;
        }
        let is_unsure = self.holding.is_unsure();
        if is_unsure {
            self.end_strangers(leases).await?;
        }
        renewed.extend(self.write(&changed, leases).await?);
        for left_out in self.holding.left_out().chunks(CHUNK) {
            self.end(left_out, leases).await?;
        }
        if is_unsure {
            self.holding.trust();
        }
        Ok(renewed)
    }

    /// Lets the daemon's leases begin anew, and looks whether the store still has the daemon.
    async fn stay_whole(&self) -> Result<Leases, Fault> {
        for _ in 0..TRIES {
            let leases = self.appear().await?;
            let instance = self.holding.instance();
            let daemon = self.connection.range(RangeRequest::key(&self.keys.daemon(instance.id)));
            let (are_there, daemon) = try_join(self.renew(leases), daemon).await?;
            self.mind_history();
            if !are_there {
                self.lose(leases).await;
                continue;
            }
            let is_there = daemon.kvs.first().is_some_and(|kv| {
                kv.lease == leases.life && kv.value == encode_instance(&instance).as_bytes()
            });
            if is_there {
                return Ok(leases);
            }
            // It has lost this, and so perhaps all else.
            self.holding.doubt();
            self.holding.set_standing(None);
        }
        Err(Fault::Raced { tries: TRIES })
    }

    /// See [`RegistryBackend::publish`](repmd_backend_api::RegistryBackend::publish).
    pub(crate) async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        let started = Instant::now();
        let under_way: Vec<_> =
            leases.iter().map(|lease| self.holding.under_way(&lease.registration.node.name)).collect();
        let published = async {
            let on = self.stay_whole().await?;
            self.write(leases, on).await
        };
        let published = published.await.map_err(|fault| {
            fault.when(started, || {
                format!("publish {} names of {}", leases.len(), self.holding.instance().name)
            })
        })?;
        under_way.into_iter().for_each(crate::holding::UnderWay::done);
        Ok(published)
    }

    /// Looks at what the store has of these leases, and writes what is missing.
    async fn write(&self, leases: &[Lease], on: Leases) -> Result<Vec<Renewed>, Fault> {
        let mut renewed = Vec::new();
        for chunk in leases.chunks(CHUNK) {
            renewed.extend(self.write_some(chunk.iter().collect(), on).await?);
        }
        Ok(renewed)
    }

    async fn write_some(&self, mut left: Vec<&Lease>, mut on: Leases) -> Result<Vec<Renewed>, Fault> {
        let mut renewed = Vec::new();
        for tries in 0..=TRIES {
            let steps = self.look_at(&left, on).await?;
            let mut writes = Vec::new();
            for (lease, step) in left.into_iter().zip(steps) {
                let renewal = match step {
                    // While this was under way, the node has gone.
                    _ if self.holding.is_released(lease) => Renewal::Held,
                    Step::There(revision) => {
                        self.holding.hold(lease, self.holding.instance(), Some(revision));
                        Renewal::Held
                    }
                    Step::Write { over, past } => {
                        if tries < TRIES {
                            writes.push((lease, over, past));
                            continue;
                        }
                        Renewal::Failed { reason: Fault::Raced { tries: TRIES }.to_string() }
                    }
                    Step::Ask { holder, .. } => Renewal::Conflict { holder },
                    Step::Over(renewal) => renewal,
                };
                if renewal != Renewal::Held {
                    self.holding.drop_name(&lease.registration.node.name, Some(lease.token));
                }
                renewed.push(Renewed { lease: lease.clone(), renewal });
            }
            left = Vec::new();
            let mut writes = writes.into_iter().peekable();
            while writes.peek().is_some() {
                match self.write_step(&mut writes, on).await {
                    Ok((written, Some(revision))) => {
                        for (lease, instance) in written {
                            self.holding.hold(lease, instance, Some(revision));
                            renewed.push(Renewed { lease: lease.clone(), renewal: Renewal::Held });
                        }
                    }
                    Ok((raced, None)) => left.extend(raced.into_iter().map(|(lease, _)| lease)),
                    Err((fault, unwritten)) if fault.is_lost_lease() && tries < TRIES => {
                        self.lose(on).await;
                        on = self.appear().await?;
                        left.extend(unwritten);
                    }
                    Err((fault, _)) => return Err(fault),
                }
            }
            if left.is_empty() {
                return Ok(renewed);
            }
        }
        Ok(renewed)
    }

    /// Writes as many as go into one step. In which revision; `None` if something has changed meanwhile.
    #[allow(clippy::type_complexity, reason = "it is read where it is made")]
    async fn write_step<'a>(
        &self,
        writes: &mut std::iter::Peekable<impl Iterator<Item = (&'a Lease, i64, Option<InstanceId>)>>,
        on: Leases,
    ) -> Result<(Vec<(&'a Lease, Arc<Instance>)>, Option<i64>), (Fault, Vec<&'a Lease>)> {
        let instance = self.holding.instance();
        let (mut written, mut past) = (Vec::new(), HashSet::new());
        let (mut transaction, mut bytes) = (TxnRequest::default(), 0);
        while let Some((lease, over, of)) = writes.next_if(|_| bytes < CHUNK_BYTES) {
            let name = &lease.registration.node.name;
            let node = self.keys.node(&instance.host, name);
            let record = encode_lease(lease, &instance, Numbered::As(lease.creation()));
            bytes += record.len() + 2 * node.len();
            transaction.compare.push(Compare::unchanged(&node, over));
            past.extend(of);
            transaction.success.push(put(&node, record, on.names));
            transaction.success.push(put(&self.keys.name(&instance.host, name), "", on.names));
            written.push((lease, Arc::clone(&instance)));
        }
        transaction.compare.extend(past.into_iter().map(|past| Compare::absent(&self.keys.daemon(past))));
        match self.connection.transact(transaction).await {
            Ok((answer, revision)) => Ok((written, answer.succeeded.then_some(revision))),
            Err(fault) => Err((fault, written.into_iter().map(|(lease, _)| lease).collect())),
        }
    }

    /// What is to be done with each of these leases.
    async fn look_at(&self, leases: &[&Lease], on: Leases) -> Result<Vec<Step>, Fault> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let instance = self.holding.instance();
        let node = |lease: &&Lease| {
            RangeRequest::key(&self.keys.node(&instance.host, &lease.registration.node.name))
        };
        let there = self.read_keys(leases.iter().map(node).collect()).await?;
        let mut steps: Vec<_> =
            leases.iter().zip(there).map(|(lease, there)| self.step_for(lease, there.as_ref(), on)).collect();
        let ask = |step: &Step| match step {
            Step::Ask { past, .. } => Some(*past),
            Step::There(_) | Step::Write { .. } | Step::Over(_) => None,
        };
        let past: HashSet<_> = steps.iter().filter_map(ask).collect();
        if past.is_empty() {
            return Ok(steps);
        }
        // Another run of this daemon holds some: those of one that is over are taken from it.
        let past: Vec<_> = past.into_iter().collect();
        let asked = past.iter().map(|past| RangeRequest::key(&self.keys.daemon(*past)).keys_only());
        let lives = self.read_keys(asked.collect()).await?;
        let over: HashSet<_> =
            past.iter().zip(lives).filter(|(_, lives)| lives.is_none()).map(|(past, _)| *past).collect();
        for step in &mut steps {
            if let Step::Ask { over: revision, past, .. } = step
                && over.contains(past)
            {
                *step = Step::Write { over: *revision, past: Some(*past) };
            }
        }
        Ok(steps)
    }

    fn step_for(&self, lease: &Lease, there: Option<&KeyValue>, on: Leases) -> Step {
        let Some(there) = there else { return Step::Write { over: 0, past: None } };
        let over = there.mod_revision;
        let instance = self.holding.instance();
        let held = match self.read_holder(there, &instance.host, &lease.registration.node.name) {
            Ok(held) => held,
            Err(unreadable) => {
                let reason = repmd_backend_remote::short(&unreadable);
                return Step::Over(Renewal::Failed { reason });
            }
        };
        let holder = &held.registration.instance;
        if held.token == lease.token {
            let is_same = **holder == *instance
                && held.registration.node == lease.registration.node
                && held.registration.advertised_port == lease.registration.advertised_port
                && held.creation() == lease.creation();
            return if there.lease == on.names && is_same {
                Step::There(over)
            } else {
                Step::Write { over, past: None }
            };
        }
        if held.is_past_of(lease, false) {
            return if holder.id == lease.token.instance {
                Step::Write { over, past: None }
            } else {
                Step::Ask { over, past: holder.id, holder: holder.name.clone() }
            };
        }
        Step::Over(Renewal::Conflict { holder: holder.name.clone() })
    }

    /// Ends what is on the daemon's lease and is not held.
    async fn end_strangers(&self, on: Leases) -> Result<(), Fault> {
        let host = self.holding.instance().host.clone();
        let there = self.time_to_live(on.names, true).await?;
        let names = there.keys.iter().filter_map(|key| self.keys.read_node(key));
        let names = names.filter(|(_, at)| *at == host).map(|(name, _)| name);
        for strangers in self.holding.strangers(names).chunks(CHUNK) {
            self.end(strangers, on).await?;
        }
        Ok(())
    }

    /// Ends names that are on the daemon's lease.
    async fn end(&self, left_out: &[LeftOut], on: Leases) -> Result<(), Fault> {
        if !self.end_step(left_out, on).await? && 1 < left_out.len() {
            // Some have another owner by now, which costs the others nothing.
            for left_out in left_out {
                self.end_step(std::slice::from_ref(left_out), on).await?;
            }
        }
        for LeftOut { name, token } in left_out {
            self.holding.drop_name(name, *token);
        }
        Ok(())
    }

    async fn end_step(&self, left_out: &[LeftOut], on: Leases) -> Result<bool, Fault> {
        let host = self.holding.instance().host.clone();
        let mut ended = TxnRequest::default();
        for LeftOut { name, .. } in left_out {
            let node = self.keys.node(&host, name);
            ended.compare.push(Compare::leased(&node, on.names));
            ended.success.extend([delete(&node), delete(&self.keys.name(&host, name))]);
        }
        Ok(self.connection.transact(ended).await?.0.succeeded)
    }

    /// See [`RegistryBackend::release`](repmd_backend_api::RegistryBackend::release).
    pub(crate) async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        let started = Instant::now();
        self.holding.release(lease);
        self.try_to_release(lease)
            .await
            .map_err(|fault| fault.when(started, || format!("release {}", lease.registration.node_name())))
    }

    async fn try_to_release(&self, lease: &Lease) -> Result<(), Fault> {
        let name = &lease.registration.node_name();
        let node = self.keys.node(&name.host, &name.alive);
        // Something that is never so, where nothing is known.
        let mut revision = self.holding.revision(lease).unwrap_or(-1);
        for _ in 0..TRIES {
            let step = TxnRequest {
                compare: vec![Compare::unchanged(&node, revision)],
                success: vec![delete(&node), delete(&self.keys.name(&name.host, &name.alive))],
                failure: vec![get(RangeRequest::key(&node))],
            };
            let (answer, _) = self.connection.transact(step).await?;
            if !answer.succeeded
                && let Some(there) = first(answer.ranges().next())
                && self
                    .read_holder(&there, &name.host, &name.alive)
                    .is_ok_and(|held| held.token == lease.token)
            {
                revision = there.mod_revision;
                continue;
            }
            self.holding.drop_name(&name.alive, Some(lease.token));
            return Ok(());
        }
        Err(Fault::Raced { tries: TRIES })
    }

    /// See [`RegistryBackend::retire`](repmd_backend_api::RegistryBackend::retire).
    pub(crate) async fn retire(&self) -> Result<(), BackendError> {
        let (started, instance) = (Instant::now(), self.holding.instance());
        self.holding.set_standing(None);
        // From now on others may take its names: should it go on after all, it looks at each.
        self.holding.doubt();
        let ended = TxnRequest {
            success: vec![delete(&self.keys.daemon(instance.id)), delete(&self.keys.note(instance.id))],
            ..TxnRequest::default()
        };
        let retired = self.connection.transact(ended).await;
        retired.map(drop).map_err(|fault| fault.when(started, || format!("retire {}", instance.name)))
    }

    /// See [`RegistryBackend::leave_note`](repmd_backend_api::RegistryBackend::leave_note).
    pub(crate) async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        let started = Instant::now();
        let instance = self.holding.instance();
        let left = self.try_to_leave_note(instance.id, note).await;
        left.map_err(|fault| fault.when(started, || format!("leave the note of {}", instance.name)))
    }

    async fn try_to_leave_note(&self, id: InstanceId, note: &[u8]) -> Result<(), Fault> {
        for _ in 0..TRIES {
            let lease = self.note_lease().await?;
            let left =
                TxnRequest { success: vec![put(&self.keys.note(id), note, lease)], ..TxnRequest::default() };
            match self.connection.transact(left).await {
                Err(fault) if fault.is_lost_lease() => self.lose_note_lease().await,
                left => return left.map(drop),
            }
        }
        Err(Fault::Raced { tries: TRIES })
    }
}
