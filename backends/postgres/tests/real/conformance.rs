//! Every promise of the contract, against each arrangement of servers.

macro_rules! conformance_of {
    ($($module:ident: $start:ident;)*) => {
        $(
            mod $module {
                use std::time::Duration;

                use repmd_test_stores::{Postgres, Registry, Shared};

                use crate::daemon::OnPostgres;

                static SERVER: Shared<Postgres> = Shared::new();

                async fn fresh(lease_ttl: Duration) -> Registry<OnPostgres> {
                    Registry::fresh(&SERVER, Postgres::$start, lease_ttl).await
                }

                repmd_backend_conformance::backend_conformance!(fresh);
            }
        )*
    };
}

conformance_of! {
    alone: start;
    newer: start_17;
    tls: tls;
}
