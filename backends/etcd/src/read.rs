//! Reading what all daemons have in the store.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use repmd_backend_api::{
    AliveName, BackendError, Found, HostId, Instance, NOTE_BYTES_MAX, Note, Registration, Scope, Search, Seen,
};
use repmd_backend_remote::Daemons;

use crate::claim::first;
use crate::error::Fault;
use crate::keys::read_id;
use crate::proto::{KeyValue, LeaseTimeToLiveResponse, RangeRequest, RangeResponse, TxnRequest, get};
use crate::record::{Unreadable, decode_instance};
use crate::store::{STEPS_MAX, Store};

/// The most keys of one answer. Where their values are long, answers have fewer.
const PAGE: usize = 2000;

/// Notes of one answer: each may have a quarter of a MiB.
const NOTES: usize = 12;

/// The most keys below one prefix that are read, and bytes of what is there. Whoever writes more wants no registry.
const KEYS_MAX: usize = 500_000;
const BYTES_MAX: usize = 64 << 20;

/// Questions of a list that are on their way at once.
const READS_MAX: usize = 4;

/// Questions for leases that are on their way at once: these are answered from the leader's memory.
const LEASES_MAX: usize = 32;

/// The most registrations of a name that are looked at beyond those that are wanted, where some cannot be read.
const UNREADABLE_MAX: usize = 64;

/// A registration, and the lease that it is on.
type OnLease = (Arc<Registration>, i64);

