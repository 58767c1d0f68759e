//! The shared registry: one PostgreSQL database behind many daemons.
//!
//! Each verb is one function of the database, so each is one transaction, and one round trip. The store's clock
//! alone decides what has run out. A renewal is one row, whatever the number of names: the store answers how many it
//! knows of the daemon and a sum over them, and only where these are not what they should be are the names sent.
//!
//! | module | noun |
//! |---|---|
//! | [`settings`] | where the store is and how to get in, as one URL |
//! | `connection` | the way to the primary, kept open |
//! | `dial` | one connection, from an address to the login |
//! | `reply` | how large a message may be |
//! | `schema` | the tables and functions, and their versions |
//! | `inspect` | how the store is, for people who look for faults |
//! | `record` | how registrations and daemons are written down |
//! | `calls` | which registrations are in doubt while others are renewed |
//! | `watch` | what the functions tell |
//! | `error` | what went wrong, and which [`BackendError`] that is |

mod calls;
mod connection;
mod dial;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod inspect;
mod kind;
mod record;
mod reply;
mod schema;
#[cfg(any(test, feature = "fuzzing"))]
mod scripted;
pub mod settings;
mod watch;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::try_join;
use futures_util::poll;
use futures_util::stream::BoxStream;
use repmd_backend_api::{
    AliveName, BackendError, Change, Claim, Found, Holdings, HostId, Instance, InstanceId, Lease,
    NOTE_BYTES_MAX, NodeName, Note, Promises, Registration, RegistryBackend, Renewal, Renewed, Scope, Search,
    Seen, liveness,
};
use repmd_backend_remote::short;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use calls::{Calls, Round};
use connection::{Connection, Lane};
use error::Failure;
pub use inspect::TROUBLES;
pub use kind::PostgresKind;
use record::{Digest, Registered, Told, Unreadable};
pub use schema::script;
pub use settings::{Settings, SettingsError};

/// Registrations that one statement publishes: others of the same host wait for it.
const BATCH: usize = 500;

/// Rows of one list: registrations, and daemons or notes.
const NAMES_MAX: i64 = 500_000;
const DAEMONS_MAX: i64 = 16_384;

/// How long a sweep may take, or telling a change: nobody waits for it.
const SWEEP: Duration = Duration::from_secs(5);

/// A registry in PostgreSQL.
pub struct Postgres {
    connection: Arc<Connection>,
    settings: Arc<Settings>,
    instance: RwLock<Arc<Instance>>,
    calls: Calls,
    /// The leases of the last round that another owner has, by the numbers of their claims.
    contested: Mutex<HashSet<u64>>,
}

