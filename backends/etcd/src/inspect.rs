//! How the store is, for people who look for faults.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use repmd_backend_api::{BackendError, Severity, StoreFinding, StoreReport, StoreTrouble};
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
const QUOTA_PART: f64 = 0.8;

const MEMBER_AWAY: StoreTrouble = StoreTrouble {
    id: "store-member-away",
    severity: Severity::Warning,
    fix: "start this member again, or leave it out of the store's URL",
};
const FULL: StoreTrouble = StoreTrouble {
    id: "store-full",
    severity: Severity::Failure,
    fix: "compact and defragment etcd or raise its --quota-backend-bytes, then disarm the alarm: etcdctl alarm disarm",
};
const NEARLY_FULL: StoreTrouble = StoreTrouble {
    id: "store-nearly-full",
    severity: Severity::Warning,
    fix: "compact and defragment etcd, or raise its --quota-backend-bytes",
};
const DIFFERENT: StoreTrouble = StoreTrouble {
    id: "store-corrupt",
    severity: Severity::Failure,
    fix: "replace the member that is wrong, as etcd's documentation on data corruption says",
};
const WITHOUT_LEADER: StoreTrouble = StoreTrouble {
    id: "store-without-leader",
    severity: Severity::Failure,
    fix: "start the other members: more than half of them must reach each other",
};

/// All that [`Etcd::inspect`] finds.
pub const TROUBLES: &[StoreTrouble] = &[MEMBER_AWAY, FULL, NEARLY_FULL, DIFFERENT, WITHOUT_LEADER];

/// How one member is.
pub(crate) struct Member {
    pub(crate) latency: Duration,
    pub(crate) status: StatusResponse,
    pub(crate) alarms: Vec<i32>,
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
            findings.push(MEMBER_AWAY.seen(format!("{address} is of no use: {fault}")));
        }
        // They are those of the whole store, and each member tells all.
        let is_raised = |alarm| members.iter().any(|(_, member)| member.alarms.contains(&alarm));
        if is_raised(NO_SPACE) {
            findings.push(FULL.seen("the store is full, and takes no registrations (alarm NOSPACE)"));
        }
        if is_raised(CORRUPT) {
            findings.push(DIFFERENT.seen("members of the store have different content (alarm CORRUPT)"));
        }
        let mut fine = Vec::new();
        for (address, member) in &members {
            member.judge(address, &mut fine, &mut findings);
        }
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
    pub(crate) fn judge(&self, address: &Address, fine: &mut Vec<String>, findings: &mut Vec<StoreFinding>) {
        let Self { status, .. } = self;
        if status.version.is_empty() {
            fine.push(format!("{address} answers"));
            return;
        }
        let version: String = status.version.chars().filter(char::is_ascii_graphic).take(30).collect();
        let (used, size) = (mebibytes(status.db_size_in_use), mebibytes(status.db_size));
        if status.leader == 0 {
            findings.push(WITHOUT_LEADER.seen(format!("{address} knows no leader")));
        }
        match status.db_size_quota {
            quota if 0 < quota && quota as f64 * QUOTA_PART < status.db_size as f64 => {
                let may = mebibytes(quota);
                findings
                    .push(NEARLY_FULL.seen(format!("{address} has {size} of the {may} that it may have")));
            }
            _ => fine.push(format!("{address} is etcd {version}; {size} on disk, {used} of it in use")),
        }
    }
}

fn mebibytes(bytes: i64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
