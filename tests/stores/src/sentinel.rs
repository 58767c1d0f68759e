//! A master and its replica, watched by three Sentinels.

use std::path::Path;

use redis::Value;
use repmd_test_support::{free_port, wait_until};

use crate::release::Release;
use crate::server::Server;
use crate::{MASTER, PATIENCE};

const SENTINELS: usize = 3;

/// The servers and the Sentinels.
pub(crate) fn start(release: Release, folder: &Path) -> (Vec<Server>, Vec<Server>) {
    let master = Server::start(release, folder, &[]);
    let port = master.port();
    let replica = Server::start(release, folder, &["--replicaof", "127.0.0.1", &port.to_string()]);
    wait_until("the replica has its master's data", PATIENCE, || {
        replica.query::<String>(&["INFO", "replication"]).contains("master_link_status:up")
    });
    let sentinels: Vec<_> = (0..SENTINELS)
        .map(|_| {
            let own = free_port();
            let settings = format!(
                "bind 127.0.0.1\nport {own}\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 3000\n",
                folder.display()
            );
            Server::start_sentinel(release, folder, own, &settings)
        })
        .collect();
    for sentinel in &sentinels {
        wait_until("the Sentinels know each other and the replica", PATIENCE, || {
            let master: Vec<Value> = sentinel.query(&["SENTINEL", "MASTER", MASTER]);
            let value = |name: &str| {
                let at = master.iter().position(|item| *item == Value::BulkString(name.into()));
                at.and_then(|at| redis::from_redis_value::<usize>(master[at + 1].clone()).ok())
            };
            value("num-slaves") == Some(1) && value("num-other-sentinels") == Some(SENTINELS - 1)
        });
    }
    (vec![master, replica], sentinels)
}

/// Where this Sentinel says the master is.
pub(crate) fn master_port(sentinel: &Server) -> u16 {
    let (_, port): (String, u16) = sentinel.query(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
    port
}
