//! The reference registry as a fixture, with a wrapper around it and a clock that is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use repmd_backend_api::RegistryBackend;
use repmd_backend_conformance::Fixture;
use repmd_backend_memory::Memory;

pub(crate) struct InMemory {
    memory: Memory,
    /// What daemons open.
    handle: Arc<dyn RegistryBackend>,
    /// Nanoseconds since the Unix epoch.
    now: Arc<AtomicU64>,
}

impl InMemory {
    pub(crate) fn with_leases<B: RegistryBackend>(ttl: Duration, wrap: impl FnOnce(Memory) -> B) -> Self {
        let now = Arc::new(AtomicU64::new(1_800_000_000_000_000_000));
        let clock = Arc::clone(&now);
        let clock = Arc::new(move || Duration::from_nanos(clock.load(Ordering::SeqCst)));
        let memory = Memory::with_leases(ttl, clock);
        Self { handle: Arc::new(wrap(memory.clone())), memory, now }
    }

    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn without_leases() -> Self {
        let memory = Memory::new();
        Self { handle: Arc::new(memory.clone()), memory, now: Arc::default() }
    }
}

impl Fixture for InMemory {
    async fn open(&self) -> Arc<dyn RegistryBackend> {
        Arc::clone(&self.handle)
    }

    async fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).expect("no case waits for centuries");
        self.now.fetch_add(nanos, Ordering::SeqCst);
    }

    async fn lose_everything(&self) {
        self.memory.lose_everything();
    }
}
