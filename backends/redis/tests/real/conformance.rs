//! Every promise of the contract, against each arrangement of servers.

macro_rules! conformance_of {
    ($($module:ident: $kind:ident $release:ident;)*) => {
        $(
            mod $module {
                use std::time::Duration;

                use repmd_test_stores::{Kind, Registry, Release, Shared, Store};

                use crate::daemon::OnRedis;

                static STORE: Shared<Store> = Shared::new();

                async fn fresh(lease_ttl: Duration) -> Registry<OnRedis> {
                    Registry::fresh(&STORE, || Store::start(Kind::$kind, Release::$release), lease_ttl).await
                }

                repmd_backend_conformance::backend_conformance!(fresh);
            }
        )*
    };
}

conformance_of! {
    redis: Alone Installed;
    redis_6: Alone Redis6;
    redis_8: Alone Redis8;
    valkey_8: Alone Valkey8;
    tls: Tls Installed;
    cluster: Cluster Installed;
    sentinel: Sentinel Installed;
}
