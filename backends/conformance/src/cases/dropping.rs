//! A caller that waits no longer: its call is dropped half-way, and then made again.

use std::slice::from_ref;
use std::time::Duration;

use repmd_backend_api::{Renewal, Scope, Search};
use tokio::time::timeout;

use crate::Fixture;
use crate::daemon::{Daemon, alive, holdings};

/// How often a call is dropped, each time a little later.
const TRIES: u32 = 25;

/// A part of what a store on the same machine takes.
const STEP: Duration = Duration::from_micros(40);

pub async fn a_registration_that_was_dropped_can_be_made_again(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let mut leases = Vec::new();
    for number in 0..TRIES {
        let claim = daemon.claim(&format!("rabbit{number}"));
        let _ = timeout(STEP * number, daemon.backend.register(&claim)).await;
        let lease = daemon.backend.register(&claim).await.unwrap();
        assert_eq!(lease.token, claim.token(daemon.instance.id));
        leases.push(lease);
    }
    for lease in &leases {
        let found = daemon.found(lease.registration.node.name.as_str()).await;
        assert_eq!(found.as_ref(), Some(&lease.registration));
    }
    assert_eq!(daemon.renew(&leases).await, vec![Renewal::Held; leases.len()]);
    assert_eq!(daemon.listed(&Scope::Cluster).await.len(), leases.len());
}

pub async fn a_renewal_that_was_dropped_can_be_made_again(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let leases = [daemon.register("rabbit").await, daemon.register("hare").await];
    for number in 0..TRIES {
        fixture.lose_everything().await;
        let _ = timeout(STEP * number, daemon.backend.renew(&mut holdings(&leases))).await;
        assert_eq!(daemon.renew(&leases).await, [Renewal::Held, Renewal::Held]);
        assert_eq!(daemon.listed(&Scope::Cluster).await.len(), 2);
        fixture.lose_everything().await;
        let _ = timeout(STEP * number, daemon.backend.publish(&leases)).await;
        assert_eq!(daemon.publish(&leases).await, [Renewal::Held, Renewal::Held]);
        assert_eq!(daemon.listed(&Scope::Cluster).await.len(), 2);
    }
}

pub async fn a_release_that_was_dropped_can_be_made_again(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    for number in 0..TRIES {
        let lease = daemon.register("rabbit").await;
        let _ = timeout(STEP * number, daemon.backend.release(&lease)).await;
        daemon.release(&lease).await;
        assert_eq!(daemon.found("rabbit").await, None);
        let _ = timeout(STEP * number, daemon.backend.retire()).await;
        daemon.retire().await;
        assert_eq!(daemon.daemons(&Scope::Cluster).await, []);
    }
}

pub async fn a_question_that_was_dropped_can_be_asked_again(fixture: impl Fixture) {
    let daemon = Daemon::of(&fixture, "db-1").await;
    let lease = daemon.register("rabbit").await;
    for number in 0..TRIES {
        let waits = STEP * number;
        let (name, near) = (alive("rabbit"), &daemon.instance.host);
        let search = Search { name: &name, scope: &Scope::Cluster, near, most: 2 };
        let _ = timeout(waits, daemon.backend.find(&search)).await;
        assert_eq!(daemon.find("rabbit", &Scope::Cluster).await, from_ref(&lease.registration));
        let _ = timeout(waits, daemon.backend.list(&Scope::Cluster)).await;
        assert_eq!(daemon.list(&Scope::Cluster).await, from_ref(&lease.registration));
        let _ = timeout(waits, daemon.backend.daemons(&Scope::Cluster)).await;
        assert_eq!(daemon.daemons(&Scope::Cluster).await, from_ref(&daemon.instance));
    }
}
