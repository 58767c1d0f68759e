//! A Redis Cluster of three masters with a replica each.

use std::path::Path;

use repmd_test_support::{free_port, wait_until};

use crate::PATIENCE;
use crate::release::Release;
use crate::server::Server;

const MASTERS: usize = 3;

const SLOTS: usize = 16_384;

pub(crate) fn start(release: Release, folder: &Path) -> Vec<Server> {
    let started: Vec<_> = (0..2 * MASTERS).map(|index| start_server(release, folder, index)).collect();
    let (servers, buses): (Vec<Server>, Vec<u16>) = started.into_iter().unzip();
    for (index, server) in servers.iter().enumerate() {
        let _: redis::Value = server.query(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        if index < MASTERS {
            let slots = index * SLOTS / MASTERS..(index + 1) * SLOTS / MASTERS;
            let slots: Vec<_> = slots.map(|slot| slot.to_string()).collect();
            let slots = slots.iter().map(String::as_str);
            let command: Vec<_> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots).collect();
            let _: redis::Value = server.query(&command);
        }
        let (port, bus) = (servers[0].port().to_string(), buses[0].to_string());
        let _: redis::Value = server.query(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }
    for server in &servers {
        wait_until("all servers of the cluster know each other", PATIENCE, || {
            info(server).lines().any(|line| line == format!("cluster_known_nodes:{}", servers.len()))
        });
    }
    for (index, replica) in servers.iter().enumerate().skip(MASTERS) {
        let master: String = servers[index - MASTERS].query(&["CLUSTER", "MYID"]);
        wait_until("a replica knows its master", PATIENCE, || {
            replica.try_query::<redis::Value>(&["CLUSTER", "REPLICATE", &master]).is_ok()
        });
        wait_until("the replica has its master's data", PATIENCE, || {
            replica.query::<String>(&["INFO", "replication"]).contains("master_link_status:up")
        });
    }
    for server in &servers {
        wait_until("the cluster is whole", PATIENCE, || is_whole(server) && knows_all_replicas(server));
    }
    servers
}

fn start_server(release: Release, folder: &Path, index: usize) -> (Server, u16) {
    // By default 10,000 above the port, where clients' ports are.
    let bus = free_port();
    let options = format!(
        "--cluster-enabled yes --cluster-config-file nodes-{index}.conf --cluster-node-timeout 1000 \
         --cluster-port {bus}"
    );
    let options: Vec<_> = options.split(' ').collect();
    (Server::start(release, folder, &options), bus)
}

/// Whether this server sees all slots served.
pub(crate) fn is_whole(server: &Server) -> bool {
    info(server).lines().any(|line| line == "cluster_state:ok")
}

/// Whether the slot of `key` is this server's.
pub(crate) fn owns(server: &Server, key: &str) -> bool {
    // Any other server answers MOVED.
    server.try_query::<redis::Value>(&["EXISTS", key]).is_ok()
}

fn knows_all_replicas(server: &Server) -> bool {
    let nodes: String = server.query(&["CLUSTER", "NODES"]);
    nodes.lines().filter(|line| line.contains("slave ") && !line.contains(" - ")).count() == MASTERS
}

fn info(server: &Server) -> String {
    let info: String = server.query(&["CLUSTER", "INFO"]);
    info.replace('\r', "")
}
