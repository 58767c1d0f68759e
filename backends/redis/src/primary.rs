//! Which server is the primary of our keys.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{AsyncConnectionConfig, ProtocolVersion, Value, cmd, from_redis_value};
use repmd_backend_remote::{Access, Address};
use tokio::time::timeout;

use crate::dial::{Entry, Line, dial};
use crate::error::Fault;
use crate::settings::{Settings, Topology};

/// How long one Sentinel or cluster server may take: the others are asked at the same time.
const ASK: Duration = Duration::from_millis(500);

/// Finds the primary, as often as it takes.
pub(crate) struct Finder {
    settings: Arc<Settings>,
    /// What every key starts with.
    prefix: String,
    /// The servers of the cluster when it was last asked: those in the URL may all be gone one day.
    learned: Vec<Address>,
}

/// What one server of a cluster knows of the slot of our keys.
type Slot = (Address, Vec<Address>);

impl Finder {
    pub(crate) fn new(settings: Arc<Settings>, prefix: String) -> Self {
        Self { settings, prefix, learned: Vec::new() }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The primary's address, as most of those say who can be asked: one that was cut off may still name
    /// the last one.
    pub(crate) async fn find(&mut self) -> Result<Address, Fault> {
        match &self.settings.topology {
            Topology::Alone(address) => Ok(address.clone()),
            Topology::Sentinel { sentinels, master, access } => {
                agreed(sentinels.iter().map(|sentinel| self.ask_sentinel(sentinel, access, master))).await
            }
            Topology::Cluster(seeds) => {
                let unseen = self.learned.iter().filter(|address| !seeds.contains(address));
                let asked = seeds.iter().chain(unseen);
                let (primary, servers) = agreed(asked.map(|server| self.ask_server(server))).await?;
                self.learned = servers;
                Ok(primary)
            }
        }
    }

    async fn ask_sentinel(
        &self,
        sentinel: &Address,
        access: &Access,
        master: &str,
    ) -> Result<Address, Fault> {
        let mut line = connect(sentinel, access).await?;
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(master);
        let answer: Option<(String, u16)> = question.query_async(&mut line.connection).await?;
        let (host, port) = answer.ok_or_else(|| Fault::NoPrimary {
            asked: format!("the Sentinel {sentinel}, asked for {master},"),
        })?;
        Ok(Address { host, port })
    }

    async fn ask_server(&self, server: &Address) -> Result<Slot, Fault> {
        let Line { connection, .. } = &mut connect(server, &self.settings.access).await?;
        let slot: u16 = cmd("CLUSTER").arg("KEYSLOT").arg(&self.prefix).query_async(connection).await?;
        let ranges: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query_async(connection).await?;
        let mut primary = None;
        let mut servers = Vec::new();
        for range in ranges {
            // First slot, last slot, then the primary and its replicas.
            let [first, last, nodes @ ..] = &range[..] else { continue };
            let covers = from_redis_value::<u16>(first.clone()).is_ok_and(|first| first <= slot)
                && from_redis_value::<u16>(last.clone()).is_ok_and(|last| slot <= last);
            let nodes: Vec<_> = nodes.iter().filter_map(|node| node_address(node, server)).collect();
            if covers {
                primary = nodes.first().cloned();
            }
            servers.extend(nodes);
        }
        servers.sort_unstable_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
        servers.dedup();
        match primary {
            Some(primary) => Ok((primary, servers)),
            None => Err(Fault::NoPrimary { asked: format!("the cluster's server {server}") }),
        }
    }
}

async fn connect(address: &Address, access: &Access) -> Result<Line, Fault> {
    let entry = Entry { access, database: 0, protocol: ProtocolVersion::RESP2 };
    dial(address, &entry, AsyncConnectionConfig::new()).await
}

/// A node as CLUSTER SLOTS writes it: host, port, and more.
fn node_address(node: &Value, asked: &Address) -> Option<Address> {
    let Value::Array(parts) = node else { return None };
    let [host, port, ..] = &parts[..] else { return None };
    let host: Option<String> = from_redis_value(host.clone()).ok()?;
    // A server that does not know its own address leaves it out.
    let host = host.filter(|host| !host.is_empty()).unwrap_or_else(|| asked.host.clone());
    Some(Address { host, port: from_redis_value(port.clone()).ok()? })
}

/// The answer of most, as soon as they are most of all. Without any answer, why: rather what stays than what
/// passes.
async fn agreed<A: Clone + Eq + Hash>(
    asked: impl Iterator<Item = impl Future<Output = Result<A, Fault>>>,
) -> Result<A, Fault> {
    let mut answers: FuturesUnordered<_> = asked.map(|question| timeout(ASK, question)).collect();
    let majority = answers.len() / 2 + 1;
    let mut votes = HashMap::new();
    let mut fault: Option<Fault> = None;
    while let Some(answer) = answers.next().await {
        match answer.unwrap_or(Err(Fault::Silent)) {
            Ok(answer) => {
                let count = votes.entry(answer.clone()).or_insert(0);
                *count += 1;
                if majority <= *count {
                    return Ok(answer);
                }
            }
            Err(error) => fault = fault.filter(Fault::stays).or(Some(error)),
        }
    }
    let most = votes.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(answer, _)| answer).ok_or_else(|| fault.unwrap_or(Fault::Silent))
}