/// A value of a statement and its type.
type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Postgres {
    /// A registry whose store is, or will be, where `settings` say, for one run of a daemon. Does not wait for it:
    /// until it is reached, and whenever it is away, calls fail with [`BackendError::Unavailable`] or
    /// [`BackendError::Denied`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, where a task could not keep the connections.
    #[must_use]
    pub fn open(settings: Settings, instance: Arc<Instance>) -> Self {
        let settings = Arc::new(settings);
        let connection = Arc::new(Connection::open(Arc::clone(&settings)));
        let (instance, calls) = (RwLock::new(instance), Calls::default());
        Self { connection, settings, instance, calls, contested: Mutex::default() }
    }

    /// Whether the store tells changes, once that is known. Where it does not, it is asked each second.
    pub async fn listens(&self) -> bool {
        self.connection.listens().await
    }

    fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.instance.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn ttl(&self) -> i64 {
        millis(self.settings.lease_ttl)
    }

    /// Runs a function of the store, whose first argument is the cluster.
    async fn call<T>(
        &self,
        lane: Lane,
        function: &str,
        arguments: &[Parameter<'_>],
        read: impl Fn(&Row) -> T,
    ) -> Result<Vec<T>, Failure> {
        let cluster = self.settings.cluster.as_bytes();
        let mut parameters: Vec<Parameter<'_>> = vec![(&cluster, Type::BYTEA)];
        parameters.extend(arguments.iter().cloned());
        let places: Vec<_> = (1..=parameters.len()).map(|place| format!("${place}")).collect();
        let statement = format!("select * from repmd.{function}({})", places.join(", "));
        self.connection.run(lane, &statement, &parameters, read).await
    }

    /// Publishes leases of this run, none of which is there twice.
    async fn publish_some(
        &self,
        told: &Told,
        leases: &[&Lease],
    ) -> Result<HashMap<u64, String>, BackendError> {
        let column = |value: &dyn Fn(&Registration) -> i32| -> Vec<i32> {
            leases.iter().map(|lease| value(&lease.registration)).collect()
        };
        let names: Vec<_> =
            leases.iter().map(|lease| lease.registration.node.name.as_str().as_bytes()).collect();
        let numbers: Vec<_> = leases.iter().map(|lease| record::encode_number(lease.token.number)).collect();
        let marks: Vec<_> = leases.iter().map(|lease| record::mark_of(lease)).collect();
        let creations: Vec<_> = leases.iter().map(|lease| i64::from(lease.creation().get())).collect();
        let ports = column(&|it| it.node.port.into());
        let advertised_ports = column(&|it| it.advertised_port.into());
        let node_types = column(&|it| it.node.node_type.0.into());
        let protocols = column(&|it| it.node.protocol.into());
        let highest = column(&|it| it.node.highest_version.into());
        let lowest = column(&|it| it.node.lowest_version.into());
        let extras: Vec<_> = leases.iter().map(|lease| &*lease.registration.node.extra).collect();
        let times: Vec<_> =
            leases.iter().map(|lease| record::nanoseconds(lease.registration.registered_at)).collect();
        let ttl = self.ttl();
        let mut arguments = daemon(told, &ttl);
        arguments.extend::<[Parameter<'_>; 12]>([
            (&names, Type::BYTEA_ARRAY),
            (&numbers, Type::INT8_ARRAY),
            (&marks, Type::INT8_ARRAY),
            (&creations, Type::INT8_ARRAY),
            (&ports, Type::INT4_ARRAY),
            (&advertised_ports, Type::INT4_ARRAY),
            (&node_types, Type::INT4_ARRAY),
            (&protocols, Type::INT4_ARRAY),
            (&highest, Type::INT4_ARRAY),
            (&lowest, Type::INT4_ARRAY),
            (&extras, Type::BYTEA_ARRAY),
            (&times, Type::INT8_ARRAY),
        ]);
        let answer = self.call(Lane::Bulk, "publish", &arguments, read_taken).await;
        let answer = answer.map_err(|failure| {
            failure.when(|| match leases.len() {
                0 => "renew".to_owned(),
                names => format!("publish {names} names"),
            })
        })?;
        Ok(answer.into_iter().flatten().collect())
    }

    /// Writes what is absent or changed of these, and tells which of them another owner has.
    async fn publish_all(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        let instance = self.instance();
        let told = Told::of(&instance);
        // Of two leases of one name the later one counts.
        let mut latest: HashMap<&AliveName, &Lease> = HashMap::new();
        for lease in leases.iter().filter(|lease| lease.token.instance == instance.id) {
            let known = latest.entry(&lease.registration.node.name).or_insert(lease);
            if known.token.number < lease.token.number {
                *known = lease;
            }
        }
        let mut sent: Vec<_> = latest.values().copied().collect();
        // The same order in all calls.
        sent.sort_unstable_by_key(|lease| lease.token.number);
        let mut taken = HashMap::new();
        if sent.is_empty() {
            // It lets the daemon count as alive.
            self.publish_some(&told, &[]).await?;
        }
        for batch in sent.chunks(BATCH) {
            taken.extend(self.publish_some(&told, batch).await?);
        }
        let renewed = leases.iter().map(|lease| {
            let number = lease.token.number;
            let is_latest =
                latest.get(&lease.registration.node.name).is_some_and(|latest| latest.token == lease.token);
            let renewal = match taken.get(&number) {
                Some(holder) if is_latest => Renewal::Conflict { holder: holder.clone() },
                _ if is_latest => Renewal::Held,
                _ => Renewal::Conflict { holder: instance.name.clone() },
            };
            Renewed { lease: lease.clone(), renewal }
        });
        Ok(renewed.collect())
    }

    /// What the store has of this daemon but for what is in doubt, and the latest claim of all that it has.
    async fn held(&self, in_doubt: &HashSet<u64>) -> Result<(Option<Digest>, Option<i64>), BackendError> {
        let id = record::encode_id(self.instance().id);
        let without: Vec<_> = in_doubt.iter().copied().map(record::encode_number).collect();
        let arguments: [Parameter<'_>; 2] = [(&&id[..], Type::BYTEA), (&without, Type::INT8_ARRAY)];
        let read = |row: &Row| (Digest::read(row), row.try_get(2).ok().flatten());
        let answer = self.call(Lane::Bulk, "held", &arguments, read).await;
        let answer = answer.map_err(|failure| failure.when(|| "compare what is held".to_owned()))?;
        Ok(answer.into_iter().next().unwrap_or_default())
    }

    /// Sends all that is held, and ends whatever else the store had of this daemon, up to its claim `latest`.
    async fn restore(
        &self,
        leases: Vec<Lease>,
        latest: Option<i64>,
        round: &Round<'_>,
    ) -> Result<Vec<Renewed>, BackendError> {
        let (released, held): (Vec<_>, Vec<_>) =
            leases.into_iter().partition(|lease| round.is_released(lease.token.number));
        let sending = self.calls.make(held.iter().map(|lease| lease.token.number));
        let mut renewed = self.publish_all(&held).await?;
        if let Some(latest) = latest {
            let instance = self.instance();
            let id = record::encode_id(instance.id);
            // Those that were just sent are among them. What is claimed from now on is later than `latest`: this
            // statement may be late itself.
            let kept: Vec<_> = round.in_doubt().into_iter().map(record::encode_number).collect();
            let arguments: [Parameter<'_>; 4] = [
                (&&id[..], Type::BYTEA),
                (&instance.host.as_str(), Type::TEXT),
                (&kept, Type::INT8_ARRAY),
                (&latest, Type::INT8),
            ];
            let kept = self.call(Lane::Bulk, "keep", &arguments, |_| ()).await;
            kept.map_err(|failure| failure.when(|| "end what is not held".to_owned()))?;
        }
        drop(sending);
        self.note_contested(&renewed);
        renewed.extend(released.iter().map(held_still));
        Ok(renewed)
    }

    /// Remembers which leases another owner has.
    fn note_contested(&self, renewed: &[Renewed]) {
        let is_contested = |renewed: &&Renewed| matches!(renewed.renewal, Renewal::Conflict { .. });
        let contested =
            renewed.iter().filter(is_contested).map(|renewed| renewed.lease.token.number).collect();
        *self.contested.lock().unwrap_or_else(PoisonError::into_inner) = contested;
    }

    /// Tells the watchers that a name was registered or released. Whoever called does not wait for it, and what is told
    /// later is told after it.
    async fn tell(&self, sign: char, host: &HostId, name: &AliveName) {
        let (connection, cluster) = (Arc::clone(&self.connection), self.settings.cluster.clone());
        let change = watch::told(sign, host, name);
        let mut telling = Box::pin(async move {
            let (cluster, changes) = (cluster.as_bytes(), [change]);
            let parameters: [Parameter<'_>; 2] = [(&cluster, Type::BYTEA), (&&changes[..], Type::TEXT_ARRAY)];
            let told = connection.run(Lane::Bulk, "select repmd.tell($1, $2)", &parameters, |_| ());
            // A speed-up: others see the change within a second without it.
            let _ = timeout(SWEEP, told).await;
        });
        // It is sent by the first look at it.
        if poll!(&mut telling).is_pending() {
            tokio::spawn(telling);
        }
    }

    /// Clears away what has run out, beside all else.
    fn sweep(&self) {
        let (connection, cluster) = (Arc::clone(&self.connection), self.settings.cluster.clone());
        tokio::spawn(async move {
            let cluster = cluster.as_bytes();
            let parameters: [Parameter<'_>; 1] = [(&cluster, Type::BYTEA)];
            let swept = connection.run(Lane::Bulk, "select repmd.sweep($1)", &parameters, |_| ());
            // The next one does it.
            let _ = timeout(SWEEP, swept).await;
        });
    }
}

fn held_still(lease: &Lease) -> Renewed {
    Renewed { lease: lease.clone(), renewal: Renewal::Held }
}

/// What the functions are told of a daemon.
fn daemon<'a>(told: &'a Told, ttl: &'a i64) -> Vec<Parameter<'a>> {
    vec![
        (&told.id, Type::BYTEA),
        (&told.name, Type::BYTEA),
        (&told.host, Type::TEXT),
        (&told.aliases, Type::TEXT_ARRAY),
        (&told.addresses, Type::TEXT_ARRAY),
        (&told.port, Type::INT4),
        (ttl, Type::INT8),
    ]
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RegistryBackend for Postgres {
    fn promises(&self) -> Promises {
        Promises::leases(self.settings.lease_ttl)
    }

    fn update(&self, instance: Arc<Instance>) {
        *self.instance.write().unwrap_or_else(PoisonError::into_inner) = instance;
    }

    async fn register(&self, claim: &Claim) -> Result<Lease, BackendError> {
        let _call = self.calls.make([claim.number].into_iter());
        let instance = self.instance();
        let (told, ttl) = (Told::of(&instance), self.ttl());
        let node = &claim.node;
        let node_name = || NodeName { alive: node.name.clone(), host: instance.host.clone() };
        let name = node.name.as_str().as_bytes();
        let (number, mark) = (record::encode_number(claim.number), record::mark_of_claim(claim));
        let last = claim.last.map_or(0, |creation| i64::from(creation.get()));
        let numbers = [
            node.port.into(),
            claim.advertised_port.into(),
            node.node_type.0.into(),
            node.protocol.into(),
            node.highest_version.into(),
            node.lowest_version.into(),
        ];
        let (extra, time) = (&*node.extra, record::nanoseconds(claim.registered_at));
        let mut arguments = daemon(&told, &ttl);
        arguments.extend::<[Parameter<'_>; 4]>([
            (&name, Type::BYTEA),
            (&number, Type::INT8),
            (&mark, Type::INT8),
            (&last, Type::INT8),
        ]);
        arguments.extend(numbers.iter().map(|number: &i32| -> Parameter<'_> { (number, Type::INT4) }));
        arguments.extend::<[Parameter<'_>; 2]>([(&extra, Type::BYTEA), (&time, Type::INT8)]);
        let answer = self.call(Lane::Quick, "register", &arguments, read_granted).await;
        let answer = answer.map_err(|failure| failure.when(|| format!("register {}", node_name())))?;
        match answer.into_iter().next() {
            Some((_, Some(holder))) => Err(BackendError::NameTaken { name: node_name(), holder }),
            Some((Some(creation), None)) => {
                let creation = record::creation_of(creation).map_err(|unreadable| BackendError::Corrupt {
                    key: format!("repmd.names {}/{}", instance.host, node.name),
                    source: short(&unreadable).into(),
                })?;
                self.tell('+', &instance.host, &node.name).await;
                Ok(claim.granted(Arc::clone(&instance), creation))
            }
            _ => Err(BackendError::Corrupt {
                key: "repmd.register".to_owned(),
                source: "it answers neither a creation nor a holder".into(),
            }),
        }
    }

    async fn renew(&self, held: &mut Holdings<'_>) -> Result<Vec<Renewed>, BackendError> {
        let round = self.calls.round();
        let leases = held.take(usize::MAX);
        let instance = self.instance();
        let (told, ttl) = (Told::of(&instance), self.ttl());
        let read = |row: &Row| (Digest::read(row), row.try_get(2).unwrap_or(false));
        let answer = self.call(Lane::Bulk, "renew", &daemon(&told, &ttl), read).await;
        let answer = answer.map_err(|failure| {
            failure.when(|| format!("renew {} names of {}", leases.len(), instance.name))
        })?;
        let (known, is_time_to_sweep) = answer.into_iter().next().unwrap_or_default();
        if is_time_to_sweep {
            self.sweep();
        }
        // Those that another owner has are none that the store should have.
        let contested = self.contested.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (tried_again, held): (Vec<_>, Vec<_>) =
            leases.iter().cloned().partition(|lease| contested.contains(&lease.token.number));
        if known != Some(Digest::of(held.iter())) {
            let in_doubt = round.in_doubt();
            let (now, latest) = self.held(&in_doubt).await?;
            let certain = held.iter().filter(|lease| !in_doubt.contains(&lease.token.number));
            if known.is_none() || now != Some(Digest::of(certain)) {
                return self.restore(leases, latest, &round).await;
            }
        }
        let mut renewed: Vec<_> = held.iter().map(held_still).collect();
        if !tried_again.is_empty() {
            let again = self.publish_all(&tried_again).await?;
            self.note_contested(&again);
            renewed.extend(again);
        }
        Ok(renewed)
    }

    async fn publish(&self, leases: &[Lease]) -> Result<Vec<Renewed>, BackendError> {
        let _call = self.calls.make(leases.iter().map(|lease| lease.token.number));
        self.publish_all(leases).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), BackendError> {
        let _call = self.calls.release(lease.token.number);
        let Registration { node, instance, .. } = &*lease.registration;
        let id = record::encode_id(lease.token.instance);
        let (host, name) = (instance.host.as_str(), node.name.as_str().as_bytes());
        let number = record::encode_number(lease.token.number);
        let arguments: [Parameter<'_>; 4] =
            [(&&id[..], Type::BYTEA), (&host, Type::TEXT), (&name, Type::BYTEA), (&number, Type::INT8)];
        let ended =
            self.call(Lane::Quick, "release", &arguments, |row| row.try_get(0).unwrap_or(false)).await;
        let ended = ended
            .map_err(|failure| failure.when(|| format!("release {}", lease.registration.node_name())))?;
        if ended.contains(&true) {
            self.tell('-', &instance.host, &node.name).await;
        }
        Ok(())
    }

    async fn retire(&self) -> Result<(), BackendError> {
        let instance = self.instance();
        let id = record::encode_id(instance.id);
        let arguments: [Parameter<'_>; 1] = [(&&id[..], Type::BYTEA)];
        let retired = self.call(Lane::Quick, "retire", &arguments, |_| ()).await;
        retired.map_err(|failure| failure.when(|| format!("retire {}", instance.name)))?;
        Ok(())
    }

    async fn find(&self, search: &Search<'_>) -> Result<Seen<Found>, BackendError> {
        let Search { name, scope, near, most } = search;
        let (text, host, first) = (name.as_str().as_bytes(), host_of(scope), near.as_str());
        let limit = i64::try_from(*most).unwrap_or(i64::MAX).min(NAMES_MAX);
        let arguments: [Parameter<'_>; 4] =
            [(&text, Type::BYTEA), (&host, Type::TEXT), (&first, Type::TEXT), (&limit, Type::INT8)];
        let read = |row: &Row| read_found(row, self.settings.lease_ttl);
        let answer = self.call(Lane::Quick, "find", &arguments, read).await;
        let answer = answer.map_err(|failure| failure.when(|| format!("find {name}")))?;
        let mut seen = collected(answer);
        seen.items.retain(|found| {
            found.registration.node.name == **name && scope.covers(&found.registration.instance)
        });
        seen.items.truncate(*most);
        Ok(seen)
    }

    /// First the names, then who holds them, on the one connection: a daemon that is gone by then has run out.
    async fn list(&self, scope: &Scope) -> Result<Seen<Found>, BackendError> {
        let host = host_of(scope);
        let names: [Parameter<'_>; 2] = [(&host, Type::TEXT), (&NAMES_MAX, Type::INT8)];
        let daemons: [Parameter<'_>; 3] =
            [(&host, Type::TEXT), (&false, Type::BOOL), (&DAEMONS_MAX, Type::INT8)];
        let (names, daemons) = try_join(
            self.call(Lane::Bulk, "names_within", &names, read_registered),
            self.call(Lane::Bulk, "daemons_within", &daemons, read_daemon),
        )
        .await
        .map_err(|failure| failure.when(|| "list names".to_owned()))?;
        let daemons = collected(daemons);
        let known: HashMap<InstanceId, &Arc<Instance>> =
            daemons.items.iter().map(|instance| (instance.id, instance)).collect();
        let mut seen = daemons.clone().with(Vec::new());
        for name in names {
            match name {
                Err((place, unreadable)) => seen.add(|| place, Err(unreadable)),
                Ok(registered) => {
                    let Some(instance) = known.get(&registered.daemon) else { continue };
                    let place = format!("repmd.names {}", registered.host);
                    seen.add(|| place, registered.of(Arc::clone(instance), self.settings.lease_ttl));
                }
            }
        }
        seen.items.retain(|found| scope.covers(&found.registration.instance));
        Ok(seen)
    }

    async fn daemons(&self, scope: &Scope) -> Result<Seen<Arc<Instance>>, BackendError> {
        let host = host_of(scope);
        let arguments: [Parameter<'_>; 3] =
            [(&host, Type::TEXT), (&true, Type::BOOL), (&DAEMONS_MAX, Type::INT8)];
        let answer = self.call(Lane::Quick, "daemons_within", &arguments, read_daemon).await;
        let answer = answer.map_err(|failure| failure.when(|| "list daemons".to_owned()))?;
        let mut seen = collected(answer);
        seen.items.retain(|instance| scope.covers(instance));
        Ok(seen)
    }

    async fn leave_note(&self, note: &[u8]) -> Result<(), BackendError> {
        let instance = self.instance();
        let id = record::encode_id(instance.id);
        let lasts = millis(liveness(self.settings.lease_ttl));
        let arguments: [Parameter<'_>; 3] =
            [(&&id[..], Type::BYTEA), (&note, Type::BYTEA), (&lasts, Type::INT8)];
        let left = self.call(Lane::Bulk, "leave_note", &arguments, |_| ()).await;
        left.map_err(|failure| failure.when(|| format!("leave the note of {}", instance.name)))?;
        Ok(())
    }

    async fn notes(&self) -> Result<Seen<Note>, BackendError> {
        let most = NOTE_BYTES_MAX as i64;
        let arguments: [Parameter<'_>; 2] = [(&most, Type::INT8), (&DAEMONS_MAX, Type::INT8)];
        let answer = self.call(Lane::Bulk, "notes_of", &arguments, read_note).await;
        let answer = answer.map_err(|failure| failure.when(|| "read notes".to_owned()))?;
        Ok(collected(answer))
    }

    fn watch(&self) -> BoxStream<'static, Change> {
        Arc::clone(&self.connection).changes()
    }

    fn local_address(&self) -> Option<IpAddr> {
        self.connection.local_address()
    }
}

/// A row, or where it is and what is wrong with it.
type ReadRow<T> = Result<T, (String, Unreadable)>;

fn collected<T>(rows: Vec<ReadRow<T>>) -> Seen<T> {
    let mut seen = Seen::default();
    for row in rows {
        match row {
            Ok(item) => seen.items.push(item),
            Err((place, unreadable)) => seen.add(|| place, Err(unreadable)),
        }
    }
    seen
}

/// What `repmd.publish` answers: a claim whose name another owner has, and who that is.
fn read_taken(row: &Row) -> Option<(u64, String)> {
    let holder: &[u8] = row.try_get(1).unwrap_or_default();
    Some((record::decode_number(row.try_get(0).ok()?), record::decode_holder(holder)))
}

/// What `repmd.register` answers: a creation, or who holds the name.
fn read_granted(row: &Row) -> (Option<i64>, Option<String>) {
    let holder: Option<&[u8]> = row.try_get(2).ok().flatten();
    (row.try_get(1).ok().flatten(), holder.map(record::decode_holder))
}

fn read_found(row: &Row, ttl: Duration) -> ReadRow<Found> {
    let found = Registered::read(row)
        .and_then(|registered| registered.of(Arc::new(record::read_instance(row, 13)?), ttl));
    found.map_err(|unreadable| (record::place(row), unreadable))
}

fn read_registered(row: &Row) -> ReadRow<Registered> {
    Registered::read(row).map_err(|unreadable| (record::place(row), unreadable))
}

fn read_note(row: &Row) -> ReadRow<Note> {
    let note = record::id(row, 0).and_then(|instance| {
        let text: Option<&[u8]> = row.try_get(1).ok().flatten();
        let text = text.filter(|text| text.len() <= NOTE_BYTES_MAX);
        Ok(Note { instance, text: text.ok_or(Unreadable::Note)?.into() })
    });
    note.map_err(|unreadable| (record::place_of_daemon(row, 0), unreadable))
}

fn read_daemon(row: &Row) -> ReadRow<Arc<Instance>> {
    let instance = record::read_instance(row, 0).map(Arc::new);
    instance.map_err(|unreadable| (record::place_of_daemon(row, 0), unreadable))
}

/// The host that a scope is limited to.
fn host_of(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Host(host) => Some(host.as_str()),
        Scope::Cluster => None,
    }
}

/// Whole milliseconds, one at least.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}
