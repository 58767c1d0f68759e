//! The shared registry: one Redis or Valkey behind many daemons.
//!
//! Each verb is one Lua script, so each is one atomic step, and one round trip. The store's clock alone
//! decides what has expired. Redis 6.0 is the oldest that works: pushes over the same connection came with
//! it.
//!
//! | module | noun |
//! |---|---|
//! | [`settings`] | where the store is and how to get in, as one URL |
//! | `connection` | the way to the primary, kept open |
//! | `dial` | one connection, from an address to the login |
//! | `reply` | how large a reply may be |
//! | `primary` | which server that is, by Sentinel or in a Redis Cluster |
//! | `inspect` | how the store is, for people who look for faults |
//! | `keys` | the names of what is in the store |
//! | `record` | how registrations and daemons are written down |
//! | `renewals` | leases that are renewed without a script |
//! | `watch` | what the scripts publish |
//! | `error` | what went wrong, and which [`BackendError`] that is |

mod connection;
mod dial;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inspect;
mod keys;
mod kind;
mod primary;
mod record;
mod renewals;
mod reply;
pub mod settings;
mod watch;

use std::fmt;
use std::iter::zip;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{try_join, try_join_all};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use redis::{Script, ScriptInvocation};
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Creation, Found, Holdings, HostId, Instance, Lease, NameError,
    NodeName, Note, Promises, Registration, RegistryBackend, Renewal, Renewed, Scope, Search, Seen, liveness,
};
use repmd_backend_remote::{Daemons, short};

use connection::{Connection, Lane};
pub use inspect::TROUBLES;
use keys::Keys;
pub use kind::RedisKind;
use record::Unreadable;
use renewals::{Extendable, Written, are_extended, look_and_extend};
pub use settings::{Settings, SettingsError};

/// Registrations that one run of a script renews or reads. The store does nothing else meanwhile: some
/// hundred microseconds.
const BATCH: usize = 100;

/// Registrations that one call renews, in batches that are on their way at once: the thread that renews also serves the
/// wire.
const RENEWALS_MAX: usize = 500;

/// Batches of a list that are on their way at once: reading them takes this thread as long as the store.
const READS_MAX: usize = 4;

/// One daemon's handle to a registry in Redis or Valkey.
pub struct Redis {
    connection: Arc<Connection>,
    /// The daemon, as it last said.
    instance: RwLock<Arc<Instance>>,
    extendable: Extendable,
    keys: Keys,
    scripts: Scripts,
    settings: Arc<Settings>,
}

struct Scripts {
    register: Script,
    renew: Script,
    release: Script,
    retire: Script,
    find: Script,
    names: Script,
    read: Script,
    daemons: Script,
    note: Script,
    notes: Script,
}

/// An entry that was found: what it is called within its key, its value, and the milliseconds left to it.
type Entry = (Vec<u8>, Vec<u8>, i64);

/// A key, and what is wrong with what is there.
type Problem = (Vec<u8>, Vec<u8>);

impl Redis {
    /// A handle for `instance` to a registry whose store is, or will be, where `settings` say. Does not wait for it:
    /// until it is reached, and whenever it is away, calls fail with [`BackendError::Unavailable`] or
    /// [`BackendError::Denied`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, where a task could not keep the connections.
    #[must_use]
    pub fn open(settings: Settings, instance: Arc<Instance>) -> Self {
        let settings = Arc::new(settings);
        let keys = Keys::new(&settings.cluster);
        let connection = Arc::new(Connection::open(Arc::clone(&settings), &keys));
        let extendable = Extendable::new(settings.lease_ttl);
        Self {
            connection,
            instance: RwLock::new(instance),
            extendable,
            keys,
            scripts: Scripts::new(),
            settings,
        }
    }

    fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.instance.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn start<'a>(&self, script: &'a Script) -> ScriptInvocation<'a> {
        script.key(self.keys.prefix())
    }

    /// What the scripts are told of a daemon: its id, itself, its host and aliases.
    fn tell_instance(&self, script: &mut ScriptInvocation<'_>, instance: &Instance) {
        script.arg(instance.id.to_string()).arg(record::encode_instance(instance));
        script.arg(instance.host.as_str()).arg(join_aliases(instance));
    }

    /// Renews by the script, in batches that are on their way at once. Without leases the daemon still counts as alive.
    async fn write_all(&self, leases: &[&Written<'_>]) -> Result<Vec<Renewal>, BackendError> {
        if leases.is_empty() {
            return self.write_some(leases).await;
        }
        Ok(try_join_all(leases.chunks(BATCH).map(|leases| self.write_some(leases))).await?.concat())
    }

    async fn write_some(&self, leases: &[&Written<'_>]) -> Result<Vec<Renewal>, BackendError> {
        let daemon = self.instance();
        let mut script = self.start(&self.scripts.renew);
        self.tell_instance(&mut script, &daemon);
        script.arg(millis(liveness(self.settings.lease_ttl))).arg(millis(self.settings.lease_ttl));
        for Written { lease, value, .. } in leases {
            script.arg(lease.registration.node.name.as_str()).arg(value);
        }
        let answers: Vec<Option<Vec<u8>>> =
            self.connection.run(Lane::Bulk, &script).await.map_err(|failure| {
                failure.when(|| format!("renew {} names of {}", leases.len(), daemon.name))
            })?;
        Ok(answers.into_iter().map(read_renewal).collect())
    }

    /// Which of `leases` are there as they were, and last longer.
    async fn extend(&self, leases: &[Written<'_>]) -> Result<Vec<bool>, BackendError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let commands = look_and_extend(leases, millis(self.settings.lease_ttl));
        let answers = self.connection.run_each(Lane::Bulk, &commands).await;
        let answers =
            answers.map_err(|failure| failure.when(|| format!("extend {} leases", leases.len())))?;
        Ok(are_extended(leases, &answers))
    }

    fn write<'a>(&self, lease: &'a Lease) -> Written<'a> {
        let Registration { node, instance, .. } = &*lease.registration;
        let key = self.keys.node(&instance.host, node.name.as_str());
        Written { lease, key, value: record::encode_lease(lease) }
    }

    async fn read_some(&self, host: &HostId, names: &[Vec<u8>]) -> Result<Seen<Found>, BackendError> {
        let mut script = self.start(&self.scripts.read);
        script.arg(host.as_str()).arg(names);
        let entries: Vec<Entry> = self
            .connection
            .run(Lane::Bulk, &script)
            .await
            .map_err(|failure| failure.when(|| format!("list {host}")))?;
        let mut seen = Seen::default();
        for entry in &entries {
            let registration = AliveName::parse(&entry.0).map_err(Unreadable::from);
            let registration = registration.and_then(|name| read(host, &name, entry));
            seen.add(|| self.keys.node(host, &String::from_utf8_lossy(&entry.0)), registration);
        }
        Ok(seen)
    }

    fn read_lease(&self, host: &HostId, name: &AliveName, value: &[u8]) -> Result<Lease, BackendError> {
        record::decode_lease_at(value, host, name).map_err(|error| BackendError::Corrupt {
            key: self.keys.node(host, name.as_str()),
            source: short(&error).into(),
        })
    }
}

/// What the script says of one lease.
fn read_renewal(answer: Option<Vec<u8>>) -> Renewal {
    match answer.as_deref() {
        None => Renewal::Held,
        Some([b'c', holder @ ..]) => Renewal::Conflict { holder: record::decode_holder(holder) },
        Some([_, reason @ ..]) => Renewal::Failed { reason: record::decode_reason(reason) },
        Some([]) => Renewal::Failed { reason: String::new() },
    }
}

/// A registration that was found.
fn read(host: &HostId, name: &AliveName, (_, value, left): &Entry) -> Result<Found, Unreadable> {
    let left = Some(time_left(*left)?);
    let registration = record::decode_lease_at(value, host, name)?.registration;
    Ok(Found { registration, left })
}

/// Nothing of ours is without an end, and what has none would be believed for ever.
fn time_left(milliseconds: i64) -> Result<Duration, Unreadable> {
    milliseconds.try_into().map(Duration::from_millis).map_err(|_| Unreadable::Endless)
}

/// Takes note of what the scripts could not read.
fn note<T>(seen: &mut Seen<T>, problems: &[Problem]) {
    for (key, reason) in problems {
        let text = |bytes| String::from_utf8_lossy(bytes);
        seen.add(|| text(key).into_owned(), Err(text(reason)));
    }
}

/// A host, as it is written in an index.
fn read_host(text: &[u8]) -> Result<HostId, Unreadable> {
    let text = std::str::from_utf8(text).map_err(|_| NameError::NotUtf8)?;
    Ok(HostId::parse(text)?)
}

/// A daemon that was found.
fn read_daemon((id, value, left): &Entry) -> Result<Arc<Instance>, Unreadable> {
    time_left(*left)?;
    let id = std::str::from_utf8(id).map_err(|_| Unreadable::Version)?;
    Ok(Arc::new(record::decode_instance(record::decode_id(id)?, value)?))
}

