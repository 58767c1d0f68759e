//! Daemons that share a Redis.

use std::sync::Arc;
use std::time::Duration;

use repmd_backend_api::Instance;
use repmd_backend_redis::{Redis, Settings};
pub(crate) use repmd_test_stores::{
    CLUSTER, DEADLINE, PATIENCE, TTL, host, in_time, name, scope, until, until_ok,
};
use repmd_test_stores::{Pair, Store};

pub(crate) type Daemon = repmd_test_stores::Daemon<OnRedis>;

/// The backend on its store.
#[derive(Debug)]
pub(crate) struct OnRedis;

impl Pair for OnRedis {
    type Backend = Redis;
    type Store = Store;

    fn open(url: &str, cluster: &str, lease_ttl: Duration, instance: Arc<Instance>) -> Redis {
        Redis::open(Settings::from_url(url, cluster, lease_ttl).unwrap(), instance)
    }

    fn lose(store: &Store, cluster: &str) {
        let tag = format!("repmd:{{{cluster}}}:");
        let keys: Vec<String> = store.query(&tag, &["KEYS", &format!("{tag}*")]);
        let keys = keys.iter().map(String::as_str);
        let _: u64 = store.query(&tag, &["DEL", &tag].into_iter().chain(keys).collect::<Vec<_>>());
    }
}

/// The name of a key in the store.
pub(crate) fn key(rest: &str) -> String {
    format!("repmd:{{{CLUSTER}}}:{rest}")
}
