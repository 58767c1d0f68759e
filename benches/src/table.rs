//! The registry in memory alone, without sockets, up to a million names.

use std::sync::Arc;
use std::time::Instant;

use repmd_backend_api::{AliveName, HostId, Instance, InstanceId, Node, NodeType, RegistryBackend, Scope};
use repmd_backend_memory::Memory;

use crate::load::name;

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
    });
    let nodes: Vec<Node> = (0..size)
        .map(|number| Node {
            name: AliveName::parse(name(number, 12).as_bytes()).expect("it is a name"),
            port: 25672,
            node_type: NodeType::NORMAL,
            protocol: 0,
            highest_version: 6,
            lowest_version: 5,
            extra: Box::default(),
        })
        .collect();
    let registry = Memory::new();
    let started = Instant::now();
    let mut leases = Vec::with_capacity(size);
    for node in &nodes {
        leases.push(registry.register(node, node.port, &instance).await.expect("memory never fails"));
    }
    let register = started.elapsed();
    let scope = Scope::Host(host);
    let started = Instant::now();
    for node in &nodes {
        let found = registry.find(&node.name, &scope).await.expect("memory never fails");
        assert_eq!(found.len(), 1);
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