impl Scripts {
    fn new() -> Self {
        let script = |code: &str| Script::new(&format!("{}{code}", include_str!("scripts/prelude.lua")));
        Self {
            register: script(include_str!("scripts/register.lua")),
            renew: script(include_str!("scripts/renew.lua")),
            release: script(include_str!("scripts/release.lua")),
            retire: script(include_str!("scripts/retire.lua")),
            find: script(include_str!("scripts/find.lua")),
            names: script(include_str!("scripts/names.lua")),
            read: script(include_str!("scripts/read.lua")),
            daemons: script(include_str!("scripts/daemons.lua")),
            note: script(include_str!("scripts/note.lua")),
            notes: script(include_str!("scripts/notes.lua")),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the scripts: they are long, and the same everywhere.
        f.debug_struct("Redis").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Redis {
    fn promises(&self) -> Promises {
        Promises::leases(self.settings.lease_ttl)
    }

    fn update(&self, instance: Arc<Instance>) {
        *self.instance.write().unwrap_or_else(PoisonError::into_inner) = instance;
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        let (node, instance) = (&claim.node, &self.instance());
        let node_name = || NodeName { alive: node.name.clone(), host: instance.host.clone() };
        let mut script = self.start(&self.scripts.register);
        script
            .arg(node.name.as_str())
            .arg(claim.token(instance.id).to_string())
            .arg(record::encode_holder(instance));
        script.arg(record::encode_body(node, claim.advertised_port, claim.registered_at, instance));
        script.arg(claim.last.map_or(0, Creation::get));
        self.tell_instance(&mut script, instance);
        script.arg(millis(liveness(self.settings.lease_ttl))).arg(millis(self.settings.lease_ttl));
        let (outcome, value): (String, Vec<u8>) = self
            .connection
            .run(Lane::Quick, &script)
            .await
            .map_err(|failure| failure.when(|| format!("register {}", node_name())))?;
        let stored = self.read_lease(&instance.host, &node.name, &value);
        match outcome.as_str() {
            "held" => stored.inspect(|lease| self.extendable.note(lease, true)),
            "taken" => {
                let holder = record::decode_holder(&value);
                Err(BackendError::NameTaken { name: node_name(), holder })
            }
            _ => {
                let (key, source) =
                    (self.keys.node(&instance.host, node.name.as_str()), Unreadable::Version.into());
                Err(stored.err().unwrap_or(BackendError::Corrupt { key, source }))
            }
        }
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        let leases = held.take(RENEWALS_MAX);
        self.publish(&leases).await
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        let all = leases.iter().map(|lease| self.write(lease));
        let (extendable, others): (Vec<_>, Vec<_>) =
            all.partition(|written| self.extendable.has(written.lease));
        let mut unsure: Vec<_> = others.iter().collect();
        let (are_extended, mut renewals) =
            try_join(self.extend(&extendable), self.write_all(&unsure)).await?;
        let (held, lost): (Vec<_>, Vec<_>) =
            zip(&extendable, are_extended).partition(|(_, is_extended)| *is_extended);
        if !lost.is_empty() {
            let lost: Vec<_> = lost.into_iter().map(|(written, _)| written).collect();
            renewals.extend(self.write_all(&lost).await?);
            unsure.extend(lost);
        }
        let held = held.into_iter().map(|(written, _)| (written, Renewal::Held));
        let renewed = held.chain(zip(unsure, renewals)).map(|(Written { lease, .. }, renewal)| {
            self.extendable.note(lease, renewal == Renewal::Held);
            Renewed { lease: (*lease).clone(), renewal }
        });
        Ok(renewed.collect())
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        self.extendable.note(lease, false);
        let Registration { node, instance, .. } = &*lease.registration;
        let mut script = self.start(&self.scripts.release);
        script.arg(instance.host.as_str()).arg(node.name.as_str()).arg(lease.token.to_string());
        let ended = self.connection.run(Lane::Quick, &script).await;
        ended.map_err(|failure| failure.when(|| format!("release {}", lease.registration.node_name())))
    }

    async fn retire(&self) -> Result<(), BackendError> {
        let instance = self.instance();
        let mut script = self.start(&self.scripts.retire);
        script.arg(instance.id.to_string()).arg(instance.host.as_str());
        let retired = self.connection.run(Lane::Quick, &script).await;
        retired.map_err(|failure| failure.when(|| format!("retire {}", instance.name)))
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let Search { name, scope, near, most } = search;
        let mut script = self.start(&self.scripts.find);
        script.arg(name.as_str()).arg(host_of(scope)).arg(near.as_str()).arg(*most);
        let (entries, problems): (Vec<Entry>, Vec<Problem>) = self
            .connection
            .run(Lane::Quick, &script)
            .await
            .map_err(|failure| failure.when(|| format!("find {name}")))?;
        let mut seen = Seen::default();
        note(&mut seen, &problems);
        for entry in &entries {
            let found = read_host(&entry.0).and_then(|host| read(&host, name, entry));
            seen.add(|| self.keys.node(String::from_utf8_lossy(&entry.0), name.as_str()), found);
        }
        seen.items.retain(|found| scope.covers(&found.registration.instance));
        seen.items.truncate(*most);
        Ok(seen)
    }

    /// First the names, then what is behind them: no registration ever changes its host or its name, so
    /// none is missed or seen twice. No node waits for a list.
    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let mut script = self.start(&self.scripts.names);
        script.arg(host_of(scope));
        let (names, problems): (Vec<(Vec<u8>, Vec<Vec<u8>>)>, Vec<Problem>) = self
            .connection
            .run(Lane::Bulk, &script)
            .await
            .map_err(|failure| failure.when(|| "list names".to_owned()))?;
        let mut seen = Seen::default();
        note(&mut seen, &problems);
        let mut batches = Vec::new();
        for (host, names) in &names {
            match read_host(host) {
                Ok(host) => batches.extend(names.chunks(BATCH).map(|names| (host.clone(), names))),
                Err(unreadable) => seen.add(|| self.keys.hosts(), Err(unreadable)),
            }
        }
        let reads: Vec<_> = batches.iter().map(|(host, names)| self.read_some(host, names)).collect();
        let mut batches = stream::iter(reads).buffer_unordered(READS_MAX);
        let mut daemons = Daemons::default();
        while let Some(mut batch) = batches.try_next().await? {
            for found in &mut batch.items {
                daemons.share(&mut Arc::make_mut(&mut found.registration).instance);
            }
            seen.append(batch);
        }
        seen.items.retain(|found| scope.covers(&found.registration.instance));
        Ok(seen)
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        let mut script = self.start(&self.scripts.daemons);
        script.arg(host_of(scope));
        let (entries, problems): (Vec<Entry>, Vec<Problem>) = self
            .connection
            .run(Lane::Quick, &script)
            .await
            .map_err(|failure| failure.when(|| "list daemons".to_owned()))?;
        let mut seen = Seen::default();
        note(&mut seen, &problems);
        for entry in &entries {
            seen.add(|| self.keys.instance(&String::from_utf8_lossy(&entry.0)), read_daemon(entry));
        }
        seen.items.retain(|instance| scope.covers(instance));
        Ok(seen)
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        let instance = self.instance();
        let mut script = self.start(&self.scripts.note);
        script.arg(instance.id.to_string()).arg(note).arg(millis(liveness(self.settings.lease_ttl)));
        let left = self.connection.run(Lane::Bulk, &script).await;
        left.map_err(|failure| failure.when(|| format!("leave the note of {}", instance.name)))
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        let script = self.start(&self.scripts.notes);
        let (notes, problems): (Vec<(Vec<u8>, Vec<u8>)>, Vec<Problem>) = self
            .connection
            .run(Lane::Bulk, &script)
            .await
            .map_err(|failure| failure.when(|| "read notes".to_owned()))?;
        let mut seen = Seen::default();
        note(&mut seen, &problems);
        for (id, text) in notes {
            let at = || self.keys.note(&String::from_utf8_lossy(&id));
            let instance = std::str::from_utf8(&id).map_err(|_| Unreadable::Version);
            let instance = instance.and_then(record::decode_id);
            seen.add(at, instance.map(|instance| Note { instance, text: text.into() }));
        }
        Ok(seen)
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        Arc::clone(&self.connection).changes()
    }

    fn local_address(&self) -> Option<IpAddr> {
        self.connection.local_address()
    }
}

/// The host that a scope is limited to; empty for none.
fn host_of(scope: &Scope) -> &str {
    match scope {
        Scope::Host(host) => host.as_str(),
        Scope::Cluster => "",
    }
}

/// The aliases that lead to other hosts' names. No host has a space in it.
fn join_aliases(instance: &Instance) -> String {
    let aliases = instance.aliases.iter().filter(|alias| **alias != instance.host);
    aliases.map(HostId::as_str).collect::<Vec<_>>().join(" ")
}

/// Whole milliseconds; Redis takes no expiry of 0.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
