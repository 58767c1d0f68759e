//! The reference registry as a fixture, with a wrapper around it and a clock that is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use repmd_backend_api::{Instance, RegistryBackend};
use repmd_backend_conformance::Fixture;
use repmd_backend_memory::Memory;

/// Makes a daemon's handle.
type Attach = Box<dyn Fn(&Memory, Arc<Instance>) -> Arc<dyn RegistryBackend>>;

pub(crate) struct InMemory {
    memory: Memory,
    attach: Attach,
    /// Nanoseconds since the Unix epoch.
    now: Arc<AtomicU64>,
}

impl InMemory {
    pub(crate) fn with_leases<B: RegistryBackend>(
        ttl: Duration,
        attach: impl Fn(&Memory, Arc<Instance>) -> B + 'static,
    ) -> Self {
        let now = Arc::new(AtomicU64::new(1_800_000_000_000_000_000));
        let clock = Arc::clone(&now);
        let clock = Arc::new(move || Duration::from_nanos(clock.load(Ordering::SeqCst)));
        let memory = Memory::with_leases(ttl, clock);
        Self { memory, attach: Box::new(move |memory, instance| Arc::new(attach(memory, instance))), now }
    }

    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn without_leases() -> Self {
        let attach: Attach = Box::new(|memory, instance| Arc::new(memory.attach(instance)));
        Self { memory: Memory::new(), attach, now: Arc::default() }
    }
}

impl Fixture for InMemory {
    async fn open(&self, instance: Arc<Instance>) -> Arc<dyn RegistryBackend> {
        (self.attach)(&self.memory, instance)
    }

    async fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).expect("no case waits for centuries");
        self.now.fetch_add(nanos, Ordering::SeqCst);
    }

    async fn lose_everything(&self) {
        self.memory.lose_everything();
    }
}
