//! How the store is, for people who look for faults.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use repmd_backend_api::{BackendError, Severity, StoreFinding, StoreReport};
use repmd_backend_remote::Address;
use tokio::time::timeout;

use crate::Etcd;
use crate::dial::dial;
use crate::error::Fault;
use crate::keys::Keys;
use crate::line::Line;
use crate::proto::{AlarmRequest, AlarmResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse};
use crate::settings::Settings;

/// People wait longer than nodes do.
const DEADLINE: Duration = Duration::from_secs(3);

/// How often a member is asked. The quickest counts: it is the network and the store, and not what else the machine
/// does.
const TRIES: usize = 5;

/// Alarms by which a store takes no more writes, or does not trust itself.
const NO_SPACE: i32 = 1;
const CORRUPT: i32 = 2;

/// More than this part of what a store may hold is nearly all of it.
const NEARLY_FULL: f64 = 0.8;

/// How one member is.
struct Member {
    latency: Duration,
    status: StatusResponse,
    alarms: Vec<i32>,
}

impl Etcd {
    /// Asks each member that `settings` name how it is, over connections for this alone.
    ///
    /// # Errors
    /// As [`repmd_backend_api::RegistryBackend::find`], when no member answers.
    pub async fn inspect(settings: &Settings) -> Result<StoreReport, BackendError> {
        let (asked_at, started) = (SystemTime::now(), Instant::now());
        let asked = settings.endpoints.iter().map(async |address| {
            timeout(DEADLINE, ask(address, settings)).await.unwrap_or(Err(Fault::Silent))
        });
        let answers = join_all(asked).await;
        let (mut members, mut findings, mut away) = (Vec::new(), Vec::new(), Vec::new());
        for (address, answer) in settings.endpoints.iter().zip(answers) {
            match answer {
                Ok(member) => members.push((address, member)),
                Err(fault) => away.push((address, fault)),
            }
        }
        let Some(latency) = members.iter().map(|(_, member)| member.latency).min() else {
            let fault = away.into_iter().map(|(_, fault)| fault).max_by_key(Fault::tells);
            return Err(fault.unwrap_or(Fault::Silent).when(started, || "be inspected".to_owned()));
        };
        for (address, fault) in away {
            findings.push(finding(
                Severity::Warning,
                "store-member-away",
                format!("{address} is of no use: {fault}"),
                "start this member again, or leave it out of the store's URL",
            ));
        }
        let mut fine = Vec::new();
        for (address, member) in &members {
            member.judge(address, &mut fine, &mut findings);
        }
        findings.dedup_by(|a, b| a.id == b.id && a.saw == b.saw);
        Ok(StoreReport { latency, clock: None, asked_at, fine, findings })
    }
}

async fn ask(address: &Address, settings: &Settings) -> Result<Member, Fault> {
    let line = dial(address, settings).await?;
    let key = Keys::new(&settings.cluster).epoch();
    let mut latency = Duration::MAX;
    for _ in 0..TRIES {
        let asked = Instant::now();
        let _: RangeResponse = line.unary("/etcdserverpb.KV/Range", RangeRequest::key(&key)).await?;
        latency = latency.min(asked.elapsed());
    }
    // Not every user may ask for these.
    let status =
        maintenance(&line, "/etcdserverpb.Maintenance/Status", StatusRequest {}).await?.unwrap_or_default();
    let alarms: Option<AlarmResponse> =
        maintenance(&line, "/etcdserverpb.Maintenance/Alarm", AlarmRequest {}).await?;
    let alarms = alarms.unwrap_or_default().alarms.into_iter().map(|alarm| alarm.alarm).collect();
    Ok(Member { latency, status, alarms })
}

async fn maintenance<Q, A>(line: &Line, path: &'static str, question: Q) -> Result<Option<A>, Fault>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    match line.unary(path, question).await {
        Ok(answer) => Ok(Some(answer)),
        Err(fault) if fault.stays() => Ok(None),
        Err(fault) => Err(fault),
    }
}

impl Member {
    fn judge(&self, address: &Address, fine: &mut Vec<String>, findings: &mut Vec<StoreFinding>) {
        let Self { status, alarms, .. } = self;
        if alarms.contains(&NO_SPACE) {
            findings.push(finding(
                Severity::Failure,
                "store-full",
                "the store is full, and takes no registrations (alarm NOSPACE)".to_owned(),
                "compact and defragment etcd or raise its --quota-backend-bytes, then disarm the alarm: etcdctl alarm disarm",
            ));
        }
        if alarms.contains(&CORRUPT) {
            findings.push(finding(
                Severity::Failure,
                "store-corrupt",
                "members of the store have different content (alarm CORRUPT)".to_owned(),
                "replace the member that is wrong, as etcd's documentation on data corruption says",
            ));
        }
        if status.version.is_empty() {
            fine.push(format!("{address} answers"));
            return;
        }
        let version: String = status.version.chars().filter(char::is_ascii_graphic).take(30).collect();
        let (used, size) = (mebibytes(status.db_size_in_use), mebibytes(status.db_size));
        if status.leader == 0 {
            findings.push(finding(
                Severity::Failure,
                "store-without-leader",
                format!("{address} knows no leader"),
                "start the other members: more than half of them must reach each other",
            ));
        }
        match status.db_size_quota {
            quota if 0 < quota && quota as f64 * NEARLY_FULL < status.db_size as f64 => {
                findings.push(finding(
                    Severity::Warning,
                    "store-nearly-full",
                    format!("{address} has {size} of the {} that it may have", mebibytes(quota)),
                    "compact and defragment etcd, or raise its --quota-backend-bytes",
                ));
            }
            _ => fine.push(format!("{address} is etcd {version}; {size} on disk, {used} of it in use")),
        }
    }
}

fn finding(severity: Severity, id: &'static str, saw: String, fix: &str) -> StoreFinding {
    StoreFinding { severity, id, saw, fix: fix.to_owned() }
}

fn mebibytes(bytes: i64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