impl Store {
    /// See [`RegistryBackend::find`](repmd_backend_api::RegistryBackend::find).
    pub(crate) async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let started = Instant::now();
        let found = async {
            let found = match search.scope {
                Scope::Host(host) => self.find_on(host, search).await?,
                Scope::Cluster => self.find_anywhere(search).await?,
            };
            self.with_ends(found).await
        };
        found.await.map_err(|fault| fault.when(started, || format!("find {}", search.name)))
    }

    async fn find_on(&self, host: &HostId, search: &Search<'_>) -> Result<Seen<OnLease>, Fault> {
        let (name, mut seen) = (search.name, Seen::default());
        let question = TxnRequest {
            success: vec![
                get(RangeRequest::key(&self.keys.node(host, name))),
                get(RangeRequest::prefix(&self.keys.aliased(host), PAGE).keys_only()),
            ],
            ..TxnRequest::default()
        };
        let (answer, _) = self.connection.transact(question).await?;
        let mut answers = answer.ranges();
        if let Some(there) = first(answers.next()) {
            self.add_node(&mut seen, &there);
        }
        let aliased = answers.next().unwrap_or_default();
        let mut keys: Vec<_> = aliased.kvs.into_iter().map(|kv| kv.key).collect();
        if aliased.more {
            keys = self
                .pages(&self.keys.aliased(host), PAGE, true, &mut seen)
                .await?
                .into_iter()
                .map(|kv| kv.key)
                .collect();
        }
        let hosts: BTreeSet<_> = keys.iter().filter_map(|key| self.keys.read_alias(host, key)).collect();
        let hosts: Vec<_> = hosts.into_iter().filter(|other| other != host).collect();
        for hosts in hosts.chunks(STEPS_MAX) {
            if search.most <= seen.items.len() {
                break;
            }
            let asked = hosts.iter().map(|host| RangeRequest::key(&self.keys.node(host, name)));
            for there in self.read_keys(asked.collect()).await?.into_iter().flatten() {
                self.add_node(&mut seen, &there);
            }
            // Not every host that had this alias has it still.
            seen.items.retain(|(found, _)| search.scope.covers(&found.instance));
        }
        seen.items.truncate(search.most);
        Ok(seen)
    }

    async fn find_anywhere(&self, search: &Search<'_>) -> Result<Seen<OnLease>, Fault> {
        let mut seen = Seen::default();
        let (own, named) = (self.keys.node(search.near, search.name), self.keys.named(search.name));
        let limit = search.most.min(PAGE);
        let question = TxnRequest {
            success: vec![get(RangeRequest::key(&own)), get(RangeRequest::prefix(&named, limit))],
            ..TxnRequest::default()
        };
        let (own, named_first) = match self.connection.transact(question).await {
            Ok((answer, _)) => {
                let mut answers = answer.ranges();
                (first(answers.next()), answers.next().unwrap_or_default())
            }
            // In shorter answers, below.
            Err(fault) if fault.is_too_long() => {
                (None, RangeResponse { more: true, ..RangeResponse::default() })
            }
            Err(fault) => return Err(fault),
        };
        let after = named_first.kvs.last().map(|kv| kv.key.clone()).unwrap_or_default();
        let mut looked_at = BTreeSet::new();
        let mut look_at = |page: Vec<KeyValue>| {
            for there in page.into_iter().filter(|there| looked_at.insert(there.key.clone())) {
                self.add_node(&mut seen, &there);
            }
            seen.items.len() < search.most && looked_at.len() <= search.most.saturating_add(UNREADABLE_MAX)
        };
        if look_at(own.into_iter().chain(named_first.kvs).collect()) && named_first.more {
            let limit = limit.max(UNREADABLE_MAX);
            self.each_page(&named, after, limit, false, |page, _| look_at(page)).await?;
        }
        seen.items.truncate(search.most);
        Ok(seen)
    }

    /// See [`RegistryBackend::list`](repmd_backend_api::RegistryBackend::list).
    pub(crate) async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let started = Instant::now();
        let listed = async {
            let mut seen = Seen::default();
            match scope {
                Scope::Cluster => {
                    let (prefix, mut daemons) = (self.keys.nodes(), Daemons::default());
                    let take = |page: Vec<KeyValue>, more| {
                        let before = seen.items.len();
                        page.iter().for_each(|there| self.add_node(&mut seen, there));
                        for (registration, _) in &mut seen.items[before..] {
                            daemons.share(&mut Arc::make_mut(registration).instance);
                        }
                        let is_too_large = more && KEYS_MAX <= seen.items.len() + seen.unreadable;
                        if is_too_large {
                            seen.add(|| prefix.clone(), Err(Unreadable::TooLarge));
                        }
                        !is_too_large
                    };
                    self.each_page(&prefix, Vec::new(), PAGE, false, take).await?;
                }
                Scope::Host(host) => {
                    let aliased = self.pages(&self.keys.aliased(host), PAGE, true, &mut seen).await?;
                    let aliased = aliased.iter().filter_map(|kv| self.keys.read_alias(host, &kv.key));
                    let hosts: BTreeSet<_> = aliased.chain([host.clone()]).collect();
                    for host in hosts {
                        self.list_host(&host, &mut seen).await?;
                    }
                    seen.items.retain(|(found, _): &OnLease| scope.covers(&found.instance));
                }
            }
            self.with_ends(seen).await
        };
        listed.await.map_err(|fault: Fault| fault.when(started, || "list names".to_owned()))
    }

    /// First the names, then what is behind them: no registration ever changes its host or its name, so none is missed
    /// or seen twice.
    async fn list_host(&self, host: &HostId, seen: &mut Seen<OnLease>) -> Result<(), Fault> {
        let keys = self.pages(&self.keys.names(host), PAGE, true, seen).await?;
        let mut names = Seen::default();
        for kv in keys {
            let name = self.keys.read_name(host, &kv.key).ok_or(Unreadable::Key);
            names.add(|| text(&kv.key), name);
        }
        seen.append(names.clone().with(Vec::new()));
        let asked = |names: &[AliveName]| {
            names.iter().map(|name| RangeRequest::key(&self.keys.node(host, name))).collect::<Vec<_>>()
        };
        let reads: Vec<_> = names.items.chunks(STEPS_MAX).map(|names| self.read_keys(asked(names))).collect();
        let mut reads = stream::iter(reads).buffer_unordered(READS_MAX);
        while let Some(there) = reads.try_next().await? {
            there.iter().flatten().for_each(|there| self.add_node(seen, there));
        }
        Ok(())
    }

    /// See [`RegistryBackend::daemons`](repmd_backend_api::RegistryBackend::daemons).
    pub(crate) async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        let started = Instant::now();
        let prefix = self.keys.daemons();
        let mut seen = Seen::default();
        let there = self.pages(&prefix, PAGE, false, &mut seen).await;
        let there = there.map_err(|fault| fault.when(started, || "list daemons".to_owned()))?;
        for kv in there {
            seen.add(|| text(&kv.key), read_daemon(&prefix, &kv));
        }
        seen.items.retain(|instance| scope.covers(instance));
        Ok(seen)
    }

    /// See [`RegistryBackend::notes`](repmd_backend_api::RegistryBackend::notes).
    pub(crate) async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        let (started, prefix, daemons) = (Instant::now(), self.keys.notes(), self.keys.daemons());
        let mut seen = Seen::default();
        let read = async {
            let notes = self.pages(&prefix, NOTES, false, &mut seen).await?;
            // Read after the notes: a daemon that has gone meanwhile has none.
            Ok((notes, self.pages(&daemons, PAGE, true, &mut seen).await?))
        };
        let (notes, alive) =
            read.await.map_err(|fault: Fault| fault.when(started, || "read notes".to_owned()))?;
        let alive: BTreeSet<_> = alive.iter().filter_map(|kv| read_id(&daemons, &kv.key)).collect();
        for kv in notes {
            let note = read_note(&prefix, &kv);
            if note.as_ref().is_ok_and(|note| !alive.contains(&note.instance)) {
                continue;
            }
            seen.add(|| text(&kv.key), note);
        }
        Ok(seen)
    }

    pub(crate) fn add_node(&self, seen: &mut Seen<OnLease>, there: &KeyValue) {
        let read = || {
            let (name, host) = self.keys.read_node(&there.key).ok_or(Unreadable::Key)?;
            if there.value.is_empty() && there.lease != 0 {
                return Err(Unreadable::TooLarge);
            }
            Ok((self.read_holder(there, &host, &name)?.registration, there.lease))
        };
        seen.add(|| text(&there.key), read());
    }

    /// Says how long each of what was found lives on, as the leader of the store has it.
    async fn with_ends(&self, mut seen: Seen<OnLease>) -> Result<Seen<Found>, Fault> {
        let found = std::mem::take(&mut seen.items);
        let asked: BTreeSet<_> = found.iter().map(|(_, lease)| *lease).collect();
        let left = asked.into_iter().map(async |lease| Ok::<_, Fault>((lease, self.left(lease).await?)));
        let left: HashMap<_, _> = stream::iter(left).buffer_unordered(LEASES_MAX).try_collect().await?;
        let with_end =
            |(registration, lease): OnLease| Found { registration, left: left.get(&lease).copied() };
        Ok(seen.with(found.into_iter().map(with_end).collect()))
    }

    async fn left(&self, lease: i64) -> Result<Duration, Fault> {
        if let Some(renewed) = self.holding.renewed(lease) {
            return Ok(self.times.lease_ttl().saturating_sub(renewed.elapsed()));
        }
        Ok(left_of(&self.time_to_live(lease, false).await?))
    }

    /// Reads keys at once. What is too long for an answer is there, without a value.
    pub(crate) async fn read_keys(&self, keys: Vec<RangeRequest>) -> Result<Vec<Option<KeyValue>>, Fault> {
        let mut there = Vec::with_capacity(keys.len());
        let mut left = vec![&keys[..]];
        while let Some(keys) = left.pop() {
            if STEPS_MAX < keys.len() {
                let (now, later) = keys.split_at(STEPS_MAX);
                left.extend([later, now]);
                continue;
            }
            let question =
                TxnRequest { success: keys.iter().cloned().map(get).collect(), ..TxnRequest::default() };
            match (self.connection.transact(question).await, keys) {
                (Ok((answer, _)), keys) => {
                    let mut answers = answer.ranges();
                    there.extend(keys.iter().map(|_| first(answers.next())));
                }
                (Err(fault), [key]) if fault.is_too_long() => {
                    let answer = self.connection.range(key.clone().keys_only()).await?;
                    there.push(answer.kvs.into_iter().next());
                }
                (Err(fault), keys) if fault.is_too_long() => {
                    let (now, later) = keys.split_at(keys.len() / 2);
                    left.extend([later, now]);
                }
                (Err(fault), _) => return Err(fault),
            }
        }
        Ok(there)
    }

    /// All keys that start with `prefix`, or so many that `seen` takes note of the rest as of what cannot be read.
    async fn pages<T>(
        &self,
        prefix: &str,
        limit: usize,
        keys_only: bool,
        seen: &mut Seen<T>,
    ) -> Result<Vec<KeyValue>, Fault> {
        let (mut all, mut bytes) = (Vec::new(), 0);
        let take = |page: Vec<KeyValue>, more| {
            bytes += page.iter().map(|kv| kv.key.len() + kv.value.len()).sum::<usize>();
            all.extend(page);
            let is_too_large = more && (KEYS_MAX <= all.len() || BYTES_MAX <= bytes);
            if is_too_large {
                seen.add(|| prefix.to_owned(), Err(Unreadable::TooLarge));
            }
            !is_too_large
        };
        self.each_page(prefix, Vec::new(), limit, keys_only, take).await?;
        Ok(all)
    }

    /// Gives `take` the keys that start with `prefix` and come after `after`, page by page, and whether more follow,
    /// for as long as it wants more.
    async fn each_page(
        &self,
        prefix: &str,
        mut after: Vec<u8>,
        limit: usize,
        keys_only: bool,
        mut take: impl FnMut(Vec<KeyValue>, bool) -> bool,
    ) -> Result<(), Fault> {
        loop {
            let (page, more) = self.page(prefix, &after, limit, keys_only).await?;
            if let Some(last) = page.last() {
                after.clone_from(&last.key);
            }
            if !take(page, more) || !more {
                return Ok(());
            }
        }
    }

    /// The next keys after one, in their order, and whether more follow. What is too long for an answer is there,
    /// without a value.
    async fn page(
        &self,
        prefix: &str,
        after: &[u8],
        limit: usize,
        keys_only: bool,
    ) -> Result<(Vec<KeyValue>, bool), Fault> {
        let (mut limit, mut keys_only) = (limit.max(1), keys_only);
        loop {
            let mut range = RangeRequest { keys_only, ..RangeRequest::prefix(prefix, limit) };
            if !after.is_empty() {
                range.key = [after, b"\0"].concat();
            }
            match self.connection.range(range).await {
                Ok(answer) => {
                    // A page that is empty is the last one, whatever the store says.
                    let more = answer.more && !answer.kvs.is_empty();
                    return Ok((answer.kvs, more));
                }
                Err(fault) if fault.is_too_long() && 1 < limit => limit = (limit / 8).max(1),
                Err(fault) if fault.is_too_long() && !keys_only => keys_only = true,
                Err(fault) => return Err(fault),
            }
        }
    }
}

pub(crate) fn left_of(answer: &LeaseTimeToLiveResponse) -> Duration {
    // The second that is under way counts. Around a change of the leader, etcd may say any number.
    let seconds = answer.ttl.saturating_add(1).clamp(0, answer.granted_ttl.max(0));
    Duration::from_secs(seconds.unsigned_abs())
}

pub(crate) fn read_daemon(prefix: &str, kv: &KeyValue) -> Result<Arc<Instance>, Unreadable> {
    let id = read_id(prefix, &kv.key).ok_or(Unreadable::Key)?;
    if kv.lease == 0 {
        return Err(Unreadable::Endless);
    }
    Ok(Arc::new(decode_instance(id, &kv.value)?))
}

pub(crate) fn read_note(prefix: &str, kv: &KeyValue) -> Result<Note, Unreadable> {
    let instance = read_id(prefix, &kv.key).ok_or(Unreadable::Key)?;
    if NOTE_BYTES_MAX < kv.value.len() {
        return Err(Unreadable::Note { bytes: kv.value.len(), most: NOTE_BYTES_MAX });
    }
    if kv.lease == 0 {
        return Err(Unreadable::Endless);
    }
    Ok(Note { instance, text: kv.value.clone().into() })
}

/// A key, for people.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
