//! The reference registry keeps every promise: with leases, and alone in its process.

mod in_memory;

use std::time::Duration;

use in_memory::InMemory;
use repmd_backend_memory::Memory;

mod leased {
    use super::*;

    async fn fresh(lease_ttl: Duration) -> InMemory {
        InMemory::with_leases(lease_ttl, Memory::attach)
    }

    repmd_backend_conformance::backend_conformance!(fresh);
}

mod alone {
    use super::*;

    async fn fresh(_: Duration) -> InMemory {
        InMemory::without_leases()
    }

    repmd_backend_conformance::backend_conformance!(without leases: fresh);
}
