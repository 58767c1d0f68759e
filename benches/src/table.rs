//! The registry in memory alone, without sockets, up to a million names.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use repmd_backend_api::{Claim, HostId, Instance, InstanceId, RegistryBackend, Scope, Search};
use repmd_backend_memory::Memory;

use crate::load::{name, node};

/// Prints what one call costs at each size.
pub(crate) fn measure(sizes: &[usize]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    for size in sizes {
        runtime.block_on(row(*size));
    }
}

async fn row(size: usize) {
    let host = HostId::parse("bench").expect("it is a host name");
    let instance = Arc::new(Instance {
        id: InstanceId::random(),
        name: "bench".to_owned(),
        host: host.clone(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        port: 4369,
    });
    let claims: Vec<Claim> = (0..size)
        .map(|number| Claim {
            number: number as u64,
            node: node(&name(number, 12)),
            advertised_port: 25672,
            registered_at: SystemTime::UNIX_EPOCH,
            last: None,
        })
        .collect();
    let registry = Memory::new().attach(instance);
    let started = Instant::now();
    let mut leases = Vec::with_capacity(size);
    for claim in &claims {
        leases.push(registry.register(claim).await.expect("memory never fails"));
    }
    let register = started.elapsed();
    let scope = Scope::Host(host.clone());
    let started = Instant::now();
    for claim in &claims {
        let search = Search { name: &claim.node.name, scope: &scope, near: &host, most: 4 };
        let found = registry.find(&search).await.expect("memory never fails");
        assert_eq!(found.items.len(), 1);
    }
    let find = started.elapsed();
    let started = Instant::now();
    for lease in &leases {
        registry.release(lease).await.expect("memory never fails");
    }
    let release = started.elapsed();
    let each = |time: std::time::Duration| format!("{} ns", time.as_nanos() / size as u128);
    println!("| {size} | {} | {} | {} |", each(register), each(find), each(release));
}
