//! A wrapper that lets nothing fail keeps every promise of what it wraps.

mod in_memory;

use std::sync::Arc;
use std::time::Duration;

use in_memory::InMemory;
use repmd_backend_faulty::Faulty;

async fn fresh(lease_ttl: Duration) -> InMemory {
    InMemory::with_leases(lease_ttl, |memory, instance| Faulty::new(Arc::new(memory.attach(instance)), 0))
}

repmd_backend_conformance::backend_conformance!(fresh);
