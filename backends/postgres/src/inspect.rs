//! How the store is, for people who look for faults.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use repmd_backend_api::{BackendError, Severity, StoreReport, StoreTrouble};
use tokio::time::timeout;
use tokio_postgres::Row;

use crate::connection::{Connection, Lane};
use crate::error::{Failure, Fault};
use crate::{Postgres, Settings};

/// People wait longer than nodes do.
const DEADLINE: Duration = Duration::from_secs(3);

/// How often the store is asked once the connection is there. The quickest counts: it is the network and the
/// store, and not what else the machine does.
const TRIES: usize = 5;

/// Connections that should be left: each daemon has two.
const LEFT_MIN: i64 = 10;

const CONNECTIONS: StoreTrouble = StoreTrouble {
    id: "store-connections",
    severity: Severity::Warning,
    fix: "each daemon needs two: raise max_connections, or put PgBouncer before the server",
};
const NO_FSYNC: StoreTrouble = StoreTrouble {
    id: "store-without-fsync",
    severity: Severity::Warning,
    fix: "set fsync = on; for speed, synchronous_commit = off is enough, and safe here",
};
const NO_LISTEN: StoreTrouble = StoreTrouble {
    id: "store-without-listen",
    severity: Severity::Warning,
    fix: "let daemons reach the server itself, or PgBouncer with pool_mode=session, if a second is too late",
};

/// All that [`Postgres::inspect`] finds.
pub const TROUBLES: &[StoreTrouble] = &[CONNECTIONS, NO_FSYNC, NO_LISTEN];

const LOOK: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";

const MORE: &str = "select current_setting('server_version'), current_setting('fsync') = 'on', \
    current_setting('synchronous_commit'), \
    current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint, \
    (select count(*) from pg_stat_activity where backend_type = 'client backend'), \
    (select version::bigint from repmd.schema limit 1), (select count(*) from repmd.daemons), \
    (select count(*) from repmd.names)";

/// What [`MORE`] answers.
struct More {
    release: String,
    has_fsync: bool,
    synchronous_commit: String,
    connections_max: i64,
    connections: i64,
    schema: i64,
    daemons: i64,
    names: i64,
}

impl Postgres {
    /// Asks the store that `settings` name how it is, over connections for this alone.
    ///
    /// # Errors
    /// As [`repmd_backend_api::RegistryBackend::find`].
    ///
    /// # Panics
    /// As [`Postgres::open`].
    pub async fn inspect(settings: Settings) -> Result<StoreReport, BackendError> {
        let connection = Connection::open(Arc::new(settings));
        let mut quickest: Option<(Duration, i64, SystemTime)> = None;
        // The first one also connects.
        for _ in 0..=TRIES {
            let (asked_at, started) = (SystemTime::now(), Instant::now());
            let clock = ask(&connection, LOOK, |row| row.try_get(0).unwrap_or_default()).await?;
            let latency = started.elapsed();
            if quickest.is_none_or(|(quickest, ..)| latency < quickest) {
                quickest = Some((latency, clock, asked_at));
            }
        }
        let (latency, clock, asked_at) = quickest.expect("it was asked more than once");
        let more = ask(&connection, MORE, |row| More::read(row).ok()).await?;
        let listens = timeout(DEADLINE, connection.listens()).await.unwrap_or(false);
        let mut report = StoreReport {
            latency,
            clock: Some(SystemTime::UNIX_EPOCH + Duration::from_micros(clock.try_into().unwrap_or_default())),
            asked_at,
            fine: Vec::new(),
            findings: Vec::new(),
        };
        if let Some(more) = &more {
            more.tell(&mut report);
        }
        if listens {
            report.fine.push("it tells changes as they happen".to_owned());
        } else {
            let saw = "the store does not tell changes: what one session notifies does not reach another that listens";
            report.findings.push(NO_LISTEN.seen(saw));
        }
        Ok(report)
    }
}

async fn ask<T>(
    connection: &Connection,
    statement: &str,
    read: impl Fn(&Row) -> T,
) -> Result<T, BackendError> {
    let answer = timeout(DEADLINE, connection.run(Lane::Quick, statement, &[], read)).await;
    let silent = |_| Err(Failure { fault: Fault::Silent, waited: DEADLINE, alone: true });
    let answer =
        answer.unwrap_or_else(silent).map_err(|failure| failure.when(|| "be inspected".to_owned()))?;
    answer.into_iter().next().ok_or_else(|| BackendError::Unavailable {
        waited: Duration::ZERO,
        source: "the store answers without a row".into(),
    })
}

/// What is said of a row that answers [`MORE`].
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn told_by(row: &Row) -> Option<StoreReport> {
    let mut report = StoreReport {
        latency: Duration::ZERO,
        clock: None,
        asked_at: SystemTime::UNIX_EPOCH,
        fine: Vec::new(),
        findings: Vec::new(),
    };
    More::read(row).ok()?.tell(&mut report);
    Some(report)
}

impl More {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            release: row.try_get(0)?,
            has_fsync: row.try_get(1)?,
            synchronous_commit: row.try_get(2)?,
            connections_max: row.try_get(3)?,
            connections: row.try_get(4)?,
            schema: row.try_get(5)?,
            daemons: row.try_get(6)?,
            names: row.try_get(7)?,
        })
    }

    fn tell(&self, report: &mut StoreReport) {
        let Self { release, has_fsync, synchronous_commit, connections_max, connections, .. } = self;
        report.fine.push(format!(
            "PostgreSQL {release}, schema version {}, {} names of {} daemons in all clusters",
            self.schema, self.names, self.daemons
        ));
        let used = format!("{connections} of {connections_max} connections are used");
        if connections_max.saturating_sub(*connections) < LEFT_MIN {
            report.findings.push(CONNECTIONS.seen(used));
        } else {
            report.fine.push(used);
        }
        if *has_fsync {
            report
                .fine
                .push(format!("it writes through to its disk, synchronous_commit is {synchronous_commit}"));
        } else {
            let saw = "fsync is off: the database may be damaged when its machine ends";
            report.findings.push(NO_FSYNC.seen(saw));
        }
    }
}
