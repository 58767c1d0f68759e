//! Daemons that share a PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::Instance;
use repmd_backend_postgres::{Postgres, Settings};
pub(crate) use repmd_test_stores::{CLUSTER, PATIENCE, TTL, host, in_time, name, scope, until, until_ok};
use repmd_test_stores::{Pair, Postgres as Server};

pub(crate) type Daemon = repmd_test_stores::Daemon<OnPostgres>;

/// The backend on its store.
#[derive(Debug)]
pub(crate) struct OnPostgres;

impl Pair for OnPostgres {
    type Backend = Postgres;
    type Store = Server;

    fn open(url: &str, cluster: &str, lease_ttl: Duration, instance: Arc<Instance>) -> Postgres {
        Postgres::open(Settings::from_url(url, cluster, lease_ttl).unwrap(), instance)
    }

    fn lose(server: &Server, cluster: &str) {
        let tables = ["daemons", "hosts", "notes", "clusters"];
        let lose = tables.map(|table| format!("delete from repmd.{table} where cluster = '{cluster}'"));
        server.run(&lose.join("; "));
    }
}

pub(crate) fn settings(url: &str, ttl: Duration) -> Settings {
    Settings::from_url(url, CLUSTER, ttl).unwrap()
}
