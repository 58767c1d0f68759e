//! Nodes of an earlier run that have not come back by themselves, as the daemon answers for them.

use std::sync::Arc;

use repmd_backend_api::{AliveName, Registration};

use super::daemon::Daemon;

impl Daemon {
    /// Answers for a node of an earlier run, and has others told of it. `false`: somebody has claimed the name.
    pub fn adopt(&self, registration: Arc<Registration>) -> bool {
        let mut table = self.table();
        let name = registration.node.name.clone();
        if table.is_taken(&name) {
            return false;
        }
        let number = table.next_claim();
        // With the table held, so that nobody claims the name in between.
        let lease = self.registry.adopt(number, registration);
        table.orphans().insert(name, lease);
        true
    }

    /// All that it answers for without a connection.
    #[must_use]
    pub fn orphans(&self) -> Vec<Arc<Registration>> {
        self.table().orphans().values().map(|lease| Arc::clone(&lease.registration)).collect()
    }

    /// How many those are.
    #[must_use]
    pub fn orphan_count(&self) -> usize {
        self.table().orphans().len()
    }

    /// Answers no longer for a node that has not come back.
    pub async fn give_up(&self, name: &AliveName) {
        let orphan = self.table().orphans().remove(name);
        if let Some(lease) = orphan {
            self.registry.release(&lease).await;
        }
    }

    /// Somebody has registered the name, and the store has it from them.
    pub(super) fn is_back(&self, name: &AliveName) {
        let orphan = self.table().orphans().remove(name);
        if let Some(lease) = orphan {
            self.registry.forget(&lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use repmd_backend_api::{Creation, HostId, Instance, Node};
    use repmd_backend_memory::Memory;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::registry::{Lookup, Options, Registry};
    use crate::server::{Limits, Policy, Topology};

    #[tokio::test]
    async fn an_orphan_takes_no_name_from_a_node_that_waits_for_the_registry() {
        let instance = Arc::new(Instance::new("a", HostId::parse("a").unwrap()));
        let options = Options {
            lookup: Lookup::Host,
            stale_for: None,
            deadline: Duration::from_millis(500),
            clock: Arc::new(|| Duration::from_secs(1_800_000_000)),
            probe: Arc::new(|_, _| Box::pin(async { true })),
        };
        let backend = Arc::new(Memory::new().attach(Arc::clone(&instance)));
        let registry = Arc::new(Registry::new(backend, Arc::clone(&instance), options));
        let (policy, limits) = (Policy::default(), Limits::for_descriptors(1024));
        let daemon = Daemon::new(registry, policy, Topology::default(), limits, CancellationToken::new());
        let orphan = |name: &str| {
            let node = Node::ordinary(AliveName::parse(name.as_bytes()).unwrap(), 1);
            let (instance, registered_at) = (Arc::clone(&instance), std::time::SystemTime::UNIX_EPOCH);
            let creation = Creation::FIRST;
            Arc::new(Registration { node, advertised_port: 1, creation, instance, registered_at })
        };

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _node = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = listener.accept().await.unwrap().0.into_std().unwrap();
        let socket = Arc::new(repmd_sys::watch_peer(socket.into()).unwrap());
        let claimed = orphan("claimed");
        daemon.table().claim(&claimed.node.name, &socket).unwrap();
        assert!(!daemon.adopt(claimed), "its node is about to be granted the name");
        assert!(daemon.adopt(orphan("free")));
        assert_eq!((daemon.orphan_count(), daemon.table().answer("claimed")), (1, None));
        assert!(daemon.table().answer("free").is_some() && daemon.table().find("free").is_none());
    }
}
