//! Every promise of the contract, against each arrangement of servers.

macro_rules! conformance_of {
    ($($module:ident: $kind:ident $release:ident;)*) => {
        $(
            mod $module {
                use std::time::Duration;

                use repmd_test_stores::{Etcd, EtcdKind, Registry, Release, Shared};

                use crate::daemon::OnEtcd;

                static STORE: Shared<Etcd> = Shared::new();

                async fn fresh(lease_ttl: Duration) -> Registry<OnEtcd> {
                    let start = || Etcd::start(EtcdKind::$kind, Release::$release, &[]);
                    Registry::fresh(&STORE, start, lease_ttl).await
                }

                repmd_backend_conformance::backend_conformance!(fresh);
            }
        )*
    };
}

conformance_of! {
    etcd: Alone InstalledEtcd;
    etcd_3_5: Alone Etcd35;
    tls: Tls InstalledEtcd;
    three: Three InstalledEtcd;
}
